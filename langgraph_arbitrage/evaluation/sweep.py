"""Asks all questions at all points, and writes each answer as it comes: resumable at every one."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from langgraph_arbitrage.errors import (
    AnswerTimeoutError,
    ContextLengthError,
    DataError,
)
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.dataset import Dataset, LeftOut, Task
from langgraph_arbitrage.evaluation.grading import Grader
from langgraph_arbitrage.evaluation.points import (
    ACCEPTS_ALL,
    ASSISTED,
    KINDS,
    Lineup,
    Point,
    laid_out,
    rates,
)
from langgraph_arbitrage.evaluation.reply import Answerer, GraphAnswerer, Reply
from langgraph_arbitrage.journal import Journal
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.names import local_path, public_name
from langgraph_arbitrage.nodes import CancelScope
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.team import Team
from langgraph_arbitrage.training.many import many
from langgraph_arbitrage.training.questions import Question
from langgraph_arbitrage.training.verdict import CheckerVerdict, Context, ScorerVerdict, Verdict

__all__ = ["ANSWERS", "Record", "Sweep"]

ANSWERS = "answers.jsonl"
FORMAT, VERSION = "langgraph_arbitrage answers", 1

Record = dict[str, Any]
"""An answer at a point, as its line has it."""


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
        self._journal = Journal(self.folder / ANSWERS)
        self._journal.__enter__()
        self._done: set[tuple[str, str]] = set()
        self.resumed = 0
        self._progress = Progress()
        self._settings = self.lineup.settings.model_copy(
            update={"max_slots": self.config.concurrency}
        )
        self._models = Models(self._settings)
        self._grader: Grader | None = None
        self._verdicts: dict[tuple[str, bool], Verdict] = {}
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
            "router": _identity(lineup.router),
            "prm": _identity(lineup.prm),
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
            _check_header(records[0], self.header, self._journal.path)
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
                for by_target in (False, True):
                    self._verdicts.pop((task.id, by_target), None)

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
                await asyncio.to_thread(answerer.greet)  # nothing is found of the policy before
            record = await self._record(point, answerer, task)
            self._journal.append(record)
            self._done.add((point.key, task.id))
            self._progress.done += 1
            self._say(point.title)

        await many(open_, one, self.config.concurrency)

    async def _record(self, point: Point, answerer: Answerer, task: Task) -> Record:
        record: Record = {"point": point.key, "question": task.id}
        try:
            reply = await _answered(answerer, task.prompt)
        except (AnswerTimeoutError, ContextLengthError) as error:
            return record | {"right": False, "error": str(error)}
        if self._grader is None and task.problem is None:
            self._grader = Grader(self.config.grading_limit)
        grade = await asyncio.to_thread(task.grade, reply.text, self._grader)
        await self._score(task, reply)
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

    # --- scores --------------------------------------------------------------------------

    async def _score(self, task: Task, reply: Reply) -> None:
        """Have the PRM score both steps, as far as both are known."""
        drafted = any(row["writer"] == "draft" or row["draft"] for row in reply.steps)
        # A scorer takes the first step that it hears of in a context for the draft's.
        verdict = self._verdict(task, by_target=not drafted)
        if verdict is None:
            return
        context = Context()
        for row in reply.steps:
            by_target = row["writer"] != "draft"
            draft = row["draft"] if by_target else row["text"]
            if draft is not None:
                row["s_d"] = round(await verdict.value(context, draft), 4)
            if by_target:
                row["s_t"] = round(await verdict.value(context, row["text"]), 4)
            context = Context((*context.texts, row["text"]), (*context.tags, int(by_target)))

    def _verdict(self, task: Task, *, by_target: bool) -> Verdict | None:
        key = task.id, by_target
        if self.scorer is not None and key not in self._verdicts:
            if isinstance(self.scorer, str):
                self._verdicts[key] = CheckerVerdict(Question(task.question, problem=task.problem))
            else:
                self._verdicts[key] = ScorerVerdict(task.prompt, self._models, self.scorer)
        return self._verdicts.get(key)

    # --- points --------------------------------------------------------------------------

    async def _lay_out(self) -> None:
        """Find which questions can be read, and the thresholds, on the first of them."""
        for kind in self.kinds:
            if kind != ASSISTED:
                await asyncio.to_thread(self._models.meet, self.lineup.default(kind))
        team = Team(self._settings.under(self.lineup.default("confidence")))
        for task in self.dataset.tasks:
            try:
                await asyncio.to_thread(team.check, task.prompt)
            except ContextLengthError as error:
                self.left_out.append(LeftOut(task.question, task.reference, str(error)))
        team.close()
        if not self.tasks:
            raise DataError(
                f"no question of {self.dataset.name} fits the models: {self.left_out[0].reason}"
            )
        for kind in self.kinds:
            self.points += await self._points(kind)
        self._journal.append(
            {
                "points": [vars(point) for point in self.points],
                "left_out": [vars(one) for one in self.left_out],
            }
        )

    async def _points(self, kind: str) -> Iterable[Point]:
        default = None if kind == ASSISTED else self.lineup.threshold(kind)
        if default is None:
            return [Point(kind)]
        if kind in self.explicit:
            found = self.explicit[kind]
            for threshold in found:
                _ = self.lineup.policy(Point(kind, threshold))  # outside its range it fails here
        elif kind == "random":
            found = [round(rate, 3) for rate in rates(self.config.points)]
            return [Point(kind, rate) for rate in found]  # no rate is a default that one would use
        else:
            found = await self._piloted(kind)
        default = float(f"{default:.6g}")
        every = sorted({*found, default} if kind not in self.explicit else {*found})
        return [Point(kind, threshold, threshold == default) for threshold in every]

    async def _piloted(self, kind: str) -> list[float]:
        policy = self.lineup.default(kind)
        self._say(f"laying out {KINDS[kind].title}")
        answerer = GraphAnswerer(
            Team(self._settings.under(policy.with_threshold(ACCEPTS_ALL[kind])))
        )
        pilot = self.tasks[: self.config.pilot]

        async def one(task: Task) -> Reply:
            return await _answered(answerer, task.prompt)

        replies = await many(pilot, one, self.config.concurrency)
        scores = [row["score"] for reply in replies for row in reply.steps]
        answerer.close()
        known = [score for score in scores if score is not None]
        return laid_out(policy, known, self.config.points) if known else []

    async def _warmed(self, point: Point, task: Task) -> None:
        """The point's answerer, its models loaded and its code run once."""
        if point.kind == ASSISTED:
            from langgraph_arbitrage.evaluation.assisted import AssistedAnswerer

            made: Answerer = AssistedAnswerer(self._settings)
        else:
            made = GraphAnswerer(Team(self._settings.under(self.lineup.policy(point))))
        self._say(f"loading {point.title}")
        await asyncio.to_thread(made.greet)
        await _answered(made, task.prompt)
        self._answerers[point.key] = made

    def _say(self, what: str) -> None:
        self._progress.what = what
        self.tell(self._progress)


async def _answered(answerer: Answerer, prompt: str) -> Reply:
    """An answer on another thread; whoever cancels the task stops the models."""
    scope = CancelScope()
    try:
        return await asyncio.to_thread(answerer.answer, prompt, scope)
    except asyncio.CancelledError:
        scope.cancel()
        raise


def _identity(judge: str | None) -> list[str] | None:
    """A judge's name, and a digest of its files where they are here: it may be trained again."""
    if judge is None:
        return None
    folder = Path(local_path(judge))
    if not folder.is_dir():
        return [public_name(judge)]
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as data:
            digest.update(data.read(1 << 20))
    return [public_name(str(folder)), digest.hexdigest()]


def _check_header(there: Any, wanted: Record, path: Path) -> None:
    """Raise unless the file is of the same sweep."""
    if not isinstance(there, dict) or there.get("format") != FORMAT:
        raise DataError(f"{path} holds no answers of an evaluation: give another folder")
    if there.get("version") != VERSION:
        raise DataError(
            f"{path} has version {there.get('version')!r} of its format and this program writes "
            f"{VERSION}: give another folder, or go on with the program that began it"
        )
    plain = json.loads(json.dumps(wanted))
    differing = [name for name in plain if there.get(name) != plain[name]]
    if differing:
        first = differing[0]
        raise DataError(
            f"{path} holds another sweep: there {first} is {there.get(first)!r}, here "
            f"{plain[first]!r}"
            + (f" (and {', '.join(differing[1:])} differ too)" if differing[1:] else "")
            + ". Repeat that command to go on with it, or give another folder"
        )
