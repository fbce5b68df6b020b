"""The KV cache: tensors of keys and values, divided into slots, and the allocation of slots.

Each layer has two tensors [S, L, H, D]: S slots of L positions. A released slot keeps its contents,
so that a later request with the same prefix can reuse them. A rollback only shortens the slot's
list of token ids, and changes no tensor.
"""

from __future__ import annotations

import itertools
import logging
import math
import operator
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from langgraph_arbitrage.engine.attention import Layout
from langgraph_arbitrage.engine.sequence import Slot
from langgraph_arbitrage.errors import NotEnoughMemoryError
from langgraph_arbitrage.models import memory

__all__ = ["KVCache", "common_prefix"]

logger = logging.getLogger(__name__)

MIN_OVERLAP = 16  # tokens; a shorter common prefix is computed again instead of copied
FIRST_LENGTH = 512  # initial positions per slot; doubled when a sequence needs more
FIRST_SLOTS = 8  # initial slots; doubled when more are needed
HEADROOM = 1.1  # required free memory relative to an allocation; a forward also needs memory


class KVLayer(CacheLayerMixin):
    """Keys and values of one layer, [S, L, H, D] each, allocated at the first forward."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache: KVCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store the keys and values [1, H, T, D] of new tokens.

        Returns:
            The layer's tensors [S, L, H, D]. `attention.attend` reads the slots of the batch.
        """
        if self.keys is None or self.values is None:
            self.keys = self.cache.new_tensor(key_states)
            self.values = self.cache.new_tensor(value_states)
        self.cache.layout.store(self.keys, key_states)
        self.cache.layout.store(self.values, value_states)
        return self.keys, self.values

    def resize(self) -> None:
        """Replace the tensors with new ones of the cache's current size. Copies the slots."""
        if self.keys is None or self.values is None:
            return
        for name, old in (("keys", self.keys), ("values", self.values)):
            new = self.cache.new_tensor(old.transpose(1, 2))
            for slot in self.cache.slots:
                n = len(slot.tokens)
                if n:
                    new[slot.index, :n] = old[slot.index, :n]
            setattr(self, name, new)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in this layer."""
        pair = [t for t in (self.keys, self.values) if t is not None]
        return sum(t.shape[2] * t.shape[3] * t.itemsize for t in pair)

    # The base class requires these methods. Their results have no effect, because the layout
    # determines masks and positions.
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class KVCache(Cache):
    """The slots of one model and their tensors of keys and values.

    Args:
        layers: Number of layers of the model.
        max_slots: Maximum number of slots.
        context: Context length of the model in tokens. None: unlimited.
        name: Name of the model, for messages.
        zeroed: Whether to fill new tensors with zeros on a GPU. CUDA graphs need this, because they
            read masked positions, which must contain finite numbers.
    """

    layout: Layout

    def __init__(
        self,
        layers: int,
        max_slots: int,
        context: int | None,
        *,
        name: str = "the model",
        zeroed: bool = False,
    ) -> None:
        self.name = name
        self.max_slots = max_slots
        """Maximum number of busy slots. It is lowered when memory runs out, and restored once all
        slots are free."""
        self._configured_slots = max_slots
        self._warned = False
        self.context = context
        self.zeroed = zeroed
        self.slots: list[Slot] = []
        self.capacity = min(FIRST_SLOTS, max_slots)
        """Number of slots in the tensors (S)."""
        self.length = self._length_for(0)
        """Number of positions per slot (L)."""
        self._clock = itertools.count(1)
        self._idle_target = FIRST_SLOTS
        """Number of free slots that keep their contents. Beyond this number, the least recently
        used slot is overwritten."""
        self._evicted: deque[list[int]] = deque(maxlen=max_slots)
        """Token ids of the slots that were overwritten last."""
        super().__init__(layers=[KVLayer(self) for _ in range(layers)])

    # --- slots ---------------------------------------------------------------------------

    def allocate(self, ids: Sequence[int], limit: int) -> Slot | None:
        """Allocate a slot for a sequence. The slot's `tokens` are then the cached prefix of `ids`.

        The slot with the longest common prefix is returned if it is free and the prefix is at least
        half of its tokens. Otherwise the prefix is copied to another slot.

        Args:
            ids: Token ids of the sequence.
            limit: Maximum length of the cached prefix. Tokens after it are computed, because their
                logits are needed.

        Returns:
            The slot. None if `max_slots` slots are busy.

        Raises:
            NotEnoughMemoryError: There is no memory for a slot. `max_slots` was lowered.
        """
        busy = [s for s in self.slots if s.busy]
        if len(busy) >= self.max_slots:
            return None
        self.reserve(len(ids))
        source, overlap = self._longest_prefix(ids)
        overlap = min(overlap, limit)
        in_place = source is not None and not source.busy and bool(overlap)
        slot = source if in_place and 2 * overlap >= len(source.tokens) else None  # type: ignore[union-attr]
        if slot is None:
            if overlap < MIN_OVERLAP:
                source, overlap, in_place = None, 0, False
            slot = self._empty_slot(keep=source)
            if slot is not None and source is not None:
                self._copy(source, slot, overlap)
            elif in_place:  # no other slot is available
                slot = source
            if slot is None:
                self._lower_max_slots(len(busy))
                raise self._memory_error(len(ids))
        self._note_miss(ids, overlap)
        slot.busy = True
        del slot.tokens[overlap:]
        return slot

    def reserve(self, tokens: int) -> None:
        """Make each slot large enough for `tokens` tokens.

        Raises:
            NotEnoughMemoryError: There is no memory for larger slots.
        """
        length = self._length_for(tokens)
        if length > self.length and not self._grow(self.capacity, length, tokens):
            raise self._memory_error(tokens)

    def release(self, slot: Slot) -> None:
        """Mark a slot as free. Later requests can reuse its contents as a prefix."""
        slot.busy = False
        slot.released = next(self._clock)
        if not any(s.busy for s in self.slots):
            self.max_slots = self._configured_slots  # memory may be free again

    def cached(self, ids: Sequence[int]) -> int:
        """Return the length of the longest prefix of `ids` in any slot."""
        return self._longest_prefix(ids)[1]

    def clear(self) -> None:
        """Delete all slots. The tensors stay allocated."""
        self.slots.clear()
        self._evicted.clear()

    def _longest_prefix(self, ids: Sequence[int]) -> tuple[Slot | None, int]:
        """Return the slot with the longest prefix of `ids`, and the length of that prefix.

        Of several such slots, a free one is returned. (None, 0) if no slot contains a prefix.
        """
        best, most = None, 0
        for slot in sorted(self.slots, key=_free_and_recent, reverse=True):
            n = common_prefix(slot.tokens, ids, most)
            if n > most:
                best, most = slot, n
        return best, most

    def _empty_slot(self, keep: Slot | None) -> Slot | None:
        """Return an empty slot. If there is none, add a slot or clear the least recently used one.

        Args:
            keep: A slot that must not be cleared.

        Returns:
            The slot. None if no slot is free and none can be added.
        """
        free = [s for s in self.slots if not s.busy and s is not keep]
        if empty := next((s for s in free if not s.tokens), None):
            return empty
        if (len(free) < self._idle_target or not free) and self._may_add_slot():
            self.slots.append(Slot(len(self.slots), []))
            return self.slots[-1]
        if not free:
            return None
        oldest = min(free, key=operator.attrgetter("released"))
        self._evicted.append(oldest.tokens[:])
        oldest.tokens.clear()
        return oldest

    def _may_add_slot(self) -> bool:
        """Return whether a slot can be added. Grows the tensors if necessary."""
        if len(self.slots) >= self.max_slots:
            return False
        if len(self.slots) < self.capacity:
            return self._commits_at_once or self._fits(FIRST_LENGTH * self.token_bytes)
        more = min(2 * self.capacity, self.max_slots)
        return self._grow(more, self.length, FIRST_LENGTH)

    def _note_miss(self, ids: Sequence[int], overlap: int) -> None:
        """Increase `_idle_target` if the request recomputes tokens that were in an evicted slot."""
        end = overlap + MIN_OVERLAP
        for tokens in self._evicted if len(ids) >= end else ():
            if common_prefix(tokens, ids, end - 1) >= end:
                self._evicted.remove(tokens)
                self._idle_target += 1
                return

    # --- memory --------------------------------------------------------------------------

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers. 0 before the first forward."""
        return sum(layer.token_bytes for layer in self._kv_layers())

    @property
    def shaped(self) -> bool:
        """Whether the memory per token is known. It is known after the first forward."""
        return self.token_bytes > 0

    def new_tensor(self, like: Tensor) -> Tensor:
        """Create a tensor [S, L, H, D] with dtype and device of the states `like` [1, H, T, D]."""
        shape = self.capacity, self.length, like.shape[1], like.shape[3]
        if like.device.type == "cpu":
            return _lazy_zeros(shape, like.dtype)
        new: Any = like.new_zeros if self.zeroed else like.new_empty
        tensor: Tensor = new(shape)
        return tensor

    def _length_for(self, tokens: int) -> int:
        """Return the length of a slot for `tokens` tokens and one unused position.

        The padding of CUDA graphs writes to the unused position.
        """
        length = FIRST_LENGTH
        while length < tokens + 1:
            length *= 2
        return min(length, self.context + 1) if self.context else length

    def _grow(self, slots: int, length: int, tokens: int) -> bool:
        """Grow the tensors to `slots` slots of `length` positions.

        On a GPU, all new positions must fit in the free memory. On a CPU, the operating system
        assigns memory when it is written, so only one more sequence of `tokens` tokens must fit.

        Returns:
            False if there is not enough memory. The tensors are then unchanged.
        """
        growth = slots * length - self.capacity * self.length
        if not self._fits(self.token_bytes * (growth if self._commits_at_once else tokens)):
            return False
        before = self.capacity, self.length
        self.capacity, self.length = slots, length
        try:
            for layer in self._kv_layers():
                layer.resize()
        except (RuntimeError, MemoryError) as error:
            if not memory.out_of_memory(error):
                raise
            self.capacity, self.length = before
            for layer in self._kv_layers():
                layer.resize()
            return False
        return True

    @property
    def _commits_at_once(self) -> bool:
        """Whether a new tensor takes memory at once. On a CPU, it takes memory when written."""
        return self._device is not None and self._device.type != "cpu"

    @property
    def _device(self) -> torch.device | None:
        return next((k.keys.device for k in self._kv_layers() if k.keys is not None), None)

    def _fits(self, needed: int) -> bool:
        """Return whether `needed` bytes are free.

        On a CPU, the first `FIRST_LENGTH` positions of each busy slot count as used, even if they
        are not written yet.
        """
        if self._device is None:
            return True
        if not self._commits_at_once:
            written = (len(s.tokens) for s in self.slots if s.busy)
            needed += sum(max(0, FIRST_LENGTH - n) for n in written) * self.token_bytes
        return HEADROOM * needed <= memory.free_bytes(self._device)

    def _lower_max_slots(self, slots: int) -> None:
        """Set `max_slots` to `slots`, but at least 1. The first time, log a warning."""
        if 0 < slots < self.max_slots and not self._warned:
            self._warned = True
            logger.warning(
                "%s has no memory for another slot of %d tokens. Until all slots are free, at most "
                "%d sequences run concurrently. Set max_slots=%d, a lower max_tokens, or "
                "dtype='bfloat16'.",
                self.name,
                self.length,
                slots,
                slots,
            )
        self.max_slots = max(1, slots)

    def _memory_error(self, tokens: int) -> NotEnoughMemoryError:
        return NotEnoughMemoryError(
            f"{self.name} has no memory for a sequence of {tokens} tokens, which needs "
            f"{self.token_bytes * tokens / 2**20:.0f} MiB of keys and values. Lower max_tokens or "
            "max_slots, set dtype='bfloat16', or shorten the conversation."
        )

    def _copy(self, source: Slot, target: Slot, tokens: int) -> None:
        """Copy the first `tokens` tokens from slot `source` to slot `target`."""
        target.tokens = source.tokens[:tokens]
        target.long_rope = source.long_rope
        for layer in self._kv_layers():
            for tensor in (layer.keys, layer.values):
                if tensor is not None:
                    tensor[target.index, :tokens] = tensor[source.index, :tokens]

    def _kv_layers(self) -> Iterable[KVLayer]:
        return (layer for layer in self.layers if isinstance(layer, KVLayer))


def _free_and_recent(slot: Slot) -> tuple[bool, int]:
    return not slot.busy, slot.released


def common_prefix(a: Sequence[int], b: Sequence[int], at_least: int = 0) -> int:
    """Return the length of the common prefix of `a` and `b`.

    If it is at most `at_least`, the result may be 0 instead, which is faster.
    """
    n = min(len(a), len(b))
    if n <= at_least or a[at_least] != b[at_least]:
        return 0
    if a[:n] == b[:n]:
        return n
    return next(itertools.compress(itertools.count(), map(operator.ne, a, b)), n)


def _lazy_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Create a zero tensor on the CPU that takes no memory until it is written.

    `torch.zeros` writes the zeros at once. For `np.zeros`, the operating system provides zeroed
    pages when they are first used.
    """
    size, align = math.prod(shape) * dtype.itemsize, 64
    buffer = np.zeros(size + align, np.uint8)
    offset = -buffer.ctypes.data % align
    return torch.from_numpy(buffer[offset : offset + size]).view(dtype).view(*shape)
