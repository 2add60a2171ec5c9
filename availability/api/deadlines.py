"""A bound on how long tasks wait: one timer for all of them, because one for each costs more than most waits."""

import asyncio


class Deadlines:
    """Those of one event loop's tasks that wait now; whoever waits too long is cancelled."""

    def __init__(self) -> None:
        self._due_s: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> "asyncio.Task[object]":
        """The running task is cancelled in so many seconds unless it ends its wait before, by ``end``."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        due_s = loop.time() + seconds
        self._due_s[task] = due_s
        if self._timer is None or due_s < self._timer.when():
            self._look_at(due_s, loop)
        return task

    def end(self, task: "asyncio.Task[object]") -> bool:
        """Whether the task was cancelled for being late, and for nothing else."""
        self._due_s.pop(task, None)
        if task not in self._late:
            return False
        self._late.remove(task)
        return task.uncancel() == 0

    def _look_at(self, at_s: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now_s = loop.time()
        for task in [task for task, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[task]
            self._late.add(task)
            task.cancel()
        if self._due_s:
            self._look_at(min(self._due_s.values()), loop)
