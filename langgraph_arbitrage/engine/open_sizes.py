"""Sizes that stay open in a trace: values of tensors, where Python would have numbers.

What a trace is made on and what it is given: tokens, bounds of the arenas, and places in the slot
cache that read their sizes from these as they run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from langgraph_arbitrage.engine.lanes import Lanes, last_places
from langgraph_arbitrage.engine.slot_cache import Place, SlotCache
from langgraph_arbitrage.engine.slots import Arena
from langgraph_arbitrage.engine.transfer import on_device

__all__ = [
    "OpenPlace",
    "Traced",
    "example",
    "going_on",
    "in_order",
    "inputs",
    "known_places",
    "most_read",
    "script_of",
    "unwarned",
]

VIEW = 4  # the column of the bounds
EXAMPLE = 2  # rows of each arena, and tokens of each row, that a trace is made on

Traced = Callable[..., Tensor]
"""Tokens [4, B, Q], bounds [arenas, 5], wanted places [keep], keys and values → logits."""


def script_of(function: Traced, example: Sequence[Tensor]) -> Traced:
    """A traced function that is gone with its last user, and the model's weights with it.

    `torch.jit.trace` keeps what it makes of a function until the process ends, weights included.
    """
    names = "".format  # of values: none
    graph, _ = torch._C._create_graph_by_tracing(function, tuple(example), names, True, False)
    made: Traced = torch._C.CompilationUnit().create_function("forward", graph)
    return made


@dataclass
class OpenPlace(Place):
    """A place whose sizes are in a tensor: a trace would keep a number as it is."""

    size: Tensor | None = None
    """A row of the bounds."""

    @classmethod
    def of(cls, n: int, tokens: Tensor, size: Tensor, arenas: int) -> OpenPlace:
        """The place in the n-th arena, of tokens as `Lanes.tokens` lays them out."""
        writes, rows = tokens[2], tokens[3]
        lanes: Any = slice(None)
        if arenas > 1:
            lanes = slice(*size[:2].unbind(0))
        return cls(
            arena=Arena(n),
            slots=0,  # the arena is there
            lanes=lanes,
            rows=rows[lanes, 0],
            view=0,
            row_ids=rows[lanes],
            positions=writes[lanes],
            size=size,
        )

    def read(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those that the rows attend to: where these are a range, as it lies there."""
        found: tuple[Tensor, Tensor] = _reader()(keys, values, self.size, self.rows)
        return found


@cache
def _reader() -> Callable[..., Any]:
    """What decides as it runs, not when it is traced."""
    with unwarned():
        return torch.jit.script(_read)


def _read(keys: Tensor, values: Tensor, size: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    low, high, view = int(size[2]), int(size[3]), int(size[4])
    if high - low == rows.size(0):
        return keys[low:high, :, :view], values[low:high, :, :view]
    keys, values = keys[:, :, :view], values[:, :, :view]
    return keys.index_select(0, rows), values.index_select(0, rows)


def most_read(bounds: Tensor) -> Tensor:
    """All positions that are read in some arena, [view]."""
    return torch.arange(bounds[:, VIEW].max(), device=bounds.device)  # type: ignore[call-overload, no-any-return]


def inputs(lanes: Lanes, keep: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What a trace takes beside keys and values.

    The bounds of each arena: first and last lane, first and last slot, positions that are read.
    """
    bounds = [(s.lanes.start, s.lanes.stop, s.low, s.high, s.view) for s in lanes.spans]
    wanted = last_places(lanes.width, keep, device)
    return lanes.tokens(device), on_device(bounds, device), wanted


def going_on(lanes: Lanes, device: torch.device) -> Tensor:
    """How far each lane goes on with a token: 1, or 0 where no row is, [B, 1]."""
    if lanes.order is None:
        return on_device([[1]] * len(lanes.ids), device)
    rows = set(lanes.order)
    return on_device([[int(lane in rows)] for lane in range(len(lanes.ids))], device)


def in_order(values: Tensor, lanes: Lanes, dim: int) -> Tensor:
    """Those of each row instead of each lane."""
    if lanes.order is None:
        return values
    return values.index_select(dim, on_device(lanes.order, values.device))


def known_places(tokens: Tensor, arenas: int) -> list[Place]:
    """The places of the example, with sizes that no tensor has to be asked for."""
    lanes = [slice(EXAMPLE * n, EXAMPLE * (n + 1)) for n in range(arenas)]
    everything = slice(0, EXAMPLE)
    return [
        Place(
            Arena(n),
            0,
            here,
            everything,
            EXAMPLE,
            row_ids=tokens[3, here],
            positions=tokens[2, here],
        )
        for n, here in enumerate(lanes)
    ]


def example(arenas: int, cache: SlotCache) -> tuple[Tensor, ...]:
    """Inputs to trace on: a few rows and tokens, and arenas of their own."""
    n, many = EXAMPLE, arenas * EXAMPLE
    there = cache.made_up(n, n, arenas)
    device = there[0].device
    places = list(range(n))
    rows = [[slot] * n for _ in range(arenas) for slot in range(n)]
    tokens = on_device(([[0] * n] * many, [places] * many, [places] * many, rows), device)
    bounds = on_device([(n * i, n * i + n, 0, n, n) for i in range(arenas)], device)
    return (tokens, bounds, on_device(places, device), *there)


@contextmanager
def unwarned() -> Iterator[None]:
    """Without what the tracer warns of: sizes that Python looks at are what checks are for.

    Warnings are a setting of the process. No other ones are hidden: another thread that sets them
    meanwhile might put these filters back for good.
    """
    from torch.jit._trace import TracerWarning  # here: the rest does without TorchScript

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield
