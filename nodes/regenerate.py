"""The target model writes a step from the same prefix as the draft did, if it may."""

from __future__ import annotations

from typing import Any

from langgraph_arbitrage.adoption import human_step
from langgraph_arbitrage.answer_state import target_tokens
from langgraph_arbitrage.approval import approval_request, approved
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState, Verdict

__all__ = ["regenerate"]


def regenerate(state: ArbitrageState, run: Run) -> Body:
    """Write a step z_t from the prefix x, telling its text token by token.

    Where a human is to be asked, that comes first: the verdict is in the state by then, so that
    neither it nor any model's work is done again when the run is resumed. Where the policy still
    has to choose between both steps, no text is told before it has.
    """
    state, update = run.opened(state)
    if not state.get("draft_step"):
        update = {**update, "draft_step": None, "verdict": None}
    verdict = state.get("verdict") if state.get("draft_step") else None
    if verdict["ask"] if verdict else run.asks(state, escalate=True):
        human = _asked(state, run)
        update |= human
        if human["target_step"] or not human["verdict"]["escalate"]:
            yield ()  # the target is not needed
            return update
    (written,) = yield [_call(state, run)]
    return {**update, "target_step": run.pending("target", state, written)}


def _asked(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """The verdict of a human, and the step if the human wrote one."""
    draft, verdict = state.get("draft_step"), state.get("verdict")
    answer = approved(approval_request(state, target_tokens(state["steps"])))
    step = None if isinstance(answer, str) else human_step(answer["text"], draft, run.models)
    by_policy = verdict or Verdict(
        score=None, escalate=True, ask=True, memory=[], fed={}, seconds=0.0, fault=None
    )
    decided = Verdict(**{**by_policy, "escalate": answer != "accept", "ask": False})
    if shown := step or draft:
        run.emit(
            StepEvent(
                type="escalated" if answer == "escalate" else "accepted",
                step=len(state["steps"]),
                writer=shown["writer"],
                text=shown["text"],
                score=decided["score"],
                tokens=len(shown["ids"]),
            )
        )
    return {"verdict": decided, "target_step": step}


def _call(state: ArbitrageState, run: Run) -> Call:
    index = len(state["steps"])
    ids: list[int] = []
    told = ""

    def tell(token: int) -> None:
        nonlocal told
        ids.append(token)
        text = run.models.step_text("target", state["prompts"], state["steps"], ids)
        if len(text) > len(told):
            new, told = text[len(told) :], text
            event = StepEvent(type="writing", step=index, writer="target", text=new)
            run.emit(event | {"tokens": len(ids)})

    listener = None if run.policy.needs_target_step or run.quiet else tell
    continues = bool(state["steps"] or state.get("draft_step"))
    return Call(run.models.engine("target"), run.write("target", state), listener, continues)
