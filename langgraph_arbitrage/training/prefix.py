"""Generate an answer step by step outside of the graph, using the functions of its nodes."""

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
    """A question and the steps so far. Immutable: appending a step returns a new prefix.

    The engines reuse the KV cache of prefixes that they have already computed.
    """

    run: Run
    question: str
    state: ArbitrageState

    @classmethod
    def start(cls, run: Run, question: str, seed: int = 0) -> Prefix:
        """Start an answer to a question.

        Raises:
            ContextLengthError: The question exceeds a model's context length.
        """
        state: ArbitrageState = {"messages": [HumanMessage(question)]}
        started = apply_update(state, run.open_answer(state))
        return cls(run, question, {**started, "seed": seed})

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of the steps."""
        return tuple(s["text"] for s in self.state["steps"])

    @property
    def tags(self) -> tuple[int, ...]:
        """Writer of each step: 0 is the draft, 1 is the target, as in the paper's `Model 0: `."""
        return tuple(int(s["writer"] == "target") for s in self.state["steps"])

    @property
    def finished(self) -> bool:
        """True if the answer is complete."""
        return self.state["finish_reason"] is not None

    @property
    def answer(self) -> str:
        """Text of the complete answer."""
        return self.state["messages"][-1].text

    async def generate(
        self,
        role: Writer,
        temperature: float | None = None,
        sample: int = 0,
        draft: PendingStep | None = None,
    ) -> PendingStep:
        """Generate the next step with one of the models.

        Args:
            role: The model that writes the step.
            temperature: Sampling temperature; 0 is greedy. Default: the run's temperature.
            sample: Index of the sample, if several steps are sampled after one prefix.
            draft: The draft's step, whose tokens the target verifies. Verification makes the
                target faster and does not change its step.
        """
        request = self.run.generation.request(role, {**self.state, "draft_step": draft})
        if temperature is not None:
            seed = step_seed(request.sampling.seed, role, sample)
            sampling = replace(request.sampling, temperature=temperature, seed=seed)
            request = replace(request, sampling=sampling)
        [output] = await submit_async([EngineCall(self.run.models.engine(role), request)])
        return self.run.generation.pending(role, self.state, output)

    async def decide(self, draft: PendingStep) -> RouteDecision:
        """Decide about the draft's step with the run's policy."""
        update = await route({**self.state, "draft_step": draft}, self.run)
        decision: RouteDecision = update["decision"]
        return decision

    async def append(
        self, writer: Writer, step: PendingStep, decision: RouteDecision | None
    ) -> Prefix:
        """Append a step, which may complete the answer; returns the new prefix."""
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
    """Create a run with greedy decoding, outside of the graph.

    The run ignores the settings' budgets for the target and for time, and asks for no human
    approval.

    Args:
        models: The models with their settings.
        policy: Policy that decides about draft steps; None if no decisions are needed.
    """
    router = DraftConfidence() if policy is None else policy
    no_limits = dict.fromkeys(
        ("threshold", "thinking_threshold", "approve", "max_target_tokens", "max_seconds")
    )
    changes = {"temperature": 0.0, "router": router} | no_limits
    return Run(models, RunSettings.of(models.settings.model_copy(update=changes)))
