"""An answer under way, outside of the graph, by the bodies of the graph's own nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from langchain_core.messages import HumanMessage

from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.loop.answer_state import step_seed
from langgraph_arbitrage.loop.engine_calls import EngineCall, submit_async
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.nodes.commit import commit
from langgraph_arbitrage.nodes.route import route
from langgraph_arbitrage.persistence.migrate import apply_update
from langgraph_arbitrage.policies import DraftConfidence, Policy, Writer
from langgraph_arbitrage.state import ArbitrageState, PendingStep, RouteDecision

__all__ = ["Prefix", "greedy_run"]


@dataclass(frozen=True)
class Prefix:
    """A question and the steps so far. Taking a step makes another prefix; nothing is changed.

    What the engines have read of it they find in their caches, as in the graph.
    """

    run: Run
    question: str
    state: ArbitrageState

    @classmethod
    def of(cls, run: Run, question: str, seed: int = 0) -> Prefix:
        """The beginning of an answer.

        Raises:
            ContextLengthError: The question does not fit a model.
        """
        state: ArbitrageState = {"messages": [HumanMessage(question)]}
        opened = apply_update(state, run.open_answer(state))
        return cls(run, question, {**opened, "seed": seed})

    @property
    def texts(self) -> tuple[str, ...]:
        """The steps' texts."""
        return tuple(s["text"] for s in self.state["steps"])

    @property
    def tags(self) -> tuple[int, ...]:
        """Who wrote each step: 0 the draft, 1 the target, as in the paper's `Model 0: `."""
        return tuple(int(s["writer"] == "target") for s in self.state["steps"])

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self.state["finish_reason"] is not None

    @property
    def answer(self) -> str:
        """The text of the complete answer."""
        return self.state["messages"][-1].text

    async def write(
        self,
        role: Writer,
        temperature: float | None = None,
        sample: int = 0,
        draft: PendingStep | None = None,
    ) -> PendingStep:
        """The next step by one of the models.

        Args:
            role: Who writes.
            temperature: In the place of the run's own; 0 is greedy.
            sample: Number of the sample, where several are drawn from one prefix.
            draft: The draft's step for the target to verify: it writes the same, sooner.
        """
        request = self.run.generation.request(role, {**self.state, "draft_step": draft})
        if temperature is not None:
            seed = step_seed(request.sampling.seed, role, sample)
            sampling = replace(request.sampling, temperature=temperature, seed=seed)
            request = replace(request, sampling=sampling)
        [output] = await submit_async([EngineCall(self.run.models.engine(role), request)])
        return self.run.generation.pending(role, self.state, output)

    async def judged(self, draft: PendingStep) -> RouteDecision:
        """What the run's policy makes of the draft's step."""
        update = await route({**self.state, "draft_step": draft}, self.run)
        decision: RouteDecision = update["decision"]
        return decision

    async def take(
        self, writer: Writer, step: PendingStep, decision: RouteDecision | None
    ) -> Prefix:
        """The prefix with a step appended, which may complete the answer."""
        before: ArbitrageState = {
            **self.state,
            "draft_step": step if writer == "draft" else None,
            "target_step": step if writer == "target" else None,
            "decision": decision,
        }
        update = await commit(before, self.run)
        steps = [*self.state["steps"], *update["steps"]]
        state: ArbitrageState = {**before, **update, "steps": steps}  # type: ignore[typeddict-item]
        return replace(self, state=state)


def greedy_run(models: Models, policy: Policy | None = None) -> Run:
    """A run outside of the graph, which takes the most probable tokens.

    It has no budget that could end an answer, and nobody to ask.

    Args:
        models: The models, with their settings.
        policy: Who judges; None where nobody does, and steps are only written.
    """
    judge = DraftConfidence() if policy is None else policy
    no_limits = dict.fromkeys(("threshold", "approve", "max_target_tokens", "max_seconds"))
    changes = {"temperature": 0.0, "router": judge} | no_limits
    return Run(models, RunSettings.of(models.settings.model_copy(update=changes)))
