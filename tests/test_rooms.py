"""The import rooms of DESIGN 4, read off the syntax trees: who may know what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for room in ("ledger", "availability") for path in (ROOT / room).rglob("*.py"))

CLIENTS = {
    "redis": (
        "ledger/library.py",
        "ledger/keyspace.py",
        "ledger/link.py",
        "ledger/live.py",
        "ledger/placement.py",
        "ledger/valkey_checks.py",
        "ledger/replica.py",
        "ledger/shard.py",
        "ledger/journal/stream.py",
    ),
    "hiredis": ("ledger/link.py",),
    "asyncpg": ("ledger/journal/",),
    "nats": ("availability/feeds/", "availability/event_publisher.py"),
    "litestar": ("availability/api/", "availability/app.py"),
    "granian": ("availability/http_server.py",),
    "prometheus_client": ("availability/",),
}
"""Which files may import each client library."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(), name(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: imports are written out in full"
            assert node.module is not None
            yield node.module


def uses_environment(path: Path) -> bool:
    """Whether it asks for environment variables, in any of the ways there are."""
    asking = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(ast.parse(path.read_text(), name(path))):
        if isinstance(node, ast.Attribute) and node.attr in asking and ast.unparse(node.value) == "os":
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and asking & {alias.name for alias in node.names}:
            return True
    return False


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_ledger_knows_no_edge_and_the_edges_know_only_its_door(path: Path) -> None:
    for imported in imports(path):
        if name(path).startswith("ledger/"):
            assert imported.partition(".")[0] != "availability", f"{name(path)} imports {imported}"
        else:
            assert not imported.startswith("ledger."), f"{name(path)} goes past the door: {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_each_client_library_has_its_room(path: Path) -> None:
    for imported in imports(path):
        rooms = CLIENTS.get(imported.partition(".")[0])
        assert rooms is None or name(path).startswith(rooms), f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    assert uses_environment(path) == (name(path) == "availability/settings.py")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_each_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), name(path)


def test_nothing_connects_or_starts_at_import() -> None:
    """With sockets, processes and threads forbidden, every module can still be imported."""
    dotted = [name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in MODULES]
    program = f"""
import importlib, sys, threading
forbidden = {{"socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.fork"}}
def forbid(event, arguments):
    if event in forbidden:
        raise AssertionError(f"{{event}} at import")
def forbid_thread(thread):
    raise AssertionError(f"{{thread}} at import")
sys.addaudithook(forbid)
threading.Thread.start = forbid_thread
for module in {[module for module in dotted if not module.endswith("__main__")]!r}:
    importlib.import_module(module)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
