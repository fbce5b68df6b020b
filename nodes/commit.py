"""The chosen step becomes part of the answer, and the answer may be complete."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage

from langgraph_arbitrage.answer import answer_message, answer_text, releasable
from langgraph_arbitrage.answer_state import answer_id, forwarded
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState, StepRecord
from langgraph_arbitrage.tools.messages import ChunkWriter

__all__ = ["commit"]


def commit(state: ArbitrageState, run: Run) -> Body:
    """Append the accepted draft step, or the target's in its place; end the answer if it ends."""
    yield ()  # no model is asked
    record, finish = _chosen(state, run)
    steps = [*state["steps"], record]
    run.emit(
        StepEvent(
            type="committed",
            step=len(steps) - 1,
            writer=record["writer"],
            text=record["text"],
            score=record["score"],
            tokens=len(record["ids"]),
            kept=record["kept"],
            seconds=record["seconds"],
        )
    )
    update: dict[str, Any] = {
        "steps": [record],
        "draft_step": None,
        "target_step": None,
        "verdict": None,
    }
    reason = _finish_reason(finish, steps, state, run)
    if reason is not None:
        text = answer_text(
            [s["text"] for s in steps], run.limits.stop, run.models.settings.separator
        )
        message = _message(reason, text, steps, state, run)
        update |= {"finish_reason": reason, "messages": [message]}
        run.emit(
            StepEvent(
                type="finished",
                step=len(steps) - 1,
                text=text,
                tokens=sum(len(s["ids"]) for s in steps),
                seconds=sum(s["seconds"] for s in steps),
                reason=reason,
            )
        )
        _say(steps, text, message, state, run)
    else:
        _say(steps, "".join(s["text"] for s in steps), None, state, run)
    return update


def _say(
    steps: list[StepRecord], text: str, final: AIMessage | None, state: ArbitrageState, run: Run
) -> None:
    """Stream what this step adds to the answer, as soon as it is certain, as message chunks.

    The text so far is `text`; calls come with the whole message, by its ids.
    """
    if not run.is_read:
        return
    ends = run.limits.stop, run.models.settings.separator
    if final is None:
        text = text[: releasable(text, *ends)]
    before = "".join(s["text"] for s in steps[:-1])
    told = releasable(before, *ends)
    parser = run.parser(steps, state["demands"]["tools"])
    parser.feed(before[:told])
    pieces = [*parser.feed(text[told:]), *(parser.finish() if final else [])]
    writer = ChunkWriter(blocks=False)
    for chunk in writer.chunks([p for p in pieces if p.call is None and p.text]):
        run.say(state, chunk)
    if final is not None:
        last = writer.last(
            usage_metadata=final.usage_metadata,
            response_metadata=final.response_metadata,
            tool_calls=final.tool_calls,
            invalid_tool_calls=final.invalid_tool_calls,
        )
        run.say(state, last)


def _chosen(state: ArbitrageState, run: Run) -> tuple[StepRecord, str]:
    """The step that is taken, and why it ended.

    The rule of the method: z_t replaces z_d iff the policy escalates.
    """
    draft, target, verdict = state["draft_step"], state["target_step"], state["verdict"]
    escalated = draft is None or (verdict is not None and verdict["escalate"])
    taken, other = (target, draft) if escalated else (draft, target)
    assert taken is not None  # noqa: S101 - an edge of the graph leads here
    record = StepRecord(
        writer=taken["writer"],
        text=taken["text"],
        ids=taken["ids"],
        score=verdict["score"] if verdict else None,
        memory=verdict["memory"] if verdict else [],
        seconds=sum(part["seconds"] for part in (draft, target, verdict) if part),
        writer_seconds=taken["seconds"],
        discarded=len(other["ids"]) if other else 0,
        forwarded=forwarded(draft, target, verdict),
        cached=taken["cached"],
        kept=taken["kept"],
        logprobs=taken["logprobs"] if run.limits.logprobs else [],
    )
    return run.close_thinking(record, state), taken["finish"]


def _finish_reason(
    finish: str, steps: list[StepRecord], state: ArbitrageState, run: Run
) -> str | None:
    """Why the answer ends here, or None where it goes on."""
    if finish in ("end", "stop"):
        return "stop"
    if sum(len(s["ids"]) for s in steps) >= run.limits.max_tokens:
        return "length"
    for role in run.roles:
        context = run.models.engine(role).context
        if context and len(run.models.ids(role, state["prompts"], steps)) >= context:
            return "context"
    if run.limits.at_limit == "end" and (limit := run.limit_reached(steps)):
        return limit
    if len(steps) >= run.limits.max_steps:
        return "max_steps"
    return None


def _message(
    reason: str, text: str, steps: list[StepRecord], state: ArbitrageState, run: Run
) -> AIMessage:
    settings = run.models.settings
    used = [r for r in run.roles if any(r in s["forwarded"] for s in steps)]
    pieces = run.pieces(steps, state["demands"]["tools"], text)
    message = answer_message(
        steps,
        text,
        pieces,
        model_name=settings.target,
        prompt_tokens=len(state["prompts"]["target"]),
        answer_tokens=sum(len(run.models.step_ids("target", s)) for s in steps),
        thinking_tokens=run.thinking_tokens(steps),
        engines=run.models.backends(used),
        finish_reason=reason,
        limit=run.limit_reached(steps),
        logprobs=run.token_logprobs(steps) if run.limits.logprobs else None,
    )
    message.id = answer_id(state)
    return message
