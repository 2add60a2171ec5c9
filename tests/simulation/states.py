"""Owns the list of rare states: a run of seeds that does not come to them proves nothing about them."""

from typing import Final

from simulation.chance import FAULTS

MUST_REACH: Final = (
    *FAULTS,
    "commit raced expiry",
    "too late by a hair",
    "duplicate in flight",
    "lost reply settled by its key",
    "committed with reacquire",
    "overcommitted",
    "superseded snapshot",
    "duplicate event",
    "replayed",
    "key of another request",
    "another client's reservation",
    "answer Busy",
    "answer JournalFull",
    "answer Unpinned",
    "answer UnfinishedList",
    "Hold OpenReservationsLimit",
    "Hold HeldUnitsLimit",
    "Hold Insufficient",
    "batch",
    "call of 100 operations",
    "claim of several shards dropped",
    "change of several shards by who took it over",
    "refused after a loss",
)
