"""Steps that the models here did not write: those of other models, and those of a human."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.types import Overwrite

from langgraph_arbitrage.answer_state import begins_answer
from langgraph_arbitrage.errors import OtherModelsError
from langgraph_arbitrage.models.pair import Models
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState, ModelIdentity, PendingStep, StepRecord

__all__ = ["adopted", "human_step"]


def adopted(state: ArbitrageState, run: Run) -> tuple[ArbitrageState, dict[str, Any]]:
    """The state as the models of this run go on with it, and the update that makes it so.

    Nothing changes unless other models wrote it, the run needs one that had no part in it, or a
    human has edited its last step.

    Raises:
        OtherModelsError: Other models wrote it, and the context does not say to go on.
    """
    if begins_answer(state):
        return state, {}
    models, written = run.models, state.get("models", {})
    others = [r for r in run.roles if r in written and not _same(written[r], models.identity(r))]
    if others and not run.other_models:
        raise _refusal(others[0], written[others[0]], models.identity(others[0]))
    update: dict[str, Any] = {}
    if others or any(role not in state["prompts"] for role in run.roles):
        prompts = run.prompts(state)
        update = {"prompts": prompts, "models": run.identities(prompts)}
        update["demands"] = run.demands(state)
    steps = state["steps"]
    if others:
        steps = [_read(s, models) for s in steps]
        for key in ("draft_step", "target_step"):
            pending: PendingStep | None = state.get(key)  # type: ignore[assignment]
            if pending is not None:
                update[key] = {**pending, "ids": _ids(pending, models)}
    elif steps and not steps[-1]["ids"]:
        steps = [*steps[:-1], _read(steps[-1], models)]
    else:
        return {**state, **update}, update  # type: ignore[typeddict-item]
    changed: Any = {**state, **update, "steps": steps}
    return changed, {**update, "steps": Overwrite(steps)}


def human_step(text: str, draft: PendingStep | None, models: Models) -> PendingStep:
    """A human's text in the place of a draft's step; it ends the answer if that did."""
    finish = draft["finish"] if draft and draft["finish"] in ("end", "stop") else "separator"
    if finish == "separator":
        text = _separated(text, models)
    return PendingStep(
        writer="human",
        ids=models.tokenizer("target").encode(text),
        text=text,
        logprobs=[],
        finish=finish,
        fed=0,
        cached=0,
        kept=0,
        seconds=0.0,
    )


def _read(step: StepRecord, models: Models) -> StepRecord:
    if not step["ids"]:
        step = {**step, "text": _separated(step["text"], models)}
    ids = _ids(step, models)
    return {**step, "ids": ids, "logprobs": step["logprobs"] if ids == step["ids"] else []}


def _ids(step: Mapping[str, Any], models: Models) -> list[int]:
    """A step's ids in the vocabulary of the model that has its writer's role now."""
    tokenizer = models.tokenizer("draft" if step["writer"] == "draft" else "target")
    ids: list[int] = step["ids"]
    if ids and max(ids) < len(tokenizer.hf) and tokenizer.decode(ids) == step["text"]:
        return ids
    return tokenizer.encode(step["text"])


def _separated(text: str, models: Models) -> str:
    separators = models.settings.separator
    return text if text.endswith(separators) else text + separators[0]


def _same(one: ModelIdentity, other: ModelIdentity) -> bool:
    if one["digest"] and other["digest"]:
        return one["digest"] == other["digest"]
    return one["path"] == other["path"]


def _refusal(role: str, written: ModelIdentity, here: ModelIdentity) -> OtherModelsError:
    def named(model: ModelIdentity) -> str:
        return f"{model['path']} (files {model['digest'] or 'not on that machine'})"

    return OtherModelsError(
        f"this answer was begun with another {role}: {named(written)}, and the {role} here is "
        f"{named(here)}. Go on with the models that wrote it, or say that others may: "
        "context=Context(other_models=True)."
    )
