"""Owns what a fault is. An injector is a class of its own that breaks one thing once each time it is asked.

How to write one::

    class KillValkey(Fault):
        name = "kill-valkey"
        touches = ("valkey",)

        async def inject(self, stage: Stage) -> None:
            os.kill(stage.pid("valkey"), signal.SIGKILL)

and name it in ``chaos.faults.FAULTS``. The run does the rest: it chooses the moment, measures from the call of
``inject`` to the next acknowledged write and until all is ready again, and injects the next fault when both have come.
The load is never stopped for a fault.

Rules. All chance comes from ``stage.random``, so that a seed repeats the run's decisions. Whatever ``inject`` breaks
heals by itself, or is healed before it returns (SIGCONT, the proxy passes again, the space is freed): the run then
waits for ``/health/ready``. Only processes of the stage are touched, by their ids.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from chaos.stage import ROOT, Stage


@dataclass
class Plan:
    """How the next stage is started; a fault that needs more than signals changes it in ``prepared``.

    ``environment`` is added to that of ``availability up`` (a server of one's own: ``AVAILABILITY_REDIS_URL`` and so
    on; then ``pids`` tells its process). ``folder`` exists and is empty: it becomes ``--data-dir``, and a tmpfs can be
    mounted at ``folder / "valkey"``. ``port`` is where the API will listen, ``client_url`` where the shoppers ask: a
    proxy in front of the API changes it.
    """

    folder: Path
    port: int
    client_url: str
    environment: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=lambda: ["--workers", "2"])
    keyless: bool = False
    """Whether shoppers use a new key for each attempt, which P3 is not for."""
    source: Path = ROOT
    """Where ``availability`` and ``ledger`` are run from: a twin with a guard taken away is a copy of them."""


class Fault(ABC):
    """One way to break the stage. ``name`` is that of the option ``--faults`` and of the row in the table.

    ``touches`` names the processes that have to start again after it, which then have their rest: a child of ``up``
    that dies sooner than 10 s after its start waits longer each time. ``must_be_found`` says that a guard is taken away
    on purpose: a negative control, whose run has to be found wrong.
    """

    name: ClassVar[str]
    touches: ClassVar[tuple[str, ...]] = ()
    needs_own_stage: ClassVar[bool] = False
    """Whether ``prepared`` changes the plan: such a fault has a stage to itself."""
    must_be_found: ClassVar[bool] = False
    met: int | None = None
    """How many calls, answers or events of the service it met, if it can tell; else it met what was under way.

    A run in which all injections of a fault met nothing has tried nothing, and fails.
    """

    @classmethod
    def why_not(cls) -> str | None:
        """Why it cannot be injected on this machine, in words; None when it can."""
        return None

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:  # noqa: ARG002 - for those that need it
        """Around the life of the stage: before ``up`` is started, until after it has ended."""
        yield

    @abstractmethod
    async def inject(self, stage: Stage) -> None:
        """Break it, once; return when the fault itself is over, not when the service has recovered.

        Raises ``AssertionError`` or ``TimeoutError`` when what has to come of it did not.
        """
