"""A batch laid out for a forward: its lanes are the slots that are computed, arena by arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from langgraph_arbitrage.engine.row import Batch, Row, by_arena
from langgraph_arbitrage.engine.slot_cache import Place
from langgraph_arbitrage.engine.slots import Arena, Slot, SlotTable
from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["Lanes", "Span", "lanes_of", "last_places"]


@dataclass(frozen=True)
class Span:
    """Lanes that lie in one arena."""

    lanes: slice
    arena: Arena
    low: int
    """First slot that is computed."""
    high: int
    """One past the last."""
    in_place: bool
    """Whether all between are: they are read where they are; else they are copied together."""
    view: int
    """Positions below this are read."""
    slots: int
    """Slots that the arena must have room for."""


@dataclass(frozen=True)
class Lanes:
    """What goes into a forward of B lanes and Q tokens."""

    spans: list[Span]
    ids: list[list[int]]
    """[B, Q], padded on the left."""
    positions: list[list[int]]
    """[B, Q]."""
    writes: list[list[int]]
    """Where each token is written, [B, Q]."""
    slots: list[int]
    """The index of each lane's slot in its arena, [B]."""
    order: list[int] | None
    """The lane of each row of the batch, where they are not the same in the same order."""

    @property
    def alone(self) -> bool:
        """Whether there is one lane."""
        return len(self.ids) == 1

    @property
    def width(self) -> int:
        """Tokens of a lane (Q)."""
        return len(self.ids[0])

    @cached_property
    def view(self) -> int:
        """Positions below this are read in some lane."""
        return max(span.view for span in self.spans)

    def tokens(self, device: torch.device) -> Tensor:
        """Ids, positions, where each is written and its slot, in one transfer: [4, B, Q]."""
        if self.alone and self.width == 1:  # a flat list is read in half the time
            values = [self.ids[0][0], self.positions[0][0], self.writes[0][0], self.slots[0]]
            return on_device(values, device).view(4, 1, 1)
        rows = [[slot] * self.width for slot in self.slots]
        return on_device((self.ids, self.positions, self.writes, rows), device)

    def places(self, tokens: Tensor) -> list[Place]:
        """Where the lanes write and read, an arena each."""
        if self.alone:
            return [self._place_of_one()]
        writes, rows = tokens[2], tokens[3]
        return [
            Place(
                arena=span.arena,
                slots=span.slots,
                lanes=span.lanes,
                rows=slice(span.low, span.high) if span.in_place else rows[span.lanes, 0],
                view=span.view,
                row_ids=rows[span.lanes],
                positions=writes[span.lanes],
            )
            for span in self.spans
        ]

    def _place_of_one(self) -> Place:
        """A single lane is written as one range."""
        (span,) = self.spans
        return Place(
            arena=span.arena,
            slots=span.slots,
            lanes=span.lanes,
            rows=slice(span.low, span.high),
            view=span.view,
            first=self.positions[0][0],
        )


def lanes_of(batch: Batch, table: SlotTable) -> Lanes:
    """Lay out a batch over the arenas of a table."""
    if len(batch.rows) == 1:
        return _alone(batch.rows[0], batch.counts[0], table)
    fed = {r.slot: (r, n) for r, n in zip(batch.rows, batch.counts, strict=True)}
    spans: list[Span] = []
    lanes: list[Slot] = []
    ids, positions, writes = [], [], []
    for rows in by_arena(batch.rows):
        slots, in_place = _computed([r.slot for r in rows], table, batch.width)
        view = 0
        for slot in slots:
            start = len(slot.ids)
            row, count = fed.get(slot, (None, 0))
            pad = batch.width - count
            end = start + count
            new = list(range(start, end))
            ids.append([0] * pad + (row.tokens[start:end] if row else []))
            # Padding looks at one token, and is written past the end, where nothing is valid.
            positions.append([0] * pad + new)
            writes.append([end] * pad + new)
            view = max(view, end if count else 1)
        first, arena = len(lanes), rows[0].slot.arena
        lanes += slots
        spans.append(
            Span(
                lanes=slice(first, len(lanes)),
                arena=arena,
                low=slots[0].index,
                high=slots[-1].index + 1,
                in_place=in_place,
                view=view,
                slots=len(table.arenas[arena]),
            )
        )
    lane = {slot: i for i, slot in enumerate(lanes)}
    order = [lane[r.slot] for r in batch.rows]
    indices = [slot.index for slot in lanes]
    sorted_ = order == list(range(len(lanes)))
    return Lanes(spans, ids, positions, writes, indices, None if sorted_ else order)


def _alone(row: Row, count: int, table: SlotTable) -> Lanes:
    """The same for one row."""
    slot = row.slot
    start, index = len(slot.ids), slot.index
    end = start + count
    positions = [list(range(start, end))]
    held = len(table.arenas[slot.arena])
    span = Span(slice(0, 1), slot.arena, index, index + 1, in_place=True, view=end, slots=held)
    return Lanes([span], [row.tokens[start:end]], positions, positions, [index], None)


def _computed(slots: Sequence[Slot], table: SlotTable, width: int) -> tuple[list[Slot], bool]:
    """The slots of an arena to compute for these, by index, and whether they are a range.

    A range is read in place; for one token a row, idle ones inside are computed for nothing, which
    is cheaper than copying all keys and values out, unless there are many.
    """
    by_index = sorted(slots, key=lambda s: s.index)
    low, high = by_index[0].index, by_index[-1].index + 1
    few = 2 * (high - low) <= 3 * len(slots) if width == 1 else high - low == len(slots)
    if few:
        return table.arenas[slots[0].arena][low:high], True
    return by_index, False


@lru_cache(maxsize=256)
def last_places(width: int, keep: int, device: torch.device) -> Tensor:
    """The last `keep` of so many places, [keep]."""
    return torch.arange(width - keep, width, device=device)
