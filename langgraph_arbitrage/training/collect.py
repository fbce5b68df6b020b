"""Collects what a router is trained on: both models' steps from the same prefixes, scored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from langgraph_arbitrage.errors import ContextLengthError, SettingsError
from langgraph_arbitrage.loop.answer_state import step_seed
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.state import PendingStep, RouteDecision
from langgraph_arbitrage.training.configs import CHECKER, CollectConfig
from langgraph_arbitrage.training.many import many
from langgraph_arbitrage.training.prefix import Prefix, greedy_run
from langgraph_arbitrage.training.questions import Question
from langgraph_arbitrage.training.rows import Origin, Row, RowFile
from langgraph_arbitrage.training.verdict import Context, verdict_of

__all__ = ["Collected", "Collector"]


@dataclass(frozen=True)
class Collected:
    """What came of a collection."""

    questions: int
    """Collected now."""
    skipped: int
    """Found in the file, from a run before."""
    too_long: int
    """Left out: they do not fit a model's context."""


@dataclass(frozen=True)
class _Steps:
    """What both models wrote from a prefix, and what it is worth."""

    draft: PendingStep
    target: PendingStep
    s_d: float
    s_t: float
    better: bool
    """y: whether the target's step is better by more than the margin."""


class Collector:
    """Collects rows of many questions at a time.

    Args:
        models: The pair; `models.settings` has limits, separators and devices.
        config: How.
        prm: The scorer; None for the exact checker.
        policy: The policy that picks, where a router is followed.
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
        if (policy is None) != (config.follow in ("better", "draft")):
            raise SettingsError(f"follow={config.follow!r} does not fit the policy that was given")
        self.models = models
        self.config = config
        self._prm = prm
        self._policy = policy
        self._run = greedy_run(models, policy)

    @property
    def origin(self) -> Origin:
        """What all rows of this collection have in common."""
        settings, config = self.models.settings, self.config
        return Origin(
            draft=public_name(settings.draft),
            target=public_name(settings.target),
            prm=CHECKER if self._prm is None else public_name(self._prm.model),
            seed=config.seed,
            samples=config.samples,
            margin=config.margin,
            follow=public_name(config.follow),
        )

    async def collect(
        self,
        questions: Sequence[Question],
        file: RowFile,
        progress: Callable[[], None] = lambda: None,
    ) -> Collected:
        """Append the rows of all questions that the file does not have yet.

        Args:
            questions: What to ask.
            file: Where the rows go, a question at a time; open.
            progress: Called after each question.
        """
        todo = [q for q in questions if q not in file]
        for question in todo[:1]:  # one of another kind fails before any work
            verdict_of(question, self.models, self._prm)
        await asyncio.to_thread(self.models.prepare, self._run.policy)

        async def one(question: Question) -> bool:
            try:
                rows = await self.rows(question)
            except ContextLengthError:
                return False
            file.append(rows)
            return True

        fitting = await many(todo, one, self.config.concurrency, progress)
        return Collected(sum(fitting), len(questions) - len(todo), fitting.count(False))

    async def rows(self, question: Question) -> list[Row]:
        """All rows of a question, at least one."""
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
        verdict = verdict_of(question, self.models, self._prm)
        prefix = Prefix.of(self._run, question.text, seed)
        rows: list[Row] = []
        given_up = 0
        while not prefix.finished and given_up < config.give_up:
            draft, *targets = await self._write(prefix, temperature)
            context = Context(prefix.texts, prefix.tags)
            # Equal texts share their score, so that rounding makes no advantage.
            texts = dict.fromkeys(s["text"] for s in (draft, *targets))
            values = await asyncio.gather(*(verdict.value(context, text) for text in texts))
            score = dict(zip(texts, values, strict=True))
            s_d, s_t = score[draft["text"]], fmean(score[t["text"]] for t in targets)
            better = s_t - s_d > config.margin  # y = 1 iff Δ > margin
            steps = _Steps(draft, targets[0], s_d, s_t, better)
            picked, decided = await self._pick(prefix, steps, draw)
            rows.append(self._row(prefix, steps, picked))
            given_up += better and not picked
            if picked:
                prefix = await prefix.take("target", steps.target, decided)
            else:
                prefix = await prefix.take("draft", draft, decided)
        return rows

    async def _write(self, prefix: Prefix, temperature: float) -> list[PendingStep]:
        """z_d, then z_t as often as is asked for."""
        samples = self.config.samples
        varied = self.config.sampling_temperature if samples > 1 else 0.0
        draft = await prefix.write("draft", temperature)
        targets = (prefix.write("target", varied, sample, draft) for sample in range(samples))
        return [draft, *await asyncio.gather(*targets)]

    async def _pick(
        self, prefix: Prefix, steps: _Steps, draw: random.Random
    ) -> tuple[bool, RouteDecision | None]:
        """Whether the trajectory goes on with the target's step, and what a router noted."""
        if self._policy is not None:
            verdict = await prefix.judged(steps.draft)
            return verdict["escalate"], verdict
        if self.config.follow == "draft":
            return steps.better and draw.random() < self.config.replace, None
        return steps.better, None

    def _row(self, prefix: Prefix, steps: _Steps, picked: bool) -> Row:
        return Row(
            question=prefix.question,
            history=list(prefix.texts),
            tags=list(prefix.tags),
            z_d=steps.draft["text"],
            z_t=steps.target["text"],
            s_d=round(steps.s_d, 6),
            s_t=round(steps.s_t, 6),
            delta=round(steps.s_t - steps.s_d, 6),
            y=int(steps.better),
            taken=int(picked),
            rows=0,
            **self.origin,
        )
