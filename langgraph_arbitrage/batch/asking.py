"""Asks many questions at a time; the fault of one is not the fault of the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch.question import Question
from langgraph_arbitrage.batch.result import answered, failed
from langgraph_arbitrage.errors import (
    ArbitrageError,
    CheckpointError,
    DataError,
    EngineBusyError,
    EngineClosedError,
    EngineError,
    NotEnoughMemoryError,
)
from langgraph_arbitrage.prompts.messages import read_messages

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["Asking"]

logger = logging.getLogger(__name__)

BUSY = 0.05  # seconds until a full queue is asked again
SICK = 8  # engine failures, beside two a running question, without one answer: nothing will come


class Asking:
    """The questions of one run on their way.

    Args:
        llm: Who answers.
        concurrency: Most questions at a time.
        write: Gets the line of each question that was asked.
    """

    def __init__(
        self, llm: ChatArbitrage, concurrency: int, write: Callable[[dict[str, Any]], None]
    ) -> None:
        self._llm = llm
        self._concurrency = concurrency
        self._write = write
        self._suspects: list[Question] = []
        self._failures = 0  # of the engine, since it last answered

    async def all(self, questions: Iterator[Question]) -> None:
        """Ask them, so many at a time.

        Raises:
            CheckpointError: A model cannot be loaded.
            EngineError: The models fail at every question.
        """
        await self._asked(questions, self._concurrency, alone=False)
        # What went down with a model that failed is not to blame, but for one of them.
        suspects, self._suspects = self._suspects, []
        await self._asked(iter(suspects), 1, alone=True)

    async def _asked(self, questions: Iterator[Question], concurrency: int, *, alone: bool) -> None:

        async def work() -> None:
            for question in questions:
                await self._ask(question, alone=alone)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _ask(self, question: Question, *, alone: bool) -> None:
        try:
            if question.fault is not None:
                raise DataError(question.fault)
            message = await self._answer(question)
        except (CheckpointError, EngineClosedError):
            raise  # it would be the same for every question
        except (EngineError, NotEnoughMemoryError) as error:
            self._failures += 1
            if self._failures >= SICK + 2 * self._concurrency:
                raise EngineError(
                    f"the models have failed {self._failures} times without one answer; the "
                    f"questions are left for another start. The last cause: {error}"
                ) from error
            if not alone:
                self._suspects.append(question)
                return
            record = failed(question, error)
        except ArbitrageError as error:
            record = failed(question, error)
        except Exception as error:  # of one line, whatever it is: the others are still asked
            logger.exception("line %d failed", question.number)
            record = failed(question, error)
        else:
            self._failures = 0
            record = answered(question, message)
        self._write(record)

    async def _answer(self, question: Question) -> Any:
        messages = read_messages(question.messages)
        while True:
            try:
                return await self._llm.ainvoke(messages, **question.options)
            except EngineBusyError:  # others use the same models: wait as they do
                await asyncio.sleep(BUSY)
