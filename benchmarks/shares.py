"""Where the time of a question goes: the models' forwards, the engine, and the graph."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.engine.scheduler import Scheduler
from measure import questions, table

__all__ = ["lines", "measured"]

QUESTIONS = 60
POLICIES = {"arbitrage": None, "draft only": AlwaysDraft(), "target only": AlwaysTarget()}
ROLES = ("draft", "router", "target")


def measured(scale: float) -> list[dict[str, Any]]:
    """A row for each policy: mean milliseconds of a question, one at a time."""
    asked = questions(max(2, round(QUESTIONS * scale)))
    spent: Counter[str] = Counter()
    Scheduler.step = timed(Scheduler.step, spent, "engine")  # type: ignore[method-assign]
    rows = []
    for side, policy in POLICIES.items():
        llm = ChatArbitrage(router=policy, max_tokens=300)
        llm.invoke(asked[0])  # loads
        for role, model in loaded(llm).items():
            if model is not None:  # a policy that never asks for it has not loaded it
                model.forward = timed(model.forward, spent, role)
        spent.clear()
        start = time.perf_counter()
        for question in asked:
            llm.invoke(question)
        whole = time.perf_counter() - start
        rows.append({"side": side, **_row(whole, spent, len(asked))})
        llm.close()
    return rows


def loaded(llm: ChatArbitrage) -> dict[str, Any]:
    """The model behind each role; what is neither draft nor target serves the router."""
    models = llm._models
    named = {models.engine(role): role for role in ("draft", "target")}
    return {named.get(e, "router"): e._worker.model for e in models._engines.values()}


def timed(work: Callable[..., Any], spent: Counter[str], name: str) -> Callable[..., Any]:
    """The same, its seconds added up."""

    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start  # type: ignore[assignment]

    return run


def _row(whole: float, spent: Counter[str], asked: int) -> dict[str, Any]:
    inside = sum(spent[role] for role in ROLES)
    parts = {role: spent[role] for role in ROLES}
    parts |= {"around": spent["engine"] - inside, "graph": whole - spent["engine"]}
    milliseconds = {name: 1e3 * value / asked for name, value in parts.items()}
    return {"whole": 1e3 * whole / asked, **milliseconds, "outside": 1 - inside / whole}


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown, and what was promised."""
    columns = ("side", "whole", *ROLES, "around", "graph")
    heads = [
        "side",
        "ms a question",
        "draft's forwards",
        "router's",
        "target's",
        "engine around them",
        "graph and hand-over",
        "outside of forwards",
    ]
    body = [[*(row[c] for c in columns), f"{row['outside']:.0%}"] for row in rows]
    return [*table(heads, body), "", "- Outside of forwards: promise at most 15 %."]
