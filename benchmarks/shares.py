"""Where the time of a question goes: the models' forwards, the engine, and the graph."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.engine import traces
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from measure import questions, table

__all__ = ["lines", "measured"]

QUESTIONS = 60
WARM_UPS = 5  # until the models run by traces
POLICIES = {"arbitrage": None, "draft only": AlwaysDraft(), "target only": AlwaysTarget()}
ROLES = ("draft", "router", "target")
NAMES = {"reader": "router"}  # what the router's model is called


def measured(scale: float) -> list[dict[str, Any]]:
    """A row for each policy: mean milliseconds of a question, one at a time."""
    asked = questions(max(2, round(QUESTIONS * scale)))
    spent: Counter[str] = Counter()
    Scheduler.step = timed(Scheduler.step, spent, "engine")  # type: ignore[method-assign]
    # A forward is a trace of the model or, where there is none yet, the model itself.
    SlotBackend._run = timed(SlotBackend._run, spent)  # type: ignore[method-assign]
    for name in ("script_of", "loop_of"):
        setattr(traces, name, _timing(getattr(traces, name), spent))
    return [_measured(side, policy, asked, spent) for side, policy in POLICIES.items()]


def _measured(side: str, policy: Any, asked: list[str], spent: Counter[str]) -> dict[str, Any]:
    with closing(ChatArbitrage(router=policy, max_tokens=300)) as llm:
        for question in asked[:WARM_UPS]:
            llm.invoke(question)
        spent.clear()
        start = time.perf_counter()
        for question in asked:
            llm.invoke(question)
        return {"side": side, **_row(time.perf_counter() - start, spent, len(asked))}


def _timing(make: Callable[..., Any], spent: Counter[str]) -> Callable[..., Any]:
    """What makes a trace, or a loop around one: as it does, but what is made is timed."""

    def made(*args: Any) -> Any:
        work = make(*args)
        run: Any = timed(work, spent)
        run.graph = work.graph
        return run

    return made


def timed(
    work: Callable[..., Any], spent: Counter[str], name: str | None = None
) -> Callable[..., Any]:
    """The same, its seconds added up, under the name of the worker's model where none is given."""

    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            model = threading.current_thread().name.removeprefix("arbitrage-")
            spent[name or NAMES.get(model, model)] += time.perf_counter() - start  # type: ignore[assignment]

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
