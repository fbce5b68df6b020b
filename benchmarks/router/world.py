"""All that the pair writes for a problem, and what judges say of it; nothing is done twice."""

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

JUDGES = ("exact oracle", "PRM oracle", "router", "RSD", "confidence", "random")
"""Each gives a step a number; the step is escalated iff that is above a threshold."""


@dataclass(frozen=True)
class Walk:
    """What one policy made of a problem."""

    right: bool
    steps: int
    escalated: int
    contexts: tuple[StepContext, ...] = field(repr=False)
    """Where each step stood."""


class World:
    """One problem."""

    def __init__(self, models: Models, problem: Problem, prm: StepScorer, router: StepScorer):
        self.problem = problem
        self._run = Run(models)
        self._prm = ScorerGrader(problem.question, models, prm)
        self._router = ScorerGrader(problem.question, models, router)
        self._written: dict[tuple[Writer, StepContext], PendingStep] = {}
        self._prefixes: dict[StepContext, Prefix] = {}

    async def walk(self, judge: str, threshold: float) -> Walk:
        """The loop: escalate iff the judge's number is above the threshold."""
        prefix = Prefix.start(self._run, self.problem.question)
        escalated, contexts = 0, []
        while not prefix.finished:
            context = StepContext(prefix.texts, prefix.tags)
            self._prefixes[context] = prefix
            contexts.append(context)
            escalates = await self.score(judge, context) > threshold
            writer: Writer = "target" if escalates else "draft"
            step = await self.step(writer, context)
            escalated += escalates
            prefix = await prefix.append(writer, step, None)
        right = check_answer(self.problem, prefix.answer)
        return Walk(right, len(contexts), escalated, tuple(contexts))

    async def score(self, judge: str, context: StepContext) -> float:
        """A judge's number for the draft's step; the higher, the more the step is doubted."""
        if judge == "exact oracle":
            return await self.exact("target", context) - await self.exact("draft", context)
        if judge == "PRM oracle":
            s_d = await self.prm("draft", context)
            return await self.prm("target", context) - s_d
        if judge == "router":
            return await self._router.grade(context, (await self.step("draft", context))["text"])
        if judge == "RSD":
            return 1 - await self.prm("draft", context)
        if judge == "confidence":
            logprobs = (await self.step("draft", context))["logprobs"]
            return 1 - sum(map(math.exp, logprobs)) / len(logprobs)
        return random.Random(f"{self.problem.question}/{len(context.texts)}").random()

    async def exact(self, writer: Writer, context: StepContext) -> float:
        """1 where the exact checker finds the step right, else 0."""
        step = await self.step(writer, context)
        return float(check_step(self.problem, context.texts, step["text"]))

    async def prm(self, writer: Writer, context: StepContext) -> float:
        """h(x, z)."""
        draft = (await self.step("draft", context))["text"]
        await self._prm.grade(context, draft)  # first, as in the loop: later steps build on it
        text = (await self.step(writer, context))["text"]
        return await self._prm.grade(context, text)

    async def step(self, writer: Writer, context: StepContext) -> PendingStep:
        """What a model writes there, greedily."""
        key = writer, context
        if key not in self._written:
            self._written[key] = await self._prefixes[context].generate(writer)
        return self._written[key]
