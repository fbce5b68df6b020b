"""Generate and score the steps of a problem, and cache them by prefix."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from langgraph_arbitrage.embedded import Problem, check_answer, check_step
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.policies import Writer
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.state import PendingStep
from langgraph_arbitrage.training.prefix import Prefix
from langgraph_arbitrage.training.step_grader import ScorerGrader, StepContext

SIGNALS = ("exact oracle", "PRM oracle", "router", "RSD", "confidence", "random")
"""Routing signals. Each assigns a number to a draft step; the step is escalated iff the number is
above a threshold."""


@dataclass(frozen=True)
class LoopAnswer:
    """An answer of the loop to a problem."""

    right: bool
    """Whether the answer is right."""
    steps: int
    """Number of steps."""
    escalated: int
    """Number of escalated steps."""
    contexts: tuple[StepContext, ...] = field(repr=False)
    """Prefix of each step."""


class ProblemSteps:
    """The cached steps and scores of one problem.

    Args:
        models: Draft and target.
        problem: The problem.
        prm: Scorer of the PRM.
        router: Scorer of the router.
    """

    def __init__(self, models: Models, problem: Problem, prm: StepScorer, router: StepScorer):
        self.problem = problem
        self._run = Run(models)
        self._prm = ScorerGrader(problem.question, models, prm)
        self._router = ScorerGrader(problem.question, models, router)
        self._steps: dict[tuple[Writer, StepContext], PendingStep] = {}
        self._prefixes: dict[StepContext, Prefix] = {}

    async def answer(self, signal: str, threshold: float) -> LoopAnswer:
        """Run the loop: escalate a step iff the signal is above the threshold."""
        prefix = Prefix.start(self._run, self.problem.question)
        escalated, contexts = 0, []
        while not prefix.finished:
            context = StepContext(prefix.texts, prefix.tags)
            self._prefixes[context] = prefix
            contexts.append(context)
            escalates = await self.score(signal, context) > threshold
            writer: Writer = "target" if escalates else "draft"
            step = await self.step(writer, context)
            escalated += escalates
            prefix = await prefix.append(writer, step, None)
        right = check_answer(self.problem, prefix.answer)
        return LoopAnswer(right, len(contexts), escalated, tuple(contexts))

    async def score(self, signal: str, context: StepContext) -> float:
        """Compute a signal for the draft's step. Higher values are reasons to escalate."""
        if signal == "exact oracle":
            return await self.exact("target", context) - await self.exact("draft", context)
        if signal == "PRM oracle":
            s_d = await self.prm("draft", context)
            return await self.prm("target", context) - s_d
        if signal == "router":
            return await self._router.grade(context, (await self.step("draft", context))["text"])
        if signal == "RSD":
            return 1 - await self.prm("draft", context)
        if signal == "confidence":
            logprobs = (await self.step("draft", context))["logprobs"]
            return 1 - sum(map(math.exp, logprobs)) / len(logprobs)
        return random.Random(f"{self.problem.question}/{len(context.texts)}").random()

    async def exact(self, writer: Writer, context: StepContext) -> float:
        """Return 1 if the exact checker accepts the step, else 0."""
        step = await self.step(writer, context)
        return float(check_step(self.problem, context.texts, step["text"]))

    async def prm(self, writer: Writer, context: StepContext) -> float:
        """Compute the PRM's score h(x, z) of a step."""
        draft = (await self.step("draft", context))["text"]
        # As in the loop, the draft's step is scored first: scores of later steps depend on it.
        await self._prm.grade(context, draft)
        text = (await self.step(writer, context))["text"]
        return await self._prm.grade(context, text)

    async def step(self, writer: Writer, context: StepContext) -> PendingStep:
        """Generate a step greedily."""
        key = writer, context
        if key not in self._steps:
            self._steps[key] = await self._prefixes[context].generate(writer)
        return self._steps[key]
