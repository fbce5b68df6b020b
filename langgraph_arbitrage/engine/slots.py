"""Who holds which slot, and which slot a request should take. No tensors here.

A slot keeps the token ids whose keys and values it holds, also after its row has left, so that
a later request that begins with the same ids goes on from there. Slots live in *arenas*, one a
length class: one long sequence does not make every slot long, and attention reads rows of similar
length together. Each hand of a model has arenas of its own: no two write to the same memory.
"""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["APART", "JOINED", "Arena", "Claim", "Lengths", "Slot", "SlotTable", "common_prefix"]

MIN_OVERLAP = 16  # a shorter common prefix is cheaper to read again than to look after
KEEP_IDLE = 8  # idle slots an arena may grow to in any case, before one of them is overwritten
STALE = 8  # forwards after which the writer of a free slot is not expected back for its next step


@dataclass(frozen=True)
class Lengths:
    """How long the slots of the arenas are."""

    first: int
    """Tokens in a slot of the smallest arena."""
    factor: int
    """Each arena's slots are this much longer than those of the one before."""

    @property
    def grow(self) -> int:
        """Tokens that a row may write before it is moved to a longer slot."""
        return self.first // 2


JOINED = Lengths(128, 2)
"""Rows of several arenas run together: what is read beyond a row's end is what costs."""
APART = Lengths(512, 4)
"""Each arena costs a forward of its own: as few as can be."""


class Arena(NamedTuple):
    """The name of an arena."""

    length: int
    """Tokens that each of its slots has room for."""
    hand: int = 0
    """Whose it is."""


@dataclass(eq=False)
class Slot:
    """Room for one sequence's keys and values."""

    arena: Arena
    index: int
    """Its place in the arena's batch dimension."""
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are valid, from position 0."""
    busy: bool = False
    used: int = 0
    """When its row left, in ticks of the table's clock: which free slot was left first."""
    freed: int = 0
    """When its row left, in forwards."""

    @property
    def length(self) -> int:
        """Tokens it has room for."""
        return self.arena.length


@dataclass(frozen=True)
class Claim:
    """A slot for a request, and where its beginning is copied from, if it is."""

    slot: Slot
    source: Slot | None
    cached: int
    """Tokens of the request that the slot holds once the copy is made."""


class SlotTable:
    """All slots of one model; decides, never touches a tensor."""

    def __init__(self, max_slots: int, context: int | None, lengths: Lengths = JOINED) -> None:
        self.max_slots = max_slots
        self.context = context
        self.lengths = lengths
        self.arenas: dict[Arena, list[Slot]] = {}
        self.forwards = 0
        """How often the model has run."""
        self.keep_idle = KEEP_IDLE
        """Idle slots of all arenas up to which they grow; more, each time one was missed."""
        self._overwritten: deque[list[int]] = deque(maxlen=max_slots)  # what they held
        self._clock = itertools.count(1)
        self._full: set[Arena] = set()  # arenas for which there was no more memory

    def arena_length(self, tokens: int) -> int:
        """Length of the smallest arena whose slots have room for `tokens` and one spare.

        The spare place takes what padding writes.
        """
        length = self.lengths.first
        while length < tokens + 1:
            length *= self.lengths.factor
        return min(length, self.context + 1) if self.context else length

    def busy(self) -> list[Slot]:
        """Slots with a row in them."""
        return [s for arena in self.arenas.values() for s in arena if s.busy]

    def home(self, ids: Sequence[int]) -> int | None:
        """The hand whose free slots hold clearly most of the beginning of `ids`, if one's do."""
        held: dict[int, int] = {}
        for arena, slots in self.arenas.items():
            free = [s for s in slots if not s.busy]
            held[arena.hand] = _most_held(free, ids, held.get(arena.hand, 0))
        ordered = sorted(held, key=held.__getitem__, reverse=True)
        next_ = held[ordered[1]] if len(ordered) > 1 else 0
        clear = ordered and held[ordered[0]] >= next_ + MIN_OVERLAP
        return ordered[0] if clear else None

    def _best(self, ids: Sequence[int], hand: int | None = None) -> Slot | None:
        """The free slot that holds most of the beginning of `ids`; if several do, one of `hand`."""
        free = [s for arena in self.arenas.values() for s in arena if not s.busy]
        most = _most_held(free, ids)
        best = [s for s in free if _holds(s, ids, most) and common_prefix(s.ids, ids) == most]
        return max(best, key=lambda s: (s.arena.hand == hand, s.used), default=None)

    def claim(
        self, ids: Sequence[int], tokens: int, *, reuse: bool = True, hand: int = 0
    ) -> Claim | None:
        """Take the best slot for a request, or None when all are busy.

        The free slot with the longest common prefix is taken in place when that does not wreck
        more than it saves; else its prefix is copied to an empty or the least recently used slot.

        Args:
            ids: The request's ids; at least the last one will be fed.
            tokens: Room wanted from the start.
            reuse: Whether to go on from what a slot holds.
            hand: Who works on it.
        """
        busy = self.busy()
        if len(busy) >= self.max_slots:
            return None
        arena = Arena(self.arena_length(tokens), hand)
        if not reuse:
            return self._take(self._vacant(arena, keep=None), None, 0)
        useful = len(ids) - 1  # the last token is always fed: its logits are wanted
        best = self._best(ids, hand)
        overlap = min(common_prefix(best.ids, ids), useful) if best else 0
        self._miss(ids, overlap)
        # It may have less room than is wanted: a row moves when it outgrows its slot. It may not
        # have more: short rows among long ones are read as far as those.
        fits = best is not None and len(ids) + 1 < best.length <= arena.length
        own = best is not None and best.arena.hand == hand
        if best and overlap and own and fits and 2 * overlap >= len(best.ids):
            return self._take(best, None, overlap)
        donor = best if overlap >= MIN_OVERLAP else None
        overlap = overlap if donor else 0
        more = _most_held(busy, ids, overlap + MIN_OVERLAP - 1)
        if more >= overlap + MIN_OVERLAP:
            donor = next(s for s in busy if common_prefix(s.ids, ids) == more)
            overlap = min(more, useful)
        return self._take(self._vacant(arena, keep=donor), donor, overlap)

    def move(self, slot: Slot, tokens: int) -> Claim:
        """A longer slot for a row that outgrew its own; the caller copies and releases."""
        arena = Arena(self.arena_length(tokens), slot.arena.hand)
        return self._take(self._vacant(arena, keep=slot), slot, len(slot.ids))

    def overlap(self, ids: Sequence[int]) -> int:
        """Most leading tokens of `ids` that any slot holds now."""
        return _most_held([s for arena in self.arenas.values() for s in arena], ids)

    def release(self, slot: Slot) -> None:
        """Free a slot; what it holds stays for those who come with the same beginning."""
        slot.busy = False
        slot.used = next(self._clock)
        slot.freed = self.forwards

    def scattered(self, slots: Sequence[Slot]) -> tuple[Slot, Slot] | None:
        """Two slots to swap, so that those of one arena that run together lie closer together.

        A range of slots is read in place, and what lies idle inside of it is computed for
        nothing. A slot that was left just now stays: its row is likely to come back.

        Returns:
            The outermost of `slots`, and a slot inside of their range that is free for it.
        """
        arena = self.arenas[slots[0].arena]
        first, last = min(slots, key=_index), max(slots, key=_index)
        inside = arena[first.index : last.index]
        idle = [s for s in inside if not s.busy and self.forwards - s.freed > STALE]
        return (last, min(idle, key=_index)) if idle else None

    def swap(self, one: Slot, other: Slot) -> None:
        """Let two slots of an arena change places; the caller moves what they hold."""
        arena = self.arenas[one.arena]
        one.index, other.index = other.index, one.index
        arena[one.index], arena[other.index] = one, other

    def withdraw(self, claim: Claim) -> None:
        """Take back a new slot for which there is no memory; its arena grows no more at will."""
        self.arenas[claim.slot.arena].remove(claim.slot)
        self._full.add(claim.slot.arena)

    def shrink(self) -> bool:
        """Have no more rows at a time than now; whether that is fewer than before."""
        before, self.max_slots = self.max_slots, max(1, len(self.busy()))
        return self.max_slots < before

    def drop_idle(self, claim: Claim) -> list[Arena]:
        """Forget the arenas that nobody is in and that the claim does not need; which ones."""
        needed = {s.arena for s in (*self.busy(), claim.slot, claim.source) if s is not None}
        idle = [arena for arena in self.arenas if arena not in needed]
        for arena in idle:
            del self.arenas[arena]
        self._full.difference_update(idle)
        return idle

    def _take(self, slot: Slot, source: Slot | None, overlap: int) -> Claim:
        if source is not None:
            slot.ids = source.ids[:overlap]
        del slot.ids[overlap:]
        slot.busy = True
        return Claim(slot, source, overlap)

    def _miss(self, ids: Sequence[int], overlap: int) -> None:
        """Keep one more idle slot where a request has to read again what one of them held."""
        end = overlap + MIN_OVERLAP
        if len(ids) < end:
            return
        next_ = ids[overlap:end]
        for held in self._overwritten:
            if held[overlap:end] == next_ and common_prefix(held, ids) >= end:
                self._overwritten.remove(held)
                self.keep_idle += 1
                return

    def _vacant(self, arena: Arena, keep: Slot | None) -> Slot:
        """An empty slot, a new one, or the least recently used: in that order."""
        slots = self.arenas.setdefault(arena, [])
        free = [s for s in slots if not s.busy and s is not keep]
        if empty := [s for s in free if not s.ids]:
            return min(empty, key=lambda s: s.index)
        may_grow = len(slots) < self.max_slots and arena not in self._full
        idle = sum(not s.busy for there in self.arenas.values() for s in there)
        few = len(free) < KEEP_IDLE or idle < self.keep_idle
        if not free or (few and may_grow):
            slot = Slot(arena, len(slots))
            slots.append(slot)
            return slot
        oldest = min(free, key=lambda s: s.used)
        self._overwritten.append(oldest.ids[:])
        return oldest


def _index(slot: Slot) -> int:
    return slot.index


def _holds(slot: Slot, ids: Sequence[int], tokens: int) -> bool:
    """Whether the slot may hold so many of the first ids: only the last of them is compared."""
    return not tokens or (len(slot.ids) >= tokens and slot.ids[tokens - 1] == ids[tokens - 1])


def _most_held(slots: Iterable[Slot], ids: Sequence[int], most: int = 0) -> int:
    """Most leading ids that one of the slots holds, if more than `most`."""
    for slot in slots:
        if most < len(ids) and _holds(slot, ids, most + 1):
            most = max(most, common_prefix(slot.ids, ids))
    return most


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(itertools.compress(itertools.count(), map(operator.ne, a, b)), n)
