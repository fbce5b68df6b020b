"""Collects what a router is trained on: both models' steps from the same prefixes, scored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from langgraph_arbitrage.errors import ContextLengthError, SettingsError
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.names import public_name
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.run import step_seed
from langgraph_arbitrage.scorers import Judgement, StepScorer
from langgraph_arbitrage.settings import Limits
from langgraph_arbitrage.state import PendingStep
from langgraph_arbitrage.training.prefix import Prefix
from langgraph_arbitrage.training.questions import Question, question_id
from langgraph_arbitrage.training.rows import Row, RowFile
from langgraph_arbitrage.training.verdict import CHECKER, CheckerVerdict, ScorerVerdict, Verdict

__all__ = ["CollectConfig", "Collected", "Collector"]


class CollectConfig(BaseModel):
    """How rows are collected."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    prm: str
    """PRM that scores the steps, a checkpoint; or `checker`, the exact checker of the embedded
    problems."""
    samples: int = Field(default=1, ge=1)
    """Steps of the target a prefix, whose scores are averaged; 1 is one greedy step."""
    margin: float = Field(default=0.0, ge=0)
    """A step of the target counts as better (y = 1) iff its advantage is above this, so that the
    PRM's noise makes no labels."""
    policy: Literal["better", "draft", "router"] = "better"
    """Whose step the trajectory goes on with: the better one (the paper's way); the draft's,
    now and then replaced by a better one; or the one that a trained router picks, which shows the
    prefixes that it will meet in use."""
    router: str | None = None
    """Checkpoint of the router, with policy router."""
    replace: float = Field(default=0.5, ge=0, le=1)
    """With policy draft: how often a step is replaced where the target's is better."""
    sampled: float = Field(default=0.0, ge=0, le=1)
    """Share of the trajectories whose draft steps are sampled; the others are greedy."""
    sampling_temperature: float = Field(default=0.7, gt=0)
    """Temperature of sampled draft steps, and of target steps where there are several."""
    give_up: int = Field(default=4, ge=1)
    """A trajectory ends after so many draft steps that were taken although the target's was
    better: what follows teaches little."""
    rollouts: int = Field(default=1, ge=1)
    """Trajectories a question; the same prefix with the same draft step makes one row."""
    concurrency: int = Field(default=32, ge=1)
    """Questions under way at a time."""
    seed: int = 0
    """Seed of all that is drawn."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.policy == "router") != (self.router is not None):
            raise SettingsError(
                "policy router needs the router's checkpoint, and no other policy takes one: "
                "--policy router --router CHECKPOINT"
            )
        return self


@dataclass(frozen=True)
class Collected:
    """What came of a collection."""

    questions: int
    """Collected now."""
    skipped: int
    """Found in the file, from a run before."""
    too_long: int
    """Left out: they do not fit a model's context."""


class Collector:
    """Collects rows of many questions at a time.

    Args:
        models: The pair; `models.settings` has limits, separators and devices.
        config: How.
        prm: The scorer; None for the exact checker.
        policy: The router's policy, with `policy="router"`.
    """

    def __init__(
        self,
        models: Models,
        config: CollectConfig,
        prm: StepScorer | None,
        policy: Policy | None = None,
    ) -> None:
        if (prm is None) != (config.prm == CHECKER):
            raise SettingsError(f"prm={config.prm!r} does not fit the scorer that was given")
        self.models = models
        self.config = config
        self._prm = prm
        self._policy = policy
        self._limits = Limits.of(models.settings)

    async def collect(
        self,
        questions: Sequence[Question],
        file: RowFile,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> Collected:
        """Append the rows of all questions that the file does not have yet.

        Args:
            questions: What to ask.
            file: Where the rows go, a question at a time; open.
            progress: Called after each question with its number of rows, 0 where it was left out.
        """
        todo = [q for q in questions if question_id(q.text) not in file.done]
        if self._prm is None and todo:
            CheckerVerdict(todo[0])  # questions of another kind fail before any work
        await asyncio.to_thread(self.models.prepare, self._limits.policy)
        waiting = iter(todo)
        too_long = 0

        async def work() -> None:
            nonlocal too_long
            for question in waiting:
                try:
                    rows = await self.rows(question)
                except ContextLengthError:
                    too_long += 1
                    rows = []
                if rows:
                    file.append(rows)
                progress(len(rows))

        async with _quiet_group() as group:
            for _ in range(min(self.config.concurrency, len(todo))):
                group.create_task(work())
        return Collected(len(todo) - too_long, len(questions) - len(todo), too_long)

    async def rows(self, question: Question) -> list[Row]:
        """All rows of a question."""
        found: dict[tuple[str, ...], Row] = {}
        for rollout in range(self.config.rollouts):
            for row in await self._trajectory(question, rollout):
                found.setdefault((*row["history"], row["z_d"]), row)
        rows = list(found.values())
        for row in rows:
            row["rows"] = len(rows)
        return rows

    async def _trajectory(self, question: Question, rollout: int) -> list[Row]:
        config = self.config
        seed = step_seed(config.seed, question.text, rollout)
        draw = random.Random(seed)
        temperature = config.sampling_temperature if draw.random() < config.sampled else 0.0
        prefix = Prefix.of(self.models, self._limits, question.text)
        verdict = self._verdict(question)
        rows: list[Row] = []
        given_up = 0
        while True:
            draft, targets = await self._write(prefix, temperature, seed)
            judgements = await self._judge(verdict, prefix, [draft, *targets])
            s_d, s_ts = judgements[0].value, [j.value for j in judgements[1:]]
            delta = fmean(s_ts) - s_d
            better = delta > config.margin  # y = 1 iff Δ > margin
            take_target, memory = better, ()
            if config.policy == "draft":
                take_target = better and draw.random() < config.replace
            elif self._policy is not None:
                decision = await prefix.decide(self._policy, draft, seed)
                take_target, memory = decision.escalate, decision.memory
            rows.append(self._row(prefix, draft, targets[0], s_d, fmean(s_ts), better, take_target))
            given_up += better and not take_target
            step = targets[0] if take_target else draft
            if prefix.ends_with(step) or given_up >= config.give_up:
                return rows
            verdict.took(judgements[1 if take_target else 0])
            prefix = prefix.take("target" if take_target else "draft", step, memory)

    def _verdict(self, question: Question) -> Verdict:
        if self._prm is None:
            return CheckerVerdict(question)
        return ScorerVerdict(self.models, self._prm)

    async def _write(
        self, prefix: Prefix, temperature: float, seed: int
    ) -> tuple[PendingStep, list[PendingStep]]:
        """z_d, and z_t as often as is asked for."""
        samples = self.config.samples
        target_temperature = self.config.sampling_temperature if samples > 1 else 0.0
        draft, *targets = await asyncio.gather(
            prefix.write("draft", temperature=temperature, seed=seed),
            *(
                prefix.write("target", temperature=target_temperature, seed=seed, sample=i)
                for i in range(samples)
            ),
        )
        return draft, targets

    @staticmethod
    async def _judge(
        verdict: Verdict, prefix: Prefix, steps: Sequence[PendingStep]
    ) -> list[Judgement]:
        """One judgement a step; equal texts share theirs, so that rounding makes no advantage."""
        texts = list(dict.fromkeys(s["text"] for s in steps))
        found = await asyncio.gather(*(verdict.judge(prefix, text) for text in texts))
        by_text = dict(zip(texts, found, strict=True))
        return [by_text[s["text"]] for s in steps]

    def _row(
        self,
        prefix: Prefix,
        draft: PendingStep,
        target: PendingStep,
        s_d: float,
        s_t: float,
        better: bool,
        take_target: bool,
    ) -> Row:
        settings = self.models.settings
        return Row(
            question=prefix.question,
            history=prefix.texts,
            tags=[int(s["writer"] == "target") for s in prefix.steps],
            z_d=draft["text"],
            z_t=target["text"],
            s_d=round(s_d, 6),
            s_t=round(s_t, 6),
            delta=round(s_t - s_d, 6),
            y=int(better),
            taken=int(take_target),
            draft=public_name(settings.draft),
            target=public_name(settings.target),
            prm=CHECKER if self._prm is None else public_name(self._prm.model),
            seed=self.config.seed,
            samples=self.config.samples,
            rows=0,
        )


class _quiet_group(asyncio.TaskGroup):  # noqa: N801 - used as a statement
    """A task group that raises its first error itself, not in a group."""

    async def __aexit__(self, *error: object) -> bool | None:
        try:
            return await super().__aexit__(*error)  # type: ignore[arg-type, func-returns-value]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
