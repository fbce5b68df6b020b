"""Collect a router's training rows: scored steps of both models after the same prefixes."""

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
from langgraph_arbitrage.training.concurrency import map_concurrently
from langgraph_arbitrage.training.configs import CHECKER, CollectConfig
from langgraph_arbitrage.training.prefix import Prefix, greedy_run
from langgraph_arbitrage.training.questions import Question
from langgraph_arbitrage.training.rows import Origin, Row, RowFile
from langgraph_arbitrage.training.step_grader import StepContext, make_grader

__all__ = ["CollectionResult", "Collector"]


@dataclass(frozen=True)
class CollectionResult:
    """Question counts of a collection."""

    questions: int
    """Number of questions collected by this run."""
    skipped: int
    """Number of questions already in the file from an earlier run."""
    too_long: int
    """Number of questions left out because they exceed a model's context length."""


@dataclass(frozen=True)
class _StepPair:
    """The steps of both models after a prefix, with their scores."""

    draft: PendingStep
    target: PendingStep
    s_d: float
    s_t: float
    better: bool
    """The label y: True if the target's step is better by more than the margin."""


class Collector:
    """Collects rows from many questions concurrently.

    Args:
        models: The pair. `models.settings` sets limits, separators and devices.
        config: Options of the collection.
        prm: The scorer; None selects the exact checker.
        policy: Policy of the followed router; None unless `config.follow` names a router.

    Raises:
        SettingsError: `prm` or `policy` contradicts the config.
    """

    def __init__(
        self,
        models: Models,
        config: CollectConfig,
        prm: StepScorer | None,
        policy: Policy | None = None,
    ) -> None:
        if (prm is None) != (config.prm == CHECKER):
            raise SettingsError(
                f"prm={config.prm!r} contradicts the scorer: pass a scorer for a checkpoint, or "
                f"None for {CHECKER!r}"
            )
        if (policy is None) != (config.follow in ("better", "draft")):
            raise SettingsError(
                f"follow={config.follow!r} contradicts the policy: pass a policy for a router, or "
                "None for 'better' and 'draft'"
            )
        self.models = models
        self.config = config
        self._prm = prm
        self._policy = policy
        self._run = greedy_run(models, policy)

    @property
    def origin(self) -> Origin:
        """The columns that all rows of this collection share."""
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
    ) -> CollectionResult:
        """Append the rows of all questions that the file does not hold yet.

        Args:
            questions: Questions to answer.
            file: Open file that receives the rows of one question at a time.
            progress: Called after each question.

        Raises:
            DataError: The exact checker cannot check the questions.
        """
        todo = [q for q in questions if q not in file]
        for question in todo[:1]:  # fail before any work if the checker cannot check them
            make_grader(question, self.models, self._prm)
        await asyncio.to_thread(self.models.prepare, self._run.policy)

        async def collect_question(question: Question) -> bool:
            try:
                rows = await self.rows(question)
            except ContextLengthError:
                return False
            file.append(rows)
            return True

        collected = await map_concurrently(
            todo, collect_question, self.config.concurrency, progress
        )
        skipped = len(questions) - len(todo)
        return CollectionResult(sum(collected), skipped, collected.count(False))

    async def rows(self, question: Question) -> list[Row]:
        """Collect all rows of a question. There is at least one row.

        Raises:
            ContextLengthError: The question or an answer exceeds a model's context length.
        """
        unique: dict[tuple[str, ...], Row] = {}
        for rollout in range(self.config.rollouts):
            for row in await self._trajectory(question, rollout):
                unique.setdefault((*row["history"], row["z_d"]), row)
        rows = list(unique.values())
        for row in rows:
            row["rows"] = len(rows)
        return rows

    async def _trajectory(self, question: Question, rollout: int) -> list[Row]:
        config = self.config
        seed = step_seed(config.seed, question.text, rollout)
        rng = random.Random(seed)
        temperature = config.sampling_temperature if rng.random() < config.sampled else 0.0
        grader = make_grader(question, self.models, self._prm)
        prefix = Prefix.start(self._run, question.text, seed)
        rows: list[Row] = []
        kept_worse_steps = 0
        while not prefix.finished and kept_worse_steps < config.give_up:
            draft, *targets = await self._generate(prefix, temperature)
            context = StepContext(prefix.texts, prefix.tags)
            # Grade identical texts only once: a rounding difference between two grades would look
            # like an advantage.
            texts = dict.fromkeys(s["text"] for s in (draft, *targets))
            grades = await asyncio.gather(*(grader.grade(context, text) for text in texts))
            score = dict(zip(texts, grades, strict=True))
            s_d, s_t = score[draft["text"]], fmean(score[t["text"]] for t in targets)
            better = s_t - s_d > config.margin  # y = 1 iff Δ > margin
            steps = _StepPair(draft, targets[0], s_d, s_t, better)
            take_target, decision = await self._choose(prefix, steps, rng)
            rows.append(self._row(prefix, steps, take_target))
            kept_worse_steps += better and not take_target
            if take_target:
                prefix = await prefix.append("target", steps.target, decision)
            else:
                prefix = await prefix.append("draft", draft, decision)
        return rows

    async def _generate(self, prefix: Prefix, temperature: float) -> list[PendingStep]:
        """Generate the draft's step z_d, followed by `config.samples` target steps z_t."""
        samples = self.config.samples
        target_temperature = self.config.sampling_temperature if samples > 1 else 0.0
        draft = await prefix.generate("draft", temperature)
        targets = (
            prefix.generate("target", target_temperature, sample, draft)
            for sample in range(samples)
        )
        return [draft, *await asyncio.gather(*targets)]

    async def _choose(
        self, prefix: Prefix, steps: _StepPair, rng: random.Random
    ) -> tuple[bool, RouteDecision | None]:
        """Choose the step that continues the trajectory.

        Returns:
            True to take the target's step, and the decision of the followed router, if any.
        """
        if self._policy is not None:
            decision = await prefix.decide(steps.draft)
            return decision["escalate"], decision
        if self.config.follow == "draft":
            return steps.better and rng.random() < self.config.replace, None
        return steps.better, None

    def _row(self, prefix: Prefix, steps: _StepPair, take_target: bool) -> Row:
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
            taken=int(take_target),
            rows=0,
            **self.origin,
        )
