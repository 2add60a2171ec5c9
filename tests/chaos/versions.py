"""Owns the fault of a deployment: another version of the service beside this one, on the same ledger and port."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final

from availability.instance import settings_of
from availability.settings import Settings, environment_of_child
from chaos.fault import Fault, Plan
from chaos.stage import Stage
from chaos.variants import Edit, variant

ANOTHER_LIBRARY: Final = Edit(
    "ledger/lua/prelude.lua",
    "-- What every verb shares:",
    "-- Of another version, which has another library: what every verb shares:",
)


class OtherVersion(Fault):
    """A second API process, whose Lua library is another one, answers a share of the requests; then it ends."""

    name = "other-version"
    needs_own_stage = True
    source: ClassVar[Path]
    """Of all faults of the kind, which share a stage: one of them prepares it."""

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        folder = Path(f"{plan.folder}-other-version")
        type(self).source = await asyncio.to_thread(variant, folder, [ANOTHER_LIBRARY])
        yield

    async def inject(self, stage: Stage) -> None:
        settings = settings_of(stage.folder, Settings(api_port=int(stage.url("api").rpartition(":")[2])))
        log = stage.folder / "logs/other-version.log"
        with log.open("ab") as to:
            process = subprocess.Popen(  # noqa: ASYNC220 a fork is quick
                [sys.executable, "-m", "availability", "serve"],
                env=environment_of_child(settings),
                cwd=self.source,
                stdin=subprocess.DEVNULL,
                stdout=to,
                stderr=to,
            )
        try:
            await asyncio.sleep(stage.random.uniform(4.0, 6.0))
            assert process.poll() is None, f"the other version ended: {log.read_text()[-500:]}"
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)


FAULTS: Final[list[type[Fault]]] = [OtherVersion]
