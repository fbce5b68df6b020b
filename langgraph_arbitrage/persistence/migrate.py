"""Adapts an answer in progress to a run with other models or after a human's edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.types import Overwrite

from langgraph_arbitrage.errors import OtherModelsError, ThreadError
from langgraph_arbitrage.loop.answer_state import begins_answer
from langgraph_arbitrage.loop.models import Models, vocabulary_owner
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.state import (
    STATE_VERSION,
    ArbitrageState,
    ModelIdentity,
    PendingStep,
    StepRecord,
)

__all__ = ["apply_update", "check_version", "human_step", "migrate"]


def migrate(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Return the state update with which this run can continue the answer in progress.

    It is empty unless other models wrote the answer, the run uses a model without a prompt in the
    state, or a human edited the last step.

    Raises:
        OtherModelsError: Other models wrote it, and `Context.other_models` is False.
        ThreadError: Another version of this package wrote it.
    """
    check_version(state)
    if begins_answer(state):
        return {}
    models, written = run.models, state.get("models", {})
    roles = run.generation.roles
    others = [r for r in roles if r in written and not _same(written[r], models.identity(r))]
    if others and not run.context.other_models:
        raise _other_models(others[0], written[others[0]], models.identity(others[0]))
    update: dict[str, Any] = {}
    if others or any(role not in state["prompts"] for role in roles):
        update = run.render(state)
    steps = state["steps"]
    if others:
        update["steps"] = Overwrite([_encoded(step, models) for step in steps])
        for key in ("draft_step", "target_step"):
            pending: PendingStep | None = state.get(key)  # type: ignore[assignment]
            if pending is not None:
                update[key] = {**pending, "ids": _ids(pending, models)}
        if decision := state.get("decision"):
            update["decision"] = {**decision, "verified": None}  # tokens of the other target
    elif steps and not steps[-1]["ids"]:
        update["steps"] = Overwrite([*steps[:-1], _encoded(steps[-1], models)])
    return update


def apply_update(state: ArbitrageState, update: Mapping[str, Any]) -> ArbitrageState:
    """Return the state after an update of `migrate` or `Run.open_answer`."""
    steps = update.get("steps", state.get("steps", []))
    plain = steps.value if isinstance(steps, Overwrite) else steps
    return {**state, **update, "steps": plain}  # type: ignore[typeddict-item]


def check_version(values: Mapping[str, Any]) -> None:
    """Raise `ThreadError` if another version of this package wrote the last answer's steps.

    A further message begins a new answer, which needs the messages alone.
    """
    version = values.get("version", 1)
    if not values.get("steps") or version == STATE_VERSION:
        return
    finished = values.get("finish_reason") is not None
    if finished and values["messages"][-1].type != "ai":
        return
    raise ThreadError(
        f"another version of langgraph_arbitrage wrote the steps of this thread (state version "
        f"{version}; this one reads {STATE_VERSION}), so they cannot be continued, rewound or "
        "forked. Its messages are intact: start a new thread with them, or continue it with the "
        "version that wrote it."
    )


def human_step(text: str, draft: PendingStep | None, models: Models) -> PendingStep:
    """Build a step with a human's text. It ends the answer if the draft's step does."""
    finish = draft["finish_reason"] if draft else "separator"
    if finish not in ("end", "stop"):
        finish, text = "separator", _with_separator(text, models)
    return PendingStep(
        writer="human",
        ids=models.tokenizer("target").encode(text),
        text=text,
        logprobs=[],
        finish_reason=finish,
        computed_tokens=0,
        cached_tokens=0,
        accepted_draft_tokens=0,
        seconds=0.0,
    )


def _encoded(step: StepRecord, models: Models) -> StepRecord:
    """Return a step with ids in this run's vocabularies."""
    if not step["ids"]:
        step = {**step, "text": _with_separator(step["text"], models)}
    ids = _ids(step, models)
    return {**step, "ids": ids, "logprobs": step["logprobs"] if ids == step["ids"] else []}


def _ids(step: Mapping[str, Any], models: Models) -> list[int]:
    tokenizer = models.tokenizer(vocabulary_owner(step["writer"]))
    ids: list[int] = step["ids"]
    if ids and max(ids) < len(tokenizer.hf) and tokenizer.decode(ids) == step["text"]:
        return ids
    return tokenizer.encode(step["text"])


def _with_separator(text: str, models: Models) -> str:
    separators = models.settings.separator
    return text if text.endswith(separators) else text + separators[0]


def _same(one: ModelIdentity, other: ModelIdentity) -> bool:
    if one["digest"] and other["digest"]:
        return one["digest"] == other["digest"]
    return one["path"] == other["path"]


def _other_models(role: str, written: ModelIdentity, here: ModelIdentity) -> OtherModelsError:
    def named(model: ModelIdentity) -> str:
        return f"{model['path']} (digest {model['digest'] or 'unknown'})"

    return OtherModelsError(
        f"another {role} wrote the beginning of this answer: {named(written)}; the {role} here is "
        f"{named(here)}. Continue with the model that wrote it, or allow others with "
        "context=Context(other_models=True)."
    )
