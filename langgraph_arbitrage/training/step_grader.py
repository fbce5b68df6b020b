"""Grade single steps of a question, with a scorer or with the exact checker."""

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
from langgraph_arbitrage.training.concurrency import map_concurrently
from langgraph_arbitrage.training.examples import Example
from langgraph_arbitrage.training.questions import Question

__all__ = [
    "CheckerGrader",
    "ScoredStep",
    "ScorerGrader",
    "StepContext",
    "StepGrader",
    "make_grader",
    "score_examples",
]


@dataclass(frozen=True)
class StepContext:
    """The steps before a step, and the model that wrote each of them."""

    texts: tuple[str, ...] = ()
    tags: tuple[int, ...] = ()
    """Writer of each step: 0 is the draft, 1 is the target."""

    def before(self, k: int) -> StepContext:
        """Return the context of step k."""
        return StepContext(self.texts[:k], self.tags[:k])


class StepGrader(ABC):
    """Grades the steps of one question."""

    @abstractmethod
    async def grade(self, context: StepContext, step: str) -> float:
        """Grade a step; returns a value in [0, 1]."""


def make_grader(question: Question, models: Models, scorer: StepScorer | None) -> StepGrader:
    """Create the grader of a question, which uses the exact checker if there is no scorer.

    Raises:
        DataError: There is no scorer and the question is not an embedded problem.
    """
    if scorer is None:
        return CheckerGrader(question)
    return ScorerGrader(question.text, models, scorer)


class CheckerGrader(StepGrader):
    """Grades with the exact checker of the embedded problems: 1 is right, 0 is wrong.

    Raises:
        DataError: The question is not an embedded problem.
    """

    def __init__(self, question: Question) -> None:
        if question.problem is None:
            raise DataError(
                "the exact checker only checks embedded problems: use embedded:N:SEED as the "
                "questions, or a PRM's checkpoint as --prm"
            )
        self._problem = question.problem

    async def grade(self, context: StepContext, step: str) -> float:
        """Return 1.0 if the step is right, else 0.0."""
        return float(check_step(self._problem, context.texts, step))


@dataclass(frozen=True)
class ScoredStep:
    """A step's score, with the scorer's inputs and output."""

    history: tuple[PastStep, ...]
    """The steps before this step, each with the scorer's policy state."""
    output: ScoreOutput
    score: StepScore


class ScorerGrader(StepGrader):
    """Grades with a scorer, on the inputs that it gets in the loop. Each step is scored only once.

    In the loop, a scorer scores only draft steps. A target step in the history therefore gets the
    policy state of the draft step that it replaced, if that draft step is known.

    Args:
        question: The question's text.
        models: Provides the scorer's engine.
        scorer: The scorer.
        draft_steps: Known draft steps, each with its context.
    """

    def __init__(
        self,
        question: str,
        models: Models,
        scorer: StepScorer,
        draft_steps: Iterable[tuple[StepContext, str]] = (),
    ) -> None:
        self._question = question
        self._models = models
        self._scorer = scorer
        self._draft_steps = dict(draft_steps)
        self._scored: dict[tuple[StepContext, str], ScoredStep] = {}

    async def grade(self, context: StepContext, step: str) -> float:
        """Return ŷ(x, z) of a router or h(x, z) of a PRM.

        The first step graded in a context is assumed to be the draft's step.
        """
        self._draft_steps.setdefault(context, step)
        return (await self.score(context, step)).score.value

    async def score(self, context: StepContext, step: str) -> ScoredStep:
        """Score a step and all steps of its context that have not been scored yet."""
        key = context, step
        if key not in self._scored:
            history = tuple([await self._past_step(context, k) for k in range(len(context.texts))])
            request = self._scorer.request(self._question, history, step)
            [output] = await submit_async([self._models.scorer_call(request, self._question)])
            self._scored[key] = ScoredStep(history, output, self._scorer.read(history, output))
        return self._scored[key]

    async def _past_step(self, context: StepContext, k: int) -> PastStep:
        before, text = context.before(k), context.texts[k]
        by_target = context.tags[k]
        draft = self._draft_steps.get(before, text) if by_target else text
        policy_state = (await self.score(before, draft)).score.policy_state
        return PastStep("target" if by_target else "draft", text, 0, policy_state)


async def score_examples(
    models: Models,
    scorer: StepScorer,
    examples: Sequence[Example],
    *,
    concurrency: int = 64,
    progress: Callable[[], None] = lambda: None,
) -> list[ScoredStep]:
    """Score the step of each example; returns the results in the examples' order.

    Args:
        models: Provides the scorer's engine.
        scorer: The scorer.
        examples: Steps with their contexts. Pass all examples of a question in one call, so that
            target steps are matched with the draft steps that they replaced.
        concurrency: Maximum number of questions scored concurrently.
        progress: Called after each question.
    """
    questions: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        questions.setdefault(example.question, []).append(i)
    contexts = [StepContext(e.history, e.tags) for e in examples]
    scored: dict[int, ScoredStep] = {}

    async def score_question(question: str) -> None:
        indices = questions[question]
        # The grader keeps the last draft step of a context. In reversed order, that is the step of
        # the first example, which is the draft's.
        draft_steps = [(contexts[i], examples[i].step) for i in reversed(indices)]
        grader = ScorerGrader(question, models, scorer, draft_steps)
        # Score short contexts first, so that longer contexts reuse their KV cache.
        for i in sorted(indices, key=lambda i: len(contexts[i].texts)):
            scored[i] = await grader.score(contexts[i], examples[i].step)

    await map_concurrently(questions, score_question, concurrency, progress)
    return [scored[i] for i in range(len(examples))]
