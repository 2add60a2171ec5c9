"""Owns the mutants of backup and restore: P2, P8, P10."""

from .mutant import Mutant

BACKUP = "tests/test_backup.py"

MUTANTS = [
    Mutant(
        "P2",
        "a damaged file of a backup is refused",
        "availability/backup_folder.py",
        "if found.get(name) != manifest.files.get(name):",
        "if (name in found) != (name in manifest.files):",
        (f"{BACKUP}::test_a_damaged_one_is_refused",),
    ),
    Mutant(
        "P2",
        "so is one that is missing, or more",
        "availability/backup_folder.py",
        "for name in sorted(found.keys() | manifest.files.keys()):",
        "for name in sorted(found.keys() & manifest.files.keys()):",
        (f"{BACKUP}::test_a_damaged_one_is_refused",),
    ),
    Mutant(
        "P2",
        "a folder with something in it is left alone",
        "availability/backup_folder.py",
        " or any(target.iterdir())",
        "",
        (f"{BACKUP}::test_a_folder_with_something_in_it_is_refused",),
    ),
    Mutant(
        "P10",
        "only its owner may read a backup",
        "availability/backup_folder.py",
        "os.O_EXCL, 0o600)",
        "os.O_EXCL, 0o644)",
        (f"{BACKUP}::test_it_is_for_its_owners_eyes_alone",),
    ),
    Mutant(
        "P2",
        "a backup with less than it says is refused",
        "availability/backup_commands.py",
        "_order(at) < _order(wanted)",
        "_order(at) < (0, 0)",
        (f"{BACKUP}::test_one_with_less_than_it_says_is_refused",),
    ),
    Mutant(
        "P2",
        "and one of another number of shards",
        "availability/backup_commands.py",
        "(shards := len(manifest.ledger)) != settings.shards",
        "(shards := len(manifest.ledger)) < 0",
        (f"{BACKUP}::test_another_number_of_shards_is_refused",),
    ),
    Mutant(
        "P2",
        "files left behind by a rewrite are not copied",
        "availability/backup_servers.py",
        'if not line.endswith(b" type h")]',
        "]",
        (f"{BACKUP}::test_append_only_files_are_copied_as_their_manifest_names_them",),
    ),
    Mutant(
        "P8",
        "a stream that is there is not overwritten silently",
        "availability/feeds/stream_copy.py",
        "        _insist(name, begun)\n",
        "",
        (f"{BACKUP}::test_a_stream_comes_back_with_what_was_not_taken",),
    ),
    Mutant(
        "P8",
        "a copy of a stream has its end",
        "availability/feeds/stream_copy.py",
        "            content.write(message.data)\n",
        "            content.write(message.data[:9])\n",
        (f"{BACKUP}::test_a_stream_comes_back_with_what_was_not_taken",),
    ),
]
