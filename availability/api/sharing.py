"""Looks that are the same: asked of the ledger once, told to everyone who asked before the ledger was.

Nobody is told anything older than his own request: an answer is shared as long as its question has not left for the
ledger. So whoever was answered a hold sees it in what he asks next.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from availability.api.answer import Answer
from ledger import Unavailable


class Turns(Protocol):
    """The ledger, as far as it tells when questions leave for it."""

    @property
    def turn(self) -> int: ...


class Looks:
    """What is asked now and has not left for the ledger, and who waits for it besides who asked it first."""

    def __init__(self, ledger: Turns) -> None:
        self._ledger = ledger
        self._turn = -1
        self._asked: dict[tuple[str, bytes], list[asyncio.Future[Answer]]] = {}

    def join(self, question: tuple[str, bytes]) -> "asyncio.Future[Answer] | None":
        """The answer to the same question of somebody else; None when it has to be asked, by ``ask``, at once."""
        turn = self._ledger.turn
        if turn != self._turn:
            self._turn, self._asked = turn, {}
        others = self._asked.get(question)
        if others is None:
            return None
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        others.append(answer)
        return answer

    async def ask(self, question: tuple[str, bytes], asking: Awaitable[Answer]) -> Answer:
        """Its answer, or its failure, which whoever has joined gets as well."""
        asked = self._asked
        others = asked[question] = list[asyncio.Future[Answer]]()
        try:
            answer = await asking
        except BaseException as error:
            failure = error if isinstance(error, Exception) else Unavailable("who asked it first has left")
            for other in others:
                if not other.done():
                    other.set_exception(failure)
            raise
        finally:
            asked.pop(question, None)
        for other in others:
            if not other.done():
                other.set_result(answer)
        return answer
