"""Owns the last step before a child program runs: hold its folder's lock, leave root, die with the parent, exec.

Run as a file of its own (``python -I -S launch.py …``), because this has to happen in the child between fork and exec,
and because the child keeps its process id: what ``up`` sees is the server itself.
"""

import ctypes
import fcntl
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
CAPABILITY_VERSION_3 = 0x20080522
READ_ANY_FILE = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: a server that left root still reaches its folder below a 0700 parent."""


def command(
    argv: list[str], *, death_signal: signal.Signals, uid: int | None = None, lock: Path | None = None
) -> list[str]:
    """The command that runs ``argv`` as a child of this process, which gets ``death_signal`` when this process dies.

    With ``uid`` it leaves root for that user. With ``lock`` it waits until no other program that was started with the
    same lock file lives: two servers never write in one folder, not even when a parent was killed and started again.
    """
    return [
        *(sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal))),
        *("-" if uid is None else str(uid), "-" if lock is None else str(lock)),
        *argv,
    ]


def main(parent: str, death_signal: str, uid: str, lock: str, *argv: str) -> None:
    """Become ``argv``."""
    if lock != "-":
        _hold(lock)
    libc = ctypes.CDLL(None, use_errno=True)
    if uid != "-":
        _leave_root(libc, int(uid))
    # After the change of user, which clears it.
    libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        raise SystemExit("the parent died before its child began")
    os.execv(argv[0], argv)  # noqa: S606 - becoming another program is what this is for


def _hold(lock: str) -> None:
    """Wait for the lock and let the program inherit it: it ends with the last process that has it open."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _leave_root(libc: ctypes.CDLL, uid: int) -> None:
    """Change to ``uid``, keeping of root's powers only those to reach files, if this root has them at all."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice: the second three are bits 32 and up
    _must("capget", libc.capget(header, sets))
    kept = [capability for capability in READ_ANY_FILE if sets[1] & 1 << capability]
    _must("prctl", libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    bits = sum(1 << capability for capability in kept)
    _must("capset", libc.capset(header, (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)))
    for capability in kept:
        _must("prctl", libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def _must(name: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
