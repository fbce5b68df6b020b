"""The node `regenerate`: the target model writes a step after the same prefix as the draft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.answer_state import answer_id, joined_text
from langgraph_arbitrage.loop.engine_calls import EngineCall
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.state import ArbitrageState

__all__ = ["regenerate"]


async def regenerate(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Write a step z_t after the prefix x, streamed token by token.

    If the target has verified the draft's step for the policy, it continues from that forward. The
    step is not streamed if the policy still has to choose between both steps.
    """
    streams = not (run.policy.needs_target_step or run.context.quiet)
    listener = _streamer(state, run) if streams else None
    begun = run.generation.verified(state)
    if begun is not None and listener is not None:
        for token in begun.ids:
            listener(token)
    if begun is not None and begun.finish != "verified":
        output = begun
    else:
        call = EngineCall(
            run.models.engine("target"),
            run.generation.request("target", state, begun=begun),
            listener,
            continues=bool(state["steps"] or state["draft_step"]),
        )
        [output] = await run.submit([call])
    return {"target_step": run.generation.pending("target", state, output)}


def _streamer(state: ArbitrageState, run: Run) -> Callable[[int], None]:
    """Return a listener that streams the text of each token."""
    committed = joined_text(state["steps"])
    ids: list[int] = []
    streamed = ""

    def on_token(token: int) -> None:
        nonlocal streamed
        ids.append(token)
        text = run.models.decode_step("target", state["prompts"], state["steps"], ids)
        if len(text) <= len(streamed):
            return  # the token ends within a character
        new, streamed = text[len(streamed) :], text
        event = StepEvent(type="target_delta", step=len(state["steps"]), writer="target", text=new)
        run.emit(event | {"tokens": len(ids)})
        if not run.streams_messages:
            return
        assembler = run.assembler(state, text)
        run.push(state, assembler.feed((committed + text)[len(assembler.text) :]))
        run.models.keep_assembler(answer_id(state), assembler)

    return on_token
