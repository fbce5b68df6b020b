"""The shapes that graphs are made for: few, so that each is met often. No tensors here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langgraph_arbitrage.engine.row import Row
from langgraph_arbitrage.engine.slots import Arena

__all__ = ["Part", "Shape", "part_of"]

COPIED = 2048  # positions up to which a batch's keys are copied together, wherever its slots are
NARROWEST = 64  # positions that the smallest graph reads


@dataclass(frozen=True)
class Part:
    """Rows of one arena in a graph: all that is not a value in a tensor."""

    arena: Arena
    rows: int
    """Sequences, padding included."""
    view: int
    """Positions that are read."""
    low: int | None = None
    """First slot of a range that is read in place; None where slots are copied together."""


Shape = tuple[Part, ...]
"""What a graph is made for: a part for each arena, the shortest slots first."""


def view_of(tokens: int, length: int) -> int:
    """Positions that a graph reads for rows of up to so many tokens: at most half too many."""
    step = max(NARROWEST, (1 << (tokens - 1).bit_length()) // 4)
    return min(-(-tokens // step) * step, length)


def part_of(rows: Sequence[Row], capacity: int) -> Part | None:
    """The shape for decoding these rows of one arena; None where an eager forward is better.

    Args:
        rows: Each has one token to read.
        capacity: Slots that the arena has memory for.
    """
    if not capacity:
        return None
    arena = rows[0].slot.arena
    view = view_of(max(len(r.slot.ids) for r in rows) + 1, arena.length)
    wide = 1 << (len(rows) - 1).bit_length()
    if wide * view <= COPIED:
        return Part(arena, wide, view)
    indices = [r.slot.index for r in rows]
    first, span = min(indices), max(indices) + 1 - min(indices)
    if span > 2 * len(rows):
        return None  # too much would be read for nothing
    wide = 1 << (span - 1).bit_length()
    low = first - first % max(1, wide // 2)  # few graphs, whichever slots are taken
    if low + wide < first + span:
        wide *= 2
    wide = min(wide, capacity)
    return Part(arena, wide, view, min(low, capacity - wide))
