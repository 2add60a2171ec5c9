"""Owns the list of all faults, by name."""

from chaos import clock, controls, disk, feeds, links, memory, syscalls, versions
from chaos.fault import Fault
from chaos.kills import EVERYTHING as OF_SIGNALS
from chaos.twins import EVERYTHING as TWINS

_OTHERS = (syscalls, disk, links, memory, feeds, clock, versions, controls)

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault for faults in (OF_SIGNALS, *(module.FAULTS for module in _OTHERS), TWINS) for fault in faults
}
"""An injector is added by adding its module's list here."""
