"""The READMEs say what is so: the tour runs as it is written, each setting, command and limit is told, links lead."""

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from readme import OPERATING, ROOT, Step, dead_links, differences, section, steps
from running_up import start
from waiting import wait_until_plain

from availability.cli import main
from availability.settings import Settings

BLOCK_TIMEOUT_S = 30.0
END = "--- the block has ended with "
API = "API=http://127.0.0.1:8000\n"


class Shell:
    """One bash, into which blocks are pasted one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def paste(self, block: str) -> str:
        """What the block printed; fails when it did not end well, or not in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{block}\nprintf '\\n%s%d\\n' '{END}' $?\n")
        self._process.stdin.flush()
        late = threading.Timer(BLOCK_TIMEOUT_S, self._process.kill)
        late.start()
        printed = ""
        try:
            for line in self._process.stdout:
                if line.startswith(END):
                    assert line == f"{END}0\n", f"{block}\n{printed}"
                    return printed.strip("\n").replace("\r\n", "\n")
                printed += line
        finally:
            late.cancel()
        raise AssertionError(f"the shell ended in\n{block}\n{printed}")


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    argv = ["bash", "--noprofile", "--norc"]
    process = subprocess.Popen(
        argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        bash = Shell(process)
        if shutil.which("curl") is None:
            stand_in = Path(__file__).with_name("curl_stand_in.py")
            bash.paste(f'curl() {{ {shlex.quote(sys.executable)} {shlex.quote(str(stand_in))} "$@"; }}')
        yield bash


def test_the_tour_works_as_it_is_written(tmp_path: Path) -> None:
    """In a folder as after ``make up``, in one shell; the port is the only word of it that is replaced."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    tour = steps()
    assert {step.kind for step in tour} == {"json", "http", "text"}, "each command is followed by its answer"
    assert tour[0].commands.startswith(API)
    with start(tmp_path / ".availability", "--demo") as up, shell(tmp_path) as bash:
        up.wait_ready()
        bash.paste(f"API={up.url}\n" + tour[0].commands.removeprefix(API))
        wait_until_plain(lambda: bash.paste(tour[1].commands).find('"unknown"') < 0, 30)  # the demo has opened
        for step in tour[1:]:
            follow(bash, step)


def follow(bash: Shell, step: Step) -> None:
    """Paste a step and compare; what says that it may need a moment is pasted again until it agrees."""
    found: list[str] = []

    def agrees() -> bool:
        output = bash.paste(step.commands)
        found[:] = [*differences(step, output), f"it printed {output}"]
        return len(found) == 1

    if step.soon:
        wait_until_plain(agrees)
    else:
        assert agrees(), found


def test_a_wrong_answer_would_be_found() -> None:
    ready, *_ = steps()
    held = next(step for step in steps() if step.kind == "http")
    assert differences(ready, '{"status":"ready","more":1}') == []
    assert differences(ready, '{"status":"late"}') == ["answer.status is 'late', not 'ready'"]
    assert "HTTP/1.1 201 Created" in differences(held, "HTTP/1.1 200 OK\n\n{}")
    text = Step("", kind="text", answer="a  1\n…\nc")
    assert differences(text, "a 1\nb\nc") == []
    assert differences(text, "a 2\nb\nc") != []


def test_every_setting_is_told_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)` )?\|", section("Settings", OPERATING), re.MULTILINE)
    default = Settings()
    assert {name: str(getattr(default, name)) for name in Settings.__struct_fields__} == dict(rows)


def test_every_limit_has_a_test_and_its_settings_number() -> None:
    rows = [row.split(" | ") for row in section("Limits", OPERATING).splitlines() if row.startswith("| ")][1:]
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert len(rows) > 8
    for what, number, setting, _, test in rows:
        assert test.strip(" |") == "the same" or f"def {test.strip(' |`')}(" in tests, what
        assert setting == "fixed" or f"{getattr(Settings(), setting.strip('`')):,}" == number, what


def test_every_command_is_told() -> None:
    told = section("Deploy")
    for name, command in main.commands.items():
        assert command.hidden or f"`availability {name}`" in told, name
        if isinstance(command, click.Group):
            assert all(f"`{part}`" in told for part in command.commands), name


@pytest.mark.parametrize("promise", [f"P{number}" for number in range(1, 11)])
def test_every_promise_is_told_with_its_end(promise: str) -> None:
    assert f"\n| {promise} | " in section("What it promises")


def test_the_folders_of_the_map_are_there() -> None:
    folders = re.findall(r"`([a-z]+/[a-z/]*)`", section("Map"))
    assert len(folders) > 8
    assert [folder for folder in folders if not (Path(__file__).parent.parent / folder).is_dir()] == []


@pytest.mark.parametrize("name", ["README.md", "config/README.md", "ledger/README.md", "bench/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    assert dead_links(ROOT / name) == []


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What is it?\n[a](page.md#what-is-it) [b](#gone) [c](gone.md) [d](gone.md#x) [e](https://x.test/#y)"
    )
    assert dead_links(page) == ["#gone", "gone.md", "gone.md#x"]
