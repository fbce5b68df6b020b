"""A batch as tensors: its lanes are the slots that are computed, arena by arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langgraph_arbitrage.engine.row import Batch, by_arena
from langgraph_arbitrage.engine.slot_cache import Place
from langgraph_arbitrage.engine.slots import Slot, SlotTable
from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["Lanes", "lanes_of"]


@dataclass(frozen=True)
class Lanes:
    """What goes into a forward of B lanes and Q tokens."""

    places: list[Place]
    """Where it writes and reads, an arena each."""
    input_ids: Tensor
    """[B, Q], padded on the left."""
    position_ids: Tensor
    """[B, Q]."""
    order: Tensor | None
    """The lane of each row of the batch, where they are not the same in the same order."""

    @property
    def alone(self) -> bool:
        """Whether it is one lane, written as one range."""
        return self.places[0].first is not None

    @property
    def view(self) -> int:
        """Positions below this are read in some lane."""
        return max(place.view for place in self.places)


def lanes_of(batch: Batch, table: SlotTable, device: torch.device) -> Lanes:
    """Lay out a batch over the arenas of a table."""
    fed = {r.slot: (r, n) for r, n in zip(batch.rows, batch.counts, strict=True)}
    ranges = [_computed([r.slot for r in rows], table) for rows in by_arena(batch.rows)]
    lanes = [slot for slots, _ in ranges for slot in slots]
    ids, positions, writes = [], [], []
    for slot in lanes:
        start = len(slot.ids)
        row, count = fed.get(slot, (None, 0))
        pad = batch.width - count
        new = list(range(start, start + count))
        ids.append([0] * pad + (row.tokens[start : start + count] if row else []))
        # Padding looks at one token, and is written past the end, where nothing is valid.
        positions.append([0] * pad + new)
        writes.append([start + count] * pad + new)
    order = None
    if len(lanes) == 1:
        places = [_place_of_one(slot, positions[0], table)]
    else:
        ends = [p[-1] + 1 for p in positions]
        places = _places(ranges, on_device(writes, device), ends, table)
        lane = {slot: i for i, slot in enumerate(lanes)}
        rows = [lane[r.slot] for r in batch.rows]
        if rows != list(range(len(lanes))):
            order = on_device(rows, device)
    return Lanes(places, on_device(ids, device), on_device(positions, device), order)


def _computed(slots: Sequence[Slot], table: SlotTable) -> tuple[list[Slot], bool]:
    """The slots of an arena to compute for these, by index, and whether they are a range.

    A range is read in place; idle ones inside are computed for nothing, which is cheaper than
    copying all keys and values out, unless there are many.
    """
    by_index = sorted(slots, key=lambda s: s.index)
    low, high = by_index[0].index, by_index[-1].index + 1
    if 2 * (high - low) <= 3 * len(slots):
        return table.arenas[slots[0].length][low:high], True
    return by_index, False


def _place_of_one(slot: Slot, positions: list[int], table: SlotTable) -> Place:
    return Place(
        length=slot.length,
        slots=len(table.arenas[slot.length]),
        lanes=slice(0, 1),
        rows=slice(slot.index, slot.index + 1),
        view=positions[-1] + 1,
        first=positions[0],
    )


def _places(
    ranges: list[tuple[list[Slot], bool]], writes: Tensor, ends: list[int], table: SlotTable
) -> list[Place]:
    """The places of several lanes, from the positions that each writes and reads up to."""
    indices = on_device([[slot.index] for slots, _ in ranges for slot in slots], writes.device)
    places, first = [], 0
    for slots, in_place in ranges:
        low, lanes = slots[0].index, slice(first, first + len(slots))
        places.append(
            Place(
                length=slots[0].length,
                slots=len(table.arenas[slots[0].length]),
                lanes=lanes,
                rows=slice(low, low + len(slots)) if in_place else indices[lanes, 0],
                row_ids=indices[lanes],
                positions=writes[lanes],
                view=max(ends[lanes]),
            )
        )
        first += len(slots)
    return places
