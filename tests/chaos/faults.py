"""Owns the list of all faults, by name."""

from chaos import clock, disk, feeds, links, memory, syscalls, versions
from chaos.fault import Fault
from chaos.kills import EVERYTHING as OF_SIGNALS

_OTHERS = (syscalls, disk, links, memory, feeds, clock, versions)

FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in OF_SIGNALS} | {
    fault.name: fault for module in _OTHERS for fault in module.FAULTS
}
"""An injector is added by adding its module's list here."""
