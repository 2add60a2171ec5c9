"""Owns the list of all faults, by name."""

from chaos.fault import Fault
from chaos.kills import EVERYTHING as OF_SIGNALS

FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in OF_SIGNALS}
"""An injector is added by adding its module's list here."""
