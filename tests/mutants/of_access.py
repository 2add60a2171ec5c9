"""Owns the mutants of users, roles and TLS: P7, P10."""

from .mutant import Mutant

VALKEY = "tests/test_access_valkey.py"
POSTGRES = "tests/test_access_postgres.py"
TLS = "tests/test_tls.py"

MUTANTS = [
    Mutant(
        "P10",
        "every command of the scripts is allowed, and no other",
        "availability/access.py",
        '"+xlen", "+zadd", "+zrangebyscore"',
        '"+xlen", "+zrangebyscore"',
        (f"{VALKEY}::test_the_library_is_allowed_all_that_it_calls_and_that_alone",),
    ),
    Mutant(
        "P10",
        "a user of Valkey has the ledger's keys alone",
        "availability/access.py",
        '_DECIDING: Final = ("~{s*}:*", *',
        '_DECIDING: Final = ("~*", *',
        (f"{VALKEY}::test_each_user_has_the_ledgers_keys_alone",),
    ),
    Mutant(
        "P10",
        "the file for servers of your own says the same",
        "availability/access.py",
        'MONITOR: ("%R~{s*}:*", *',
        'MONITOR: ("%R~*", *',
        (f"{VALKEY}::test_the_file_for_servers_of_your_own_says_the_same",),
    ),
    Mutant(
        "P10",
        "who does not say who he is may do nothing",
        "availability/access.py",
        '    return [\n        "user default reset off",',
        '    return [\n        "user default on nopass ~* &* +@all",',
        (f"{VALKEY}::test_who_does_not_say_who_he_is_may_do_nothing",),
    ),
    Mutant(
        "P10",
        "a process waits for the library that it may not load",
        "ledger/library.py",
        "    except NoPermissionError as error:",
        "    except ZeroDivisionError as error:",
        (f"{VALKEY}::test_a_process_waits_for_the_library_that_it_may_not_load",),
    ),
    Mutant(
        "P7",
        "nobody changes an entry of the journal",
        "ledger/journal/roles.py",
        '    "update": (*_CURSORS, *_SEARCH, *_CHECKPOINTS),\n',
        '    "update": (*_CURSORS, *_SEARCH, *_CHECKPOINTS, "entry"),\n',
        (f"{POSTGRES}::test_the_journal_is_only_added_to",),
    ),
    Mutant(
        "P10",
        "no stranger comes into the database",
        "ledger/journal/roles.py",
        '        f"revoke all on database {database} from public",\n',
        "",
        (f"{POSTGRES}::test_no_role_is_more_than_a_role",),
    ),
    Mutant(
        "P10",
        "each role is granted its own at each migration",
        "ledger/journal/migrations.py",
        "            await grant(connection)",
        "            assert grant",
        (f"{POSTGRES}::test_a_role_that_came_later_is_granted_its_own_at_the_next_migration",),
    ),
    Mutant(
        "P10",
        "nobody hears the answers to others",
        "availability/access.py",
        '"subscribe": [f"_INBOX_{user}.>"]',
        '"subscribe": [f"_INBOX_{user}.>", "_INBOX.>"]',
        ("tests/test_access_nats.py::test_nobody_hears_the_answers_to_others",),
    ),
    Mutant(
        "P10",
        "NATS is not spoken to in plain text when TLS is asked for",
        "availability/feeds/connecting.py",
        '        if "tls" in self.options and not',
        '        if "TLS" in self.options and not',
        (f"{TLS}::test_nats",),
    ),
    Mutant(
        "P10",
        "the certificate of NATS is verified",
        "availability/feeds/connecting.py",
        'ssl.create_default_context(cafile=files.get("tls_ca"))',
        "ssl._create_unverified_context()",
        (f"{TLS}::test_nats",),
    ),
    Mutant(
        "P10",
        "that of Postgres too",
        "ledger/journal/postgres.py",
        "        ssl=_tls_of(postgres_url),\n        timeout=CONNECT_TIMEOUT_S,\n        command_timeout",
        '        ssl="prefer",\n        timeout=CONNECT_TIMEOUT_S,\n        command_timeout',
        (f"{TLS}::test_the_journal",),
    ),
    Mutant(
        "P10",
        "that of the issuer too",
        "availability/api/keyring.py",
        "ssl.create_default_context(cafile=ca_file or None)",
        "ssl._create_unverified_context()",
        (f"{TLS}::test_the_keys_of_tokens",),
    ),
    Mutant(
        "P10",
        "a mode of TLS that may fall back is refused",
        "availability/tls.py",
        '    if mode in {None, "disable", "verify-full"}:',
        '    if mode in {None, "disable", "allow", "verify-full"}:',
        (f"{TLS}::test_settings_that_could_fall_back_are_refused",),
    ),
]
