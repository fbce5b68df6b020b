"""An answer under way, outside of the graph: both models write from it, and scorers read it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from langchain_core.messages import HumanMessage

from langgraph_arbitrage.engine import Engine, Reading, Sampling, Score, Ticket, Write, Written
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.policies import (
    Ask,
    Decision,
    PastStep,
    Policy,
    StepText,
    StepView,
    Writer,
)
from langgraph_arbitrage.run import step_seed
from langgraph_arbitrage.settings import Limits
from langgraph_arbitrage.state import PendingStep, StepRecord

__all__ = ["Prefix", "ask_scorer", "past_steps", "step_text"]

_Answer = TypeVar("_Answer", Written, Reading)


class Prefix:
    """A question and the steps so far. Taking a step makes another prefix; nothing is changed.

    What the engines have read of it they find in their caches, as in the graph.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        question: str,
        prompts: dict[str, list[int]],
        steps: tuple[StepRecord, ...] = (),
    ) -> None:
        self.models = models
        self.limits = limits
        self.question = question
        self.prompts = prompts
        self.steps = steps

    @classmethod
    def of(cls, models: Models, limits: Limits, question: str) -> Prefix:
        """The beginning of an answer.

        Raises:
            ContextLengthError: The question does not fit a model.
        """
        prompts = models.prompts([HumanMessage(question)], limits.policy)
        return cls(models, limits, question, prompts)

    @property
    def texts(self) -> list[str]:
        """The steps' texts."""
        return [s["text"] for s in self.steps]

    async def write(
        self, role: Writer, *, temperature: float = 0.0, seed: int = 0, sample: int = 0
    ) -> PendingStep:
        """The next step by one of the models.

        Args:
            role: Who writes.
            temperature: 0 is greedy.
            seed: The trajectory's seed.
            sample: Number of the sample, where several are drawn from one prefix.
        """
        limits = self.limits
        spent = sum(len(s["ids"]) for s in self.steps)
        engine = self.models.engine(role)
        written = await _answer(
            engine,
            Write(
                ids=self.models.ids(role, self.prompts, self.steps),
                max_tokens=max(1, min(limits.max_tokens - spent, limits.max_step_tokens)),
                separators=self.models.settings.separator,
                stop=limits.stop,
                tail="".join(self.texts)[-64:],
                sampling=Sampling(
                    temperature=temperature,
                    top_p=limits.top_p,
                    top_k=limits.top_k,
                    seed=step_seed(seed, f"{role}{sample or ''}", len(self.steps)),
                ),
            ),
        )
        spent += len(written.ids)
        goes_on = written.finish in ("separator", "length") and spent < limits.max_tokens
        text = self.models.step_text(
            role, self.prompts, self.steps, written.ids, ends_answer=not goes_on
        )
        return PendingStep(
            ids=written.ids,
            text=text,
            logprobs=written.logprobs,
            finish=written.finish,
            fed=written.fed,
            cached=written.cached,
            seconds=written.seconds,
        )

    def take(self, role: Writer, step: PendingStep, memory: Sequence[float] = ()) -> Prefix:
        """The prefix with a step appended."""
        record = StepRecord(
            writer=role,
            text=step["text"],
            ids=step["ids"],
            score=None,
            memory=list(memory),
            seconds=step["seconds"],
            discarded=0,
            forwarded={},
            cached=step["cached"],
        )
        steps = (*self.steps, record)
        return Prefix(self.models, self.limits, self.question, self.prompts, steps)

    def ends_with(self, step: PendingStep) -> bool:
        """Whether the answer is complete once this step is taken, as the commit node has it."""
        if step["finish"] in ("end", "stop", "context"):
            return True
        spent = sum(len(s["ids"]) for s in self.steps) + len(step["ids"])
        if spent >= self.limits.max_tokens or len(self.steps) + 1 >= self.limits.max_steps:
            return True
        for role in Models.roles(self.limits.policy):
            context = self.models.engine(role).context
            here = len(self.models.ids(role, self.prompts, self.steps)) + len(step["ids"])
            if context and here >= context:
                return True
        return False

    async def decide(self, policy: Policy, draft: PendingStep, seed: int) -> Decision:
        """What a policy makes of the draft's step, as the route node has it."""
        view = StepView(
            question=self.question,
            history=past_steps(self.steps),
            seed=seed,
            draft=step_text(draft),
        )
        asks = policy.asks(view)
        readings = await asyncio.gather(*(ask_scorer(self.models, ask) for ask in asks))
        return policy.decide(view, readings)


def past_steps(steps: Sequence[StepRecord]) -> tuple[PastStep, ...]:
    """Steps as a policy sees them."""
    return tuple(PastStep(s["writer"], s["text"], len(s["ids"]), tuple(s["memory"])) for s in steps)


def step_text(step: PendingStep) -> StepText:
    """A pending step as a policy sees it."""
    return StepText(step["text"], len(step["ids"]), tuple(step["logprobs"]))


async def ask_scorer(models: Models, ask: Ask) -> Reading:
    """Have a scorer's model read what is asked."""
    return await _answer(*models.asked(ask))


async def _answer(engine: Engine, request: Write | Score) -> _Answer:
    """An engine's answer; being cancelled meanwhile cancels the request."""
    ticket: Ticket[_Answer] = engine.submit(request)  # type: ignore[assignment]
    try:
        return await asyncio.wrap_future(ticket.future)
    finally:
        if not ticket.future.done():
            ticket.cancel()
