"""Where the time of a question goes: the models' forwards, the engine, and the graph.

Forwards overlap where the draft has begun a step that is still being judged. What it wrote in vain
counts as if it had not run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.engine import traces
from langgraph_arbitrage.engine.ahead import Ahead
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from measure import questions, table

__all__ = ["lines", "measured"]

QUESTIONS = 60
WARM_UPS = 5  # until the models run by traces
POLICIES = {"arbitrage": None, "draft only": AlwaysDraft(), "target only": AlwaysTarget()}
ROLES = ("draft", "router", "target")
NAMES = {"reader": "router"}  # what the router's model is called
Span = tuple[float, float]


@dataclass
class Clock:
    """When models and workers were at work, in seconds of the performance counter."""

    forwards: dict[str, list[Span]] = field(default_factory=lambda: {r: [] for r in ROLES})
    steps: dict[str, list[Span]] = field(default_factory=lambda: {r: [] for r in ROLES})
    """Of the workers: forwards and what is around them."""
    vain: list[Span] = field(default_factory=list)
    """From the beginning of a step that nobody asked for until it was given up."""
    begun: float | None = None

    def timed(self, work: Callable[..., Any], *, step: bool = False) -> Callable[..., Any]:
        """The same, when it ran noted under its worker's model."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                model = threading.current_thread().name.removeprefix("arbitrage-")
                where = self.steps if step else self.forwards
                where[NAMES.get(model, model)].append((start, time.perf_counter()))

        return run

    def making(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """What makes a trace, or a loop around one: as it does, but what is made is timed."""

        def made(*args: Any) -> Any:
            work = make(*args)
            run: Any = self.timed(work)
            run.graph = work.graph
            return run

        return made

    def noting_begin(self, begin: Callable[..., None]) -> Callable[..., None]:
        """`Ahead.begin`, and when."""

        def run(ahead: Ahead, row: Any) -> None:
            self.give_up()
            self.begun = time.perf_counter()
            begin(ahead, row)

        return run

    def noting_asked(self, asked: Callable[..., Any]) -> Callable[..., Any]:
        """`Ahead.asked`, and what was in vain."""

        def run(ahead: Ahead, ticket: Any) -> Any:
            row = asked(ahead, ticket)
            if row is None:
                self.give_up()
            self.begun = None
            return row

        return run

    def give_up(self) -> None:
        """Note that nobody has asked for what was begun."""
        if self.begun is not None:
            self.vain.append((self.begun, time.perf_counter()))
        self.begun = None

    def parts(self, whole: Span) -> dict[str, float]:
        """Seconds of each part of a question."""
        self.give_up()

        def useful(spans: list[Span], role: str) -> list[Span]:
            before, after = (0.0, whole[0]), (whole[1], float("inf"))
            vain = self.vain if role == "draft" else []
            return _without(_merged(spans), [before, *vain, after])

        forwards = {role: useful(self.forwards[role], role) for role in ROLES}
        inside = _merged(span for spans in forwards.values() for span in spans)
        steps = _merged(span for role in ROLES for span in useful(self.steps[role], role))
        parts = {role: _length(spans) for role, spans in forwards.items()}
        parts["overlap"] = sum(parts.values()) - _length(inside)
        parts["around"] = _length(_without(steps, inside))
        parts["graph"] = whole[1] - whole[0] - _length(inside) - parts["around"]
        return parts


def measured(scale: float) -> list[dict[str, Any]]:
    """A row for each policy: mean milliseconds of a question, one at a time."""
    asked = questions(max(2, round(QUESTIONS * scale)))
    clock = Clock()
    Scheduler.step = clock.timed(Scheduler.step, step=True)  # type: ignore[method-assign]
    # A forward is a trace of the model or, where there is none yet, the model itself.
    SlotBackend._run = clock.timed(SlotBackend._run)  # type: ignore[method-assign]
    for name in ("script_of", "loop_of"):
        setattr(traces, name, clock.making(getattr(traces, name)))
    Ahead.begin = clock.noting_begin(Ahead.begin)  # type: ignore[method-assign]
    Ahead.asked = clock.noting_asked(Ahead.asked)  # type: ignore[method-assign]
    return [_measured(side, policy, asked, clock) for side, policy in POLICIES.items()]


def _measured(side: str, policy: Any, asked: list[str], clock: Clock) -> dict[str, Any]:
    with closing(ChatArbitrage(router=policy, max_tokens=300)) as llm:
        for question in asked[:WARM_UPS]:
            llm.invoke(question)
        total: dict[str, float] = {}
        for question in asked:
            clock.__init__()  # type: ignore[misc]
            start = time.perf_counter()
            llm.invoke(question)
            whole = start, time.perf_counter()
            parts = {"whole": whole[1] - whole[0], **clock.parts(whole)}
            total = {name: total.get(name, 0) + value for name, value in parts.items()}
    outside = (total["around"] + total["graph"]) / total["whole"]
    means = {name: 1e3 * value / len(asked) for name, value in total.items()}
    return {"side": side, **means, "outside": outside}


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same time, in order, without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _without(spans: list[Span], others: Iterable[Span]) -> list[Span]:
    """What of these lies in none of the others."""
    for low, high in others:
        pieces = [((start, min(end, low)), (max(start, high), end)) for start, end in spans]
        spans = [piece for pair in pieces for piece in pair if piece[0] < piece[1]]
    return spans


def _length(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown, and what was promised."""
    columns = ("side", "whole", *ROLES, "overlap", "around", "graph")
    heads = [
        "side",
        "ms a question",
        "draft's forwards",
        "router's",
        "target's",
        "of these at once",
        "engine around them",
        "graph and hand-over",
        "outside of forwards",
    ]
    body = [[*(row[c] for c in columns), f"{row['outside']:.0%}"] for row in rows]
    return [*table(heads, body), "", "- Outside of forwards: promise at most 15 %."]
