"""The slot cache: keys and values of many sequences in a few large tensors.

Each layer of the model asks the cache to take new keys and values and to return those that it
should attend to. Where they go and which rows are read stands in a `Place` for each arena that
the batch has rows in, set before each forward. Rolling back is forgetting a length: no tensor work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from langgraph_arbitrage.engine import memory
from langgraph_arbitrage.engine.slots import Arena

__all__ = ["Place", "SlotCache"]

FIRST_SLOTS = 8  # an arena begins with so many, and gets as many more, where there is memory
HEADROOM = 1.1  # what a forward needs beside the cache


@dataclass
class Place:
    """Where one forward writes in an arena, and what it reads there."""

    arena: Arena
    slots: int
    """Slots that the arena must have room for."""
    lanes: slice
    """Its rows in the batch."""
    rows: slice | Tensor
    """The same B rows in the arena: a range of slots is read without a copy."""
    view: int
    """Positions below this are read."""
    row_ids: Tensor | None = None
    """Once more, shape [B, 1], where the batch has several rows."""
    positions: Tensor | None = None
    """Where each new token of several rows is written, shape [B, Q]."""
    first: int | None = None
    """With one row: its first new position, written as one range."""

    def read(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of an arena that the rows attend to, [B, H, view, D] each."""
        if isinstance(self.rows, slice):
            return keys[self.rows, :, : self.view], values[self.rows, :, : self.view]
        return (
            keys[:, :, : self.view].index_select(0, self.rows),
            values[:, :, : self.view].index_select(0, self.rows),
        )

    def on(self, device: torch.device) -> Place:
        """The same, with its tensors on the device of a layer: a model may be on several."""
        if self.positions is None or self.positions.device == device:
            return self
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **moved)


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, in one pair of tensors an arena."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache
        self.arenas: dict[Arena, tuple[Tensor, Tensor]] = {}
        """Keys and values, [S, H, L, D], where L is the length of the arena's slots."""
        self.shape: tuple[Tensor, Tensor] | None = None
        """Keys and values of no slots, once a forward has told their heads and widths."""
        self.is_initialized = True

    def update(  # type: ignore[override]
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor | tuple[Tensor, ...]]:
        """Store new keys and values [B, H, Q, D]; return those to attend to [B, H, view, D].

        Where the batch has rows in several arenas, one such tensor for each of them.
        """
        if self.shape is None:
            self.shape = _room(0, 1, key_states), _room(0, 1, value_states)
        places = self.cache.places
        if len(places) == 1:
            return self._updated(places[0], key_states, value_states)
        found = [self._updated(p, key_states[p.lanes], value_states[p.lanes]) for p in places]
        return tuple(keys for keys, _ in found), tuple(values for _, values in found)

    def _updated(
        self, place: Place, key_states: Tensor, value_states: Tensor
    ) -> tuple[Tensor, Tensor]:
        place = place.on(key_states.device)
        keys, values = self._arena(place.arena, place.slots, (key_states, value_states))
        for stored, new in ((keys, key_states), (values, value_states)):
            if place.first is not None:
                row = place.rows.start  # type: ignore[union-attr]
                stored[row, :, place.first : place.first + new.shape[2]] = new[0]
            else:
                stored[place.row_ids, :, place.positions] = new.transpose(1, 2)  # [B, Q, H, D]
        return place.read(keys, values)

    def copy(
        self, source: tuple[Arena, int], target: tuple[Arena, int], tokens: int, slots: int
    ) -> None:
        """Copy the first `tokens` of one (arena, slot) to another."""
        pair = self.arenas[source[0]]
        for old, new in zip(pair, self._arena(target[0], slots, pair), strict=True):
            new[target[1], :, :tokens] = old[source[1], :, :tokens]

    def swap(self, arena: Arena, one: int, other: int, tokens: int) -> None:
        """Let two slots of an arena exchange their first `tokens`."""
        for stored in self.arenas[arena]:
            held = stored[one, :, :tokens].clone()
            stored[one, :, :tokens] = stored[other, :, :tokens]
            stored[other, :, :tokens] = held

    def _arena(
        self, arena: Arena, slots: int, like: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The pair of an arena with room for `slots`."""
        pair = self.arenas.get(arena)
        if pair is None:
            self.arenas[arena] = pair = (
                _room(slots, arena.length, like[0]),
                _room(slots, arena.length, like[1]),
            )
            self.cache.moved()
        elif pair[0].shape[0] < slots:
            length = arena.length
            grown = (_room(slots, length, pair[0]), _room(slots, length, pair[1]))
            for old, new in zip(pair, grown, strict=True):
                new[: old.shape[0]] = old
            self.arenas[arena] = pair = grown
            self.cache.moved()
        return pair

    def grow(self, arena: Arena, slots: int) -> None:
        """Have room for `slots` in an arena, once a forward has told the shapes."""
        if self.shape:  # layers that share another layer's keys hold none
            self._arena(arena, slots, self.shape)

    # Asked only where a single row is read, which is all that there is to attend to.
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.places[0].view, 0

    def get_seq_length(self) -> int:
        return self.cache.places[0].first or 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """A `transformers` cache whose batch rows are slots."""

    places: Sequence[Place]

    def __init__(self, layers: int) -> None:
        self._slot_layers = [SlotLayer(self) for _ in range(layers)]
        self._known: dict[tuple[Arena, ...], tuple[list[Tensor], list[int]]] = {}
        super().__init__(layers=list(self._slot_layers))

    def copy(
        self, source: tuple[Arena, int], target: tuple[Arena, int], tokens: int, slots: int
    ) -> None:
        """Copy the first `tokens` of one (arena, slot) to another, in every layer."""
        for layer in self._slot_layers:
            if layer.arenas:  # layers that share another layer's keys hold none
                layer.copy(source, target, tokens, slots)

    def swap(self, arena: Arena, one: int, other: int, tokens: int) -> None:
        """Let two slots of an arena exchange their first `tokens`, in every layer."""
        for layer in self._slot_layers:
            if layer.arenas:
                layer.swap(arena, one, other, tokens)

    @property
    def shaped(self) -> bool:
        """Whether a forward has told the shapes of keys and values."""
        return any(layer.shape for layer in self._slot_layers)

    def reserve(self, arena: Arena, slots: int, most: int) -> bool:
        """Have room for `slots` in an arena; it grows by a quarter, up to `most`, where it can.

        Returns:
            Whether there was memory.
        """
        have = self.capacity(arena)
        if slots <= have:
            return True
        more = min(have + max(have // 4, FIRST_SLOTS), most)
        sizes = sorted({max(more, slots), slots}, reverse=True)
        return any(self._grown(arena, wider, have) for wider in sizes)

    def _grown(self, arena: Arena, slots: int, have: int) -> bool:
        pairs = [layer.shape for layer in self._slot_layers if layer.shape]
        # Bytes of a slot in each layer: heads × width × length, for keys and values.
        a_slot = [
            sum(t.shape[1] * t.shape[3] * t.itemsize for t in p) * arena.length for p in pairs
        ]
        # One layer after another: beside its old tensors, for a moment.
        needed = sum(a_slot) * (slots - have) + max(a_slot) * have
        # Asked first: a CPU hands out memory that it does not have, and ends the process later.
        if HEADROOM * needed > memory.free_bytes(pairs[0][0].device):
            return False
        try:
            for layer in self._slot_layers:
                layer.grow(arena, slots)
        except (RuntimeError, MemoryError) as error:
            if not memory.out_of_memory(error):
                raise
            return False
        return True

    def capacity(self, arena: Arena) -> int:
        """Slots of an arena for which every layer has room."""
        found = (layer.arenas.get(arena) for layer in self._slot_layers if layer.shape)
        return min((pair[0].shape[0] if pair else 0 for pair in found), default=0)

    def drop(self, arena: Arena) -> None:
        """Free an arena."""
        for layer in self._slot_layers:
            layer.arenas.pop(arena, None)
        self.moved()

    def tensors(self, slots: Mapping[Arena, int]) -> list[Tensor] | None:
        """Keys and values of arenas, layer by layer, of the layers that hold some.

        Args:
            slots: How many each arena must have room for.

        Returns:
            None where one has less room.
        """
        known = self._known.get(tuple(slots))
        if known is None:
            layers = [layer for layer in self._slot_layers if layer.shape]
            if any(arena not in layer.arenas for layer in layers for arena in slots):
                return None
            flat = [t for layer in layers for arena in slots for t in layer.arenas[arena]]
            room = [self.capacity(arena) for arena in slots]
            self._known[tuple(slots)] = known = flat, room
        flat, room = known
        enough = all(wanted <= there for wanted, there in zip(slots.values(), room, strict=True))
        return flat if enough else None

    def moved(self) -> None:
        """An arena is new, has grown or is gone: what was known of them is over."""
        self._known.clear()

    def made_up(self, slots: int, length: int, arenas: int) -> list[Tensor]:
        """The like of `tensors`, empty, to try a forward on."""
        pairs = [layer.shape for layer in self._slot_layers if layer.shape]
        return [
            _room(slots, length, like) for pair in pairs for _ in range(arenas) for like in pair
        ]

    def lend(self, tensors: Sequence[Tensor], arenas: int) -> None:
        """Work on these keys and values, in the order of `tensors`, as arenas 0, 1 and so on."""
        each = iter(tensors)
        for layer in self._slot_layers:
            if layer.shape:
                layer.arenas = {Arena(n): (next(each), next(each)) for n in range(arenas)}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Have its own arenas back behind this, whatever was lent meanwhile."""
        own = [layer.arenas for layer in self._slot_layers]
        try:
            yield
        finally:
            for layer, arenas in zip(self._slot_layers, own, strict=True):
                layer.arenas = arenas

    def pointers(self, arena: Arena) -> tuple[int, ...]:
        """Where the keys and values of an arena are, in every layer that holds some."""
        pairs = (layer.arenas.get(arena, ()) for layer in self._slot_layers)
        return tuple(t.data_ptr() for pair in pairs for t in pair)

    def held(self, arena: Arena, index: int, position: int) -> Tensor:
        """Keys and values of one token in the last layer that holds some, [2 × heads × width]."""
        keys, values = next(
            layer.arenas[arena] for layer in reversed(self._slot_layers) if arena in layer.arenas
        )
        return torch.cat((keys[index, :, position].flatten(), values[index, :, position].flatten()))

    def bytes(self) -> int:
        """Memory held."""
        return sum(
            t.nbytes for layer in self._slot_layers for pair in layer.arenas.values() for t in pair
        )


def _room(slots: int, length: int, like: Tensor) -> Tensor:
    """Room for keys or values with the heads, width, dtype and device of `like`."""
    # Zeros, not empty: what is masked is multiplied by 0, and 0 times NaN is NaN.
    return like.new_zeros(slots, like.shape[1], length, like.shape[3])
