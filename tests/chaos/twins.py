"""Owns the twins: services and shoppers with one guard taken away, whose runs have to be found wrong.

A checker that never found anything is no evidence.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from chaos.fault import Fault, Plan
from chaos.kills import KillBeforeReply
from chaos.stage import ROOT


class RetryWithoutKeys(KillBeforeReply):
    """Shoppers who try again with a new key buy twice."""

    name = "twin-retry-without-keys"
    must_be_found = True
    needs_own_stage = True

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        plan.keyless = True
        yield


class Mutated(KillBeforeReply):
    """Runs a copy of the service in which ``sane`` in ``file`` is ``mutated``."""

    must_be_found = True
    needs_own_stage = True
    file: ClassVar[str]
    sane: ClassVar[str]
    mutated: ClassVar[str]

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        plan.source = plan.folder.with_name("source")
        for room in ("availability", "ledger"):
            shutil.copytree(ROOT / room, plan.source / room, ignore=shutil.ignore_patterns("__pycache__"))
        file = plan.source / self.file
        text = file.read_text()
        assert text.count(self.sane) == 1, f"{self.file} has {self.sane!r} {text.count(self.sane)} times"
        file.write_text(text.replace(self.sane, self.mutated))
        yield


class ForgetfulApi(Mutated):
    """An API that does not know a key again."""

    name = "twin-forgetful-api"
    file = "availability/api/checkout.py"
    sane = "id=operation_id(client, key),"
    mutated = "id=operation_id(client, f\"{key} {__import__('time').time_ns()}\"),"


class DroppedEntry(Mutated):
    """A journal that drops an entry now and then."""

    name = "twin-dropped-entry"
    file = "ledger/journal/writer.py"
    sane = "for entry in entries[len(known) :]:"
    mutated = "for entry in [one for one in entries[len(known) :] if one.place.seq % 97]:"


class GenerousLedger(Mutated):
    """A ledger that holds a unit more than there is."""

    name = "twin-generous-ledger"
    file = "ledger/lua/hold_row.lua"
    sane = "= available(position), 0, #row[first]"
    mutated = "= available(position) + 1, 0, #row[first]"


EVERYTHING: list[type[Fault]] = [RetryWithoutKeys, ForgetfulApi, DroppedEntry, GenerousLedger]
