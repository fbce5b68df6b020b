"""The node `commit`: the chosen step becomes part of the answer."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.answer import AnswerAssembler, answer_message
from langgraph_arbitrage.loop.answer_state import answer_id, computed_tokens, joined_text
from langgraph_arbitrage.loop.answer_text import answer_text
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.state import ArbitrageState, StepRecord

__all__ = ["commit"]

PENDING = ("draft_step", "target_step", "decision")


async def commit(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Append the draft's step or the target's step, and end the answer if it is complete."""
    record, step_finish = _choose(state, run)
    steps = [*state["steps"], record]
    run.emit(
        StepEvent(
            type="committed",
            step=len(steps) - 1,
            writer=record["writer"],
            text=record["text"],
            score=record["score"],
            tokens=len(record["ids"]),
            accepted_draft_tokens=record["accepted_draft_tokens"],
            seconds=record["seconds"],
        )
    )
    text = joined_text(steps)
    assembler = run.assembler(state, record["text"])
    run.push(state, assembler.feed(text[len(assembler.text) :]))
    update: dict[str, Any] = {"steps": [record]}
    # LangGraph needs time for each written key, so only changed keys are written.
    update |= {key: None for key in PENDING if state.get(key) is not None}
    reason = _finish_reason(step_finish, steps, state, run)
    if reason is None:
        run.models.keep_assembler(answer_id(state), assembler)
        before: ArbitrageState = {**state, **update, "steps": steps}  # type: ignore[typeddict-item]
        successor = run.first_writer(before)
        return update if successor == state.get("next_node") else {**update, "next_node": successor}
    message = _finish(reason, text, steps, assembler, state, run)
    return {**update, "finish_reason": reason, "messages": [message], "next_node": None}


def _choose(state: ArbitrageState, run: Run) -> tuple[StepRecord, str]:
    """Return the record of the chosen step, and why its generation ended.

    Rule of the method: z_t replaces z_d iff the policy escalates.
    """
    draft, target, decision = state["draft_step"], state["target_step"], state["decision"]
    escalated = draft is None or (decision is not None and decision["escalate"])
    taken, other = (target, draft) if escalated else (draft, target)
    assert taken is not None  # noqa: S101 - an edge of the graph leads here
    record = StepRecord(
        writer=taken["writer"],
        text=taken["text"],
        ids=taken["ids"],
        score=decision["score"] if decision else None,
        policy_state=decision["policy_state"] if decision else [],
        seconds=sum(part["seconds"] for part in (draft, target, decision) if part),
        writer_seconds=taken["seconds"],
        discarded_tokens=len(other["ids"]) if other else 0,
        computed_tokens=computed_tokens(draft, target, decision),
        cached_tokens=taken["cached_tokens"],
        accepted_draft_tokens=taken["accepted_draft_tokens"],
        logprobs=taken["logprobs"] if run.settings.logprobs else [],
    )
    return run.generation.thinking.close(record, state["steps"]), taken["finish_reason"]


def _finish_reason(
    step_finish: str, steps: list[StepRecord], state: ArbitrageState, run: Run
) -> str | None:
    """Return why the answer ends after this step; None if it continues."""
    if step_finish in ("end", "stop"):
        return "stop"
    if sum(len(s["ids"]) for s in steps) >= run.generation.max_tokens:
        return "length"
    for role in run.generation.roles:
        if role == "draft" and run.policy.needs_target:
            continue  # the target continues alone
        context = run.models.engine(role).context
        if context and len(run.models.input_ids(role, state["prompts"], steps)) >= context:
            return "context"
    if run.settings.at_limit == "end" and (limit := run.limit_reached(steps)):
        return limit
    return "max_steps" if len(steps) >= run.settings.max_steps else None


def _finish(
    reason: str,
    text: str,
    steps: list[StepRecord],
    assembler: AnswerAssembler,
    state: ArbitrageState,
    run: Run,
) -> AIMessage:
    """Stream the rest of the answer and return its message."""
    models, generation = run.models, run.generation
    final = answer_text(text, run.settings.stop, models.settings.separator)
    run.emit(
        StepEvent(
            type="finished",
            step=len(steps) - 1,
            text=final,
            tokens=sum(len(s["ids"]) for s in steps),
            seconds=sum(s["seconds"] for s in steps),
            finish_reason=reason,
        )
    )
    chunks = assembler.finish(final)
    used = [r for r in generation.roles if any(r in s["computed_tokens"] for s in steps)]
    message = answer_message(
        steps,
        final,
        assembler.pieces,
        model_name=models.settings.target,
        prompt_tokens=len(state["prompts"]["target"]),
        answer_tokens=sum(len(models.step_ids("target", s)) for s in steps),
        thinking_tokens=generation.thinking.count(steps),
        engines=models.backends(used),
        finish_reason=reason,
        limit=run.limit_reached(steps),
        draft_context_full=run.draft_is_full({**state, "steps": steps}),
        logprobs=generation.token_logprobs(steps) if run.settings.logprobs else None,
    )
    message.id = answer_id(state)
    run.push(state, [*chunks, assembler.last_chunk(message)])
    return message
