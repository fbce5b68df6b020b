"""Asks all questions at all points, and writes each answer as it comes: resumable at every one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from langgraph_arbitrage.data.jsonl import JsonlFile
from langgraph_arbitrage.errors import AnswerTimeoutError, ContextLengthError, DataError
from langgraph_arbitrage.evaluation.answers_file import (
    ANSWERS,
    FORMAT,
    VERSION,
    Record,
    check_header,
    judge_identity,
)
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.dataset import Dataset, LeftOut, Task
from langgraph_arbitrage.evaluation.grading import Grader
from langgraph_arbitrage.evaluation.layout import Layout
from langgraph_arbitrage.evaluation.points import ASSISTED, Lineup, Point
from langgraph_arbitrage.evaluation.reply import Answerer, GraphAnswerer, answered
from langgraph_arbitrage.evaluation.step_scores import StepScores
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.runner import Runner
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.training.concurrency import map_concurrently

__all__ = ["Progress", "Sweep"]


@dataclass
class Progress:
    """How far a sweep is."""

    total: int = 0
    done: int = 0
    what: str = ""


@dataclass
class Sweep:
    """Questions, points, and the file that their answers go to.

    Used as a context: no other sweep can write the same file meanwhile.

    Args:
        dataset: The questions.
        lineup: Models and judges.
        config: How.
        kinds: The policies.
        explicit: Thresholds that were named, by policy.
        folder: Where the answers go.
        scorer: A PRM that scores the steps, outside of the time that is told; `checker` for the
            exact checker of embedded problems; None leaves scores and wasted escalations unknown.

    Raises:
        DataError: The folder holds the answers of another sweep.
    """

    dataset: Dataset
    lineup: Lineup
    config: EvaluateConfig
    kinds: Sequence[str]
    explicit: dict[str, list[float]]
    folder: Path
    scorer: StepScorer | Literal["checker"] | None = None
    tell: Callable[[Progress], None] = lambda progress: None
    points: list[Point] = field(default_factory=list, init=False)
    left_out: list[LeftOut] = field(default_factory=list, init=False)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = JsonlFile(self.folder / ANSWERS)
        self._journal.__enter__()
        self._done: set[tuple[str, str]] = set()
        self.resumed = 0
        self._progress = Progress()
        self._settings = self.lineup.settings.model_copy(
            update={"max_slots": self.config.concurrency}
        )
        self._models = Models(self._settings)
        self._grader: Grader | None = None
        self._scores = StepScores(self.scorer, self._models)
        self._answerers: dict[str, Answerer] = {}
        try:
            self._begin()
        except BaseException:
            self._journal.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(None, None, None)
        for answerer in self._answerers.values():
            answerer.close()
        self._models.close()
        if self._grader is not None:
            self._grader.close()

    # --- the file ------------------------------------------------------------------------

    @property
    def header(self) -> Record:
        """What tells this sweep from others: all that the answers depend on."""
        settings, lineup = self.lineup.settings, self.lineup
        names = ("dtype", "temperature", "top_p", "top_k", "seed", "max_tokens", "max_steps")
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset.name,
            "questions": len(self.dataset.tasks),
            "digest": self.dataset.digest,
            "draft": [public_name(settings.draft), self._models.identity("draft")["digest"]],
            "target": [public_name(settings.target), self._models.identity("target")["digest"]],
            "router": judge_identity(lineup.router),
            "prm": judge_identity(lineup.prm),
            "scored by": self.scored_by,
            "separator": list(settings.separator),
            **{name: getattr(settings, name) for name in names},
            "policies": list(self.kinds),
            "points": self.config.points,
            "pilot": self.config.pilot,
            "thresholds": self.explicit,
            "concurrency": self.config.concurrency,
        }

    @property
    def scored_by(self) -> str | None:
        """Who scored the steps."""
        if self.scorer is None or isinstance(self.scorer, str):
            return self.scorer
        return public_name(self.scorer.model)

    def _begin(self) -> None:
        """Read what is there; refuse what belongs to another sweep."""
        records = [entry.record for entry in self._journal.entries()]
        if records:
            check_header(records[0], self.header, self._journal.path)
        self._journal.repair()
        if not records:
            self._journal.append(self.header)
        for record in records[1:]:
            if "points" in record:
                self.points = [Point(**point) for point in record["points"]]
                self.left_out = [LeftOut(**one) for one in record["left_out"]]
            else:
                self._done.add((record["point"], record["question"]))
        self.resumed = len(self._done)

    def answers(self) -> list[Record]:
        """All answers so far."""
        return [e.record for e in self._journal.entries() if "question" in e.record]

    # --- asking --------------------------------------------------------------------------

    async def run(self) -> None:
        """Lay out the thresholds, then ask what has not been asked.

        Raises:
            CheckpointError: A model cannot be loaded.
            EngineError: A model fails.
        """
        workers = ThreadPoolExecutor(self.config.concurrency + 2)
        asyncio.get_running_loop().set_default_executor(workers)
        self._say("loading")
        await asyncio.to_thread(self._models.prepare, self.lineup.default("confidence"))
        if not self.points:
            await self._lay_out()
        tasks = self.tasks
        self._progress.total = len(tasks) * len(self.points)
        self._progress.done = self.resumed
        if self.resumed < self._progress.total:
            for point in self.points:
                await self._warmed(point, tasks[0])
        alone = self.config.concurrency == 1
        for number, block in enumerate([[task] for task in tasks] if alone else [tasks]):
            turn = number % len(self.points)
            for point in [*self.points[turn:], *self.points[:turn]]:
                await self._block(point, block)
            for task in block:
                self._scores.forget(task)

    @property
    def tasks(self) -> list[Task]:
        """The questions that all models can read."""
        out = {one.question for one in self.left_out}
        return [task for task in self.dataset.tasks if task.question not in out]

    async def _block(self, point: Point, tasks: Sequence[Task]) -> None:
        open_ = [task for task in tasks if (point.key, task.id) not in self._done]
        if not open_:
            return
        self._say(point.title)
        answerer = self._answerers[point.key]

        async def one(task: Task) -> None:
            if self.config.concurrency == 1:
                await asyncio.to_thread(answerer.warm_up)  # nothing is found of the policy before
            record = await self._record(point, answerer, task)
            self._journal.append(record)
            self._done.add((point.key, task.id))
            self._progress.done += 1
            self._say(point.title)

        await map_concurrently(open_, one, self.config.concurrency)

    async def _record(self, point: Point, answerer: Answerer, task: Task) -> Record:
        record: Record = {"point": point.key, "question": task.id}
        try:
            reply = await answered(answerer, task.prompt)
        except (AnswerTimeoutError, ContextLengthError) as error:
            return record | {"right": False, "error": str(error)}
        if self._grader is None and task.problem is None:
            self._grader = Grader(self.config.grading_limit)
        grade = await asyncio.to_thread(task.grade, reply.text, self._grader)
        await self._scores.add(task, reply)
        return record | {
            "right": grade == "right",
            "late": grade == "late",
            "seconds": round(reply.seconds, 5),
            "finish": reply.finish,
            "draft_tokens": reply.draft_tokens,
            "target_tokens": reply.target_tokens,
            "discarded_tokens": reply.discarded_tokens,
            "text": reply.text,
            "steps": reply.steps,
        }

    # --- points --------------------------------------------------------------------------

    async def _lay_out(self) -> None:
        """Find which questions can be read, and the thresholds, on the first of them."""
        layout = Layout(self.lineup, self.config, self.explicit, self._settings, self._say)
        for kind in self.kinds:
            if kind != ASSISTED:
                await asyncio.to_thread(self._models.scorer_engines, self.lineup.default(kind))
        self.left_out = await layout.left_out(self.dataset.tasks)
        if not self.tasks:
            raise DataError(
                f"no question of {self.dataset.name} fits the models: {self.left_out[0].reason}"
            )
        for kind in self.kinds:
            self.points += await layout.points(kind, self.tasks)
        self._journal.append(
            {
                "points": [vars(point) for point in self.points],
                "left_out": [vars(one) for one in self.left_out],
            }
        )

    async def _warmed(self, point: Point, task: Task) -> None:
        """The point's answerer, its models loaded and its code run once."""
        if point.kind == ASSISTED:
            from langgraph_arbitrage.evaluation.assisted import AssistedAnswerer

            made: Answerer = AssistedAnswerer(self._settings)
        else:
            made = GraphAnswerer(Runner(self._settings.under(self.lineup.policy(point))))
        self._say(f"loading {point.title}")
        await asyncio.to_thread(made.warm_up)
        await answered(made, task.prompt)
        self._answerers[point.key] = made

    def _say(self, what: str) -> None:
        self._progress.what = what
        self.tell(self._progress)
