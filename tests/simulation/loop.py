"""Owns simulated time: an event loop whose clock jumps to the next timer, and processes that can die in any step.

Nothing in it depends on the machine: the same callbacks run in the same order at the same simulated times, each time.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any

START_MS = 1_795_429_200_000
"""2026-11-23T10:20:00Z: what the simulated clocks show at first."""


class Process:
    """What lives and dies as one: its tasks run in its context, and not one step further once it is dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self._context = copy_context()
        self._context.run(_PROCESS.set, self)

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call something as this process."""
        return self._context.run(work, *arguments)

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task of this process."""
        return asyncio.get_running_loop().create_task(work, context=self._context.run(copy_context))

    def die(self) -> None:
        """As by kill -9."""
        self.alive = False


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what is ready in order; when nothing is, time goes on to the next timer at once."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        """What a callback raised: a bug, or a broken promise. It ends the run at once."""
        self.steps = 0
        self._now_s = 0.0
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_over = False
        self._due: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self.set_exception_handler(self._note_failure)
        self.set_task_factory(self._kept)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._now_s

    @property
    def now_ms(self) -> int:
        """What a clock shows."""
        return START_MS + int(self._now_s * 1_000)

    def call_soon(  # type: ignore[override]  # the stub wants TypeVarTuples
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._is_over:
            self._due.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def bury(self) -> None:
        """Forget the tasks of the dead, in peace: what their ``finally`` does has no effect any more."""
        self.run_until_complete(self._bury())
        self.close()

    async def _bury(self) -> None:
        self._is_over = True
        for task in self._tasks:
            coroutine = task.get_coro()
            if not task.done() and task is not asyncio.current_task():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it is as it should be
                with suppress(RuntimeError):  # one that awaits in its ``finally``
                    coroutine.close()
        self._is_over = False

    def _kept(self, _loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None) -> Any:
        """A task. It is kept: what is forgotten would run its ``finally``, which no dead process does."""
        task = asyncio.Task(work, loop=self, context=context)
        self._tasks.append(task)
        return task

    def _run_once(self) -> None:
        if not self._due:
            if not self._timers:
                raise AssertionError("everybody waits for something that will not come")
            self._now_s = max(self._now_s, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now_s:
            self._due.append(heapq.heappop(self._timers)[2])
        for _ in range(len(self._due)):
            handle = self._due.popleft()
            if not handle.cancelled() and _may_run(handle):
                self.steps += 1
                handle._run()  # noqa: SLF001 - this is its event loop
                if self.failures:
                    raise AssertionError(self.failures.pop())

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap until its time."""

    def _process_events(self, event_list: Any) -> None:
        """There are none: nothing here is connected to the world outside."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""

    def _note_failure(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What nobody waits for any more is no failure: who asked may be dead.
        if context["message"].startswith("Exception in callback"):
            self.failures.append(repr(context.get("exception")))


def _may_run(handle: asyncio.Handle) -> bool:
    process = handle._context.get(_PROCESS)  # type: ignore[attr-defined]  # noqa: SLF001 - likewise
    return process is None or process.alive
