"""The slot cache: keys and values of many sequences in a few large tensors.

Each layer of the model asks the cache to take new keys and values and to return those that it
should attend to. Where they go and which rows are read stands in a `Place`, set before each
forward. Rolling back is forgetting a length: no tensor work.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["Place", "SlotCache"]


@dataclass
class Place:
    """Where one forward writes, and what it reads."""

    length: int
    """The arena, by the length of its slots (L)."""
    slots: int
    """Slots that the arena must have room for."""
    rows: slice | Tensor
    """The B rows of the arena in this batch: a range of slots is read without a copy."""
    view: int
    """Positions below this are read."""
    row_ids: Tensor | None = None
    """The same rows, shape [B, 1], where there are several."""
    positions: Tensor | None = None
    """Where each new token of several rows is written, shape [B, Q]."""
    first: int | None = None
    """With one row: its first new position, written as one range."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, in one pair of tensors an arena."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache
        self.arenas: dict[int, tuple[Tensor, Tensor]] = {}  # L → keys, values [S, H, L, D]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, H, Q, D]; return those to attend to [B, H, view, D]."""
        place = self.cache.place
        keys, values = self._arena(place.length, place.slots, (key_states, value_states))
        for stored, new in ((keys, key_states), (values, value_states)):
            if place.first is not None:
                row = place.rows.start  # type: ignore[union-attr]
                stored[row, :, place.first : place.first + new.shape[2]] = new[0]
            else:
                stored[place.row_ids, :, place.positions] = new.transpose(1, 2)  # [B, Q, H, D]
        if isinstance(place.rows, slice):
            return keys[place.rows, :, : place.view], values[place.rows, :, : place.view]
        return (
            keys[:, :, : place.view].index_select(0, place.rows),
            values[:, :, : place.view].index_select(0, place.rows),
        )

    def copy(
        self, source: tuple[int, int], target: tuple[int, int], tokens: int, slots: int
    ) -> None:
        """Copy the first `tokens` of one (arena, slot) to another."""
        pair = self.arenas[source[0]]
        for old, new in zip(pair, self._arena(target[0], slots, pair), strict=True):
            new[target[1], :, :tokens] = old[source[1], :, :tokens]

    def _arena(self, length: int, slots: int, like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The pair of an arena with room for `slots`; it doubles when it has to grow."""
        pair = self.arenas.get(length)
        if pair is None:
            self.arenas[length] = pair = (
                _room(slots, length, like[0]),
                _room(slots, length, like[1]),
            )
        elif pair[0].shape[0] < slots:
            wider = max(slots, 2 * pair[0].shape[0])
            grown = (_room(wider, length, pair[0]), _room(wider, length, pair[1]))
            for old, new in zip(pair, grown, strict=True):
                new[: old.shape[0]] = old
            self.arenas[length] = pair = grown
        return pair

    # Asked only where a single row is read, which is all that there is to attend to.
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.place.view, 0

    def get_seq_length(self) -> int:
        return self.cache.place.first or 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """A `transformers` cache whose batch rows are slots."""

    place: Place

    def __init__(self, layers: int) -> None:
        self._slot_layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def copy(
        self, source: tuple[int, int], target: tuple[int, int], tokens: int, slots: int
    ) -> None:
        """Copy the first `tokens` of one (arena, slot) to another, in every layer."""
        for layer in self._slot_layers:
            if layer.arenas:  # layers that share another layer's keys hold none
                layer.copy(source, target, tokens, slots)

    def bytes(self) -> int:
        """Memory held."""
        return sum(
            t.nbytes for layer in self._slot_layers for pair in layer.arenas.values() for t in pair
        )


def _room(slots: int, length: int, like: Tensor) -> Tensor:
    """Room for keys or values with the heads, width, dtype and device of `like`."""
    # Zeros, not empty: what is masked is multiplied by 0, and 0 times NaN is NaN.
    return like.new_zeros(slots, like.shape[1], length, like.shape[3])
