"""Who says how good a step is: a scorer, as it would be met in the loop, or the exact checker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.embedded import check_step
from langgraph_arbitrage.engine import ScoreOutput
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.loop.engine_calls import submit_async
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.policies import PastStep
from langgraph_arbitrage.scorers import StepScore, StepScorer
from langgraph_arbitrage.training.examples import Example
from langgraph_arbitrage.training.many import many
from langgraph_arbitrage.training.questions import Question

__all__ = [
    "CheckerVerdict",
    "Context",
    "Judged",
    "ScorerVerdict",
    "Verdict",
    "replay",
    "verdict_of",
]


@dataclass(frozen=True)
class Context:
    """Where a step stands: the steps before, and who wrote each of them."""

    texts: tuple[str, ...] = ()
    tags: tuple[int, ...] = ()
    """0 the draft, 1 the target."""

    def before(self, k: int) -> Context:
        """That of step k."""
        return Context(self.texts[:k], self.tags[:k])


class Verdict(ABC):
    """Judges the steps of one question."""

    @abstractmethod
    async def value(self, context: Context, step: str) -> float:
        """How good the step is, in [0, 1]."""


def verdict_of(question: Question, models: Models, scorer: StepScorer | None) -> Verdict:
    """The scorer's verdicts on a question, or without a scorer the exact checker's.

    Raises:
        DataError: The checker does not know the question.
    """
    if scorer is None:
        return CheckerVerdict(question)
    return ScorerVerdict(question.text, models, scorer)


class CheckerVerdict(Verdict):
    """The exact checker: 1 for a right step of an embedded problem, 0 for a wrong one."""

    def __init__(self, question: Question) -> None:
        if question.problem is None:
            raise DataError(
                "the exact checker knows embedded problems only: give the questions as "
                "embedded:N:SEED, or a PRM's checkpoint as --prm"
            )
        self._problem = question.problem

    async def value(self, context: Context, step: str) -> float:
        """1 or 0."""
        return float(check_step(self._problem, context.texts, step))


@dataclass(frozen=True)
class Judged:
    """A step as a scorer met it."""

    history: tuple[PastStep, ...]
    """The steps before, with what the scorer noted at each."""
    output: ScoreOutput
    score: StepScore


class ScorerVerdict(Verdict):
    """A scorer, which reads no step of a question twice.

    In the loop a scorer notes something when it judges the *draft's* step, also where the target
    then writes another. So a step that the target wrote is noted by the draft's step from the
    same prefix, where that is known.

    Args:
        question: The question's text.
        models: Where the scorer's engine is found.
        scorer: Who judges.
        drafted: The draft's step in some contexts.
    """

    def __init__(
        self,
        question: str,
        models: Models,
        scorer: StepScorer,
        drafted: Iterable[tuple[Context, str]] = (),
    ) -> None:
        self._question = question
        self._models = models
        self._scorer = scorer
        self._drafted = dict(drafted)
        self._found: dict[tuple[Context, str], Judged] = {}

    async def value(self, context: Context, step: str) -> float:
        """ŷ(x, z) or h(x, z); the first step that is asked about in a context is the draft's."""
        self._drafted.setdefault(context, step)
        return (await self.judged(context, step)).score.value

    async def judged(self, context: Context, step: str) -> Judged:
        """All that was found."""
        key = context, step
        if key not in self._found:
            past = tuple([await self._past(context, k) for k in range(len(context.texts))])
            request = self._scorer.request(self._question, past, step)
            [output] = await submit_async([self._models.scorer_call(request)])
            self._found[key] = Judged(past, output, self._scorer.read(past, output))
        return self._found[key]

    async def _past(self, context: Context, k: int) -> PastStep:
        before, text = context.before(k), context.texts[k]
        by_target = context.tags[k]
        noted = await self.judged(before, self._drafted.get(before, text) if by_target else text)
        writer = "target" if by_target else "draft"
        return PastStep(writer, text, 0, noted.score.policy_state)  # type: ignore[arg-type]


async def replay(
    models: Models,
    scorer: StepScorer,
    examples: Sequence[Example],
    *,
    concurrency: int = 64,
    progress: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """Have a scorer judge each step, in order.

    Args:
        models: Where the scorer's engine is found.
        scorer: Who judges.
        examples: Steps in their contexts; best all of a question's together.
        concurrency: Questions under way at a time.
        progress: Called after each question.
    """
    questions: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        questions.setdefault(example.question, []).append(i)
    contexts = [Context(e.history, e.tags) for e in examples]
    found: dict[int, Judged] = {}

    async def one(question: str) -> None:
        indices = questions[question]
        # Reversed, so that the first step of a context counts as the draft's.
        drafted = [(contexts[i], examples[i].step) for i in reversed(indices)]
        verdict = ScorerVerdict(question, models, scorer, drafted)
        # Short contexts first, so that the cache grows step by step.
        for i in sorted(indices, key=lambda i: len(contexts[i].texts)):
            found[i] = await verdict.judged(contexts[i], examples[i].step)

    await many(questions, one, concurrency, progress)
    return [found[i] for i in range(len(examples))]
