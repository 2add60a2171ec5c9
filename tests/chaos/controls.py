"""Owns the negative controls: a guard is taken away, and the run must be found wrong. Green would be the alarm."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final

from chaos import syscalls
from chaos.fault import Fault, Plan
from chaos.links import LostRepliesValkey
from chaos.stage import Stage
from chaos.variants import Edit, variant

EVERYSEC: Final = (
    Edit("availability/embedded.py", '"appendfsync": "always",', '"appendfsync": "everysec",'),
    Edit("ledger/server_check.py", '"appendfsync": ("always",', '"appendfsync": ("everysec",'),
)
RETRIES: Final = (
    # A call whose answer was lost is made again, as clients do by default ...
    Edit(
        "ledger/shard.py",
        '            return [Unknown("the ledger\'s answer was lost")] * len(operations)',
        "            await asyncio.sleep(0.05)\n            return await self._call(operations, function)",
    ),
    # ... and nobody looks whether it was done.
    Edit("ledger/lua/hold_row.lua", "if known[id] or changed[id] or #id ~= id_length", "if #id ~= id_length"),
    Edit("ledger/lua/hold.lua", "  if packed_records[op[ID]] or records[op[ID]] then", "  if not op[ID] then"),
    Edit("ledger/lua/operating.lua", "  if before then return before end\n", ""),
)


class _Variant(Fault):
    edits: ClassVar[tuple[Edit, ...]]
    needs_own_stage = True
    must_be_found = True

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        folder = Path(f"{plan.folder}-{self.name}")
        plan.source = await asyncio.to_thread(variant, folder, self.edits)
        async with super().prepared(plan):
            yield


class Everysec(_Variant):
    """``appendfsync everysec`` on a disk that is slow for seconds, and then kill -9: what was acknowledged is lost."""

    name = "twin-everysec"
    touches = ("valkey",)
    edits = EVERYSEC

    @classmethod
    def why_not(cls) -> str | None:
        return syscalls.why_not()

    async def inject(self, stage: Stage) -> None:
        pid, journal = stage.pid("valkey"), stage.pid("journal")
        # Otherwise the journal has what the ledger loses, which then is refused as behind its journal: another guard.
        os.kill(journal, signal.SIGSTOP)
        try:
            async with syscalls.injected([pid], syscalls.slow(6.0), stage.folder / "everysec.strace"):
                # The first fsync is under way by then, and what is acknowledged is only in the server's memory.
                await asyncio.sleep(stage.random.uniform(2.5, 3.5))
                os.kill(pid, signal.SIGKILL)
            await stage.wait_restarted("valkey", pid)
        finally:
            os.kill(journal, signal.SIGCONT)


class Retries(_Variant, LostRepliesValkey):
    """Lost answers are asked for again blindly: holds are done twice."""

    name = "twin-retries"
    edits = RETRIES


FAULTS: Final[list[type[Fault]]] = [Everysec, Retries]
