"""Answer all questions at all points and append each answer to a file. A sweep is resumable."""

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
    checkpoint_identity,
)
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.dataset import Dataset, LeftOut, Task
from langgraph_arbitrage.evaluation.grading import Grader
from langgraph_arbitrage.evaluation.layout import Layout
from langgraph_arbitrage.evaluation.points import ASSISTED, Lineup, Point
from langgraph_arbitrage.evaluation.reply import Answerer, GraphAnswerer, answer_async
from langgraph_arbitrage.evaluation.step_scores import StepScores
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.runner import Runner
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.training.concurrency import map_concurrently

__all__ = ["Progress", "Sweep"]


@dataclass
class Progress:
    """Progress of a sweep."""

    total: int = 0
    """Total number of answers; 0 until the points are known."""
    done: int = 0
    """Number of finished answers."""
    tokens: int = 0
    """Number of tokens that draft and target have generated in this run."""
    what: str = ""
    """Description of the current activity."""


@dataclass
class Sweep:
    """Answers the questions of a dataset at all points and records the answers in a file.

    Use it as a context manager, which locks the file against other sweeps. An interrupted sweep
    resumes from the file.

    Args:
        dataset: The questions.
        lineup: Models, router and PRM.
        config: Options of the sweep.
        kinds: Policies to evaluate.
        explicit: Thresholds set by the user, by policy.
        folder: Output folder.
        scorer: PRM that scores the steps, outside of the measured time; `checker` for the exact
            checker of embedded problems. By default, the steps get no scores, so the share of
            wasted escalations is unknown.
        tell: Callback for the progress.

    Raises:
        DataError: The folder contains the answers of another sweep.
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
    draft_scores: list[dict[str, float | None]] = field(default_factory=list, init=False)
    """Scores of the draft's steps in the pilot, by policy."""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = JsonlFile(self.folder / ANSWERS)
        self._file.__enter__()
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
            self._file.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(None, None, None)
        for answerer in self._answerers.values():
            answerer.close()
        self._models.close()
        if self._grader is not None:
            self._grader.close()

    # --- the file ------------------------------------------------------------------------

    @property
    def header(self) -> Record:
        """First line of the answers file: everything that the answers depend on."""
        settings, lineup = self.lineup.settings, self.lineup
        names = (
            *("dtype", "generation_config", "temperature", "top_p", "top_k", "min_p", "seed"),
            *("max_tokens", "max_steps", "min_step_tokens", "max_step_tokens"),
        )
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset.name,
            "questions": len(self.dataset.tasks),
            "digest": self.dataset.digest,
            "draft": [public_name(settings.draft), self._models.identity("draft")["digest"]],
            "target": [public_name(settings.target), self._models.identity("target")["digest"]],
            "router": checkpoint_identity(lineup.router),
            "prm": checkpoint_identity(lineup.prm),
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
        """Name of the PRM that scores the steps, `checker`, or None."""
        if self.scorer is None or isinstance(self.scorer, str):
            return self.scorer
        return public_name(self.scorer.model)

    def _begin(self) -> None:
        """Load earlier answers of this sweep; raise if the file belongs to another sweep."""
        records = [entry.record for entry in self._file.entries()]
        if records:
            check_header(records[0], self.header, self._file.path)
        self._file.repair()
        if not records:
            self._file.append(self.header)
        for record in records[1:]:
            if "points" in record:
                self.points = [Point(**point) for point in record["points"]]
                self.left_out = [LeftOut(**question) for question in record["left_out"]]
                self.draft_scores = record["draft_scores"]
            else:
                self._done.add((record["point"], record["question"]))
        self.resumed = len(self._done)

    def answers(self) -> list[Record]:
        """Return the records of all answers so far."""
        return [e.record for e in self._file.entries() if "question" in e.record]

    # --- answering -----------------------------------------------------------------------

    async def run(self) -> None:
        """Choose the points, then answer the questions that have no answer yet.

        Raises:
            CheckpointError: A model cannot be loaded.
            EngineError: A model failed.
        """
        workers = ThreadPoolExecutor(self.config.concurrency + 2)
        asyncio.get_running_loop().set_default_executor(workers)
        self._report("loading")
        await asyncio.to_thread(self._models.prepare, self.lineup.default("confidence"))
        if not self.points:
            await self._choose_points()
        tasks = self.tasks
        self._progress.total = len(tasks) * len(self.points)
        self._progress.done = self.resumed
        if self.resumed < self._progress.total:
            for point in self.points:
                await self._load(point, tasks[0])
        # At concurrency 1, all points answer a question before the next question starts, and the
        # first point changes with each question. Noise of the machine then affects all points
        # equally.
        sequential = self.config.concurrency == 1
        for number, block in enumerate([[task] for task in tasks] if sequential else [tasks]):
            first = number % len(self.points)
            for point in [*self.points[first:], *self.points[:first]]:
                await self._answer_block(point, block)
            for task in block:
                self._scores.forget(task)

    @property
    def tasks(self) -> list[Task]:
        """The questions that fit into the context of all models."""
        excluded = {question.question for question in self.left_out}
        return [task for task in self.dataset.tasks if task.question not in excluded]

    async def _answer_block(self, point: Point, tasks: Sequence[Task]) -> None:
        pending = [task for task in tasks if (point.key, task.id) not in self._done]
        if not pending:
            return
        self._report(point.title)
        answerer = self._answerers[point.key]

        async def answer(task: Task) -> None:
            if self.config.concurrency == 1:
                # Clear the caches, so that no point reuses prefixes that another point cached.
                await asyncio.to_thread(answerer.warm_up)
            record = await self._answer_task(point, answerer, task)
            self._file.append(record)
            self._done.add((point.key, task.id))
            self._progress.done += 1
            self._report(point.title)

        await map_concurrently(pending, answer, self.config.concurrency)

    async def _answer_task(self, point: Point, answerer: Answerer, task: Task) -> Record:
        """Answer and grade a question. Return the record for the answers file."""
        record: Record = {"point": point.key, "question": task.id}
        try:
            reply = await answer_async(answerer, task.prompt)
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
            "accepted_draft_tokens": reply.accepted_draft_tokens,
            "computed_tokens": reply.computed_tokens,
            "text": reply.text,
            "steps": reply.steps,
        }

    # --- points --------------------------------------------------------------------------

    async def _choose_points(self) -> None:
        """Exclude the questions that do not fit the models, and choose the points."""
        layout = Layout(
            self.lineup,
            self.config,
            self.explicit,
            self._settings,
            self._report,
            self._token_counter(),
        )
        for kind in self.kinds:
            if kind != ASSISTED:
                await asyncio.to_thread(self._models.scorer_engines, self.lineup.default(kind))
        self.left_out = await layout.left_out(self.dataset.tasks)
        if not self.tasks:
            raise DataError(
                f"no question of {self.dataset.name} fits the context of the models: "
                f"{self.left_out[0].reason}"
            )
        self.draft_scores = await layout.draft_scores(self.kinds, self.tasks)
        for kind in self.kinds:
            self.points += layout.points(kind, self.draft_scores)
        self._file.append(
            {
                "points": [vars(point) for point in self.points],
                "left_out": [vars(question) for question in self.left_out],
                "draft_scores": self.draft_scores,
            }
        )

    async def _load(self, point: Point, task: Task) -> None:
        """Create the answerer of a point, load its models, and answer one question untimed."""
        if point.kind == ASSISTED:
            from langgraph_arbitrage.evaluation.assisted import AssistedAnswerer

            answerer: Answerer = AssistedAnswerer(self._settings)
        else:
            answerer = GraphAnswerer(
                Runner(self._settings.under(self.lineup.policy(point))), self._token_counter()
            )
        self._report(f"loading {point.title}")
        await asyncio.to_thread(answerer.warm_up)
        await answer_async(answerer, task.prompt)
        self._answerers[point.key] = answerer

    def _token_counter(self) -> Callable[[int], None]:
        """Return a function that other threads call with a number of generated tokens."""
        loop = asyncio.get_running_loop()

        def add(tokens: int) -> None:
            self._progress.tokens += tokens
            self.tell(self._progress)

        def count(tokens: int) -> None:
            loop.call_soon_threadsafe(add, tokens)

        return count

    def _report(self, what: str) -> None:
        self._progress.what = what
        self.tell(self._progress)
