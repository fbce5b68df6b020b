"""The KV cache: the tensors, the slots, and which slot holds which prefix. It knows no request.

Each layer holds one pair of tensors [S, L, H, D]: S slots of L positions. A slot keeps its tokens
after its sequence has left, so that a later request with the same beginning continues from there.
Rolling back is shortening a list of token ids; no tensor changes.
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

MIN_OVERLAP = 16  # tokens; a shorter common prefix is computed again rather than copied
FIRST_LENGTH = 512  # positions of a slot at first; doubled when a sequence outgrows them
FIRST_SLOTS = 8
HEADROOM = 1.1  # memory that a forward needs beside the cache


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
        """Store the new keys and values [1, H, T, D]; return those of all slots [S, L, H, D].

        `attention.attend` reads from them what each sequence attends to.
        """
        if self.keys is None or self.values is None:
            self.keys = self.cache.room(key_states)
            self.values = self.cache.room(value_states)
        self.cache.layout.store(self.keys, key_states)
        self.cache.layout.store(self.values, value_states)
        return self.keys, self.values

    def resize(self) -> None:
        """Move what the slots hold to tensors of the cache's present size."""
        if self.keys is None or self.values is None:
            return
        for name, old in (("keys", self.keys), ("values", self.values)):
            new = self.cache.room(old.transpose(1, 2))
            for slot in self.cache.slots:
                n = len(slot.tokens)
                if n:
                    new[slot.index, :n] = old[slot.index, :n]
            setattr(self, name, new)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        pair = [t for t in (self.keys, self.values) if t is not None]
        return sum(t.shape[2] * t.shape[3] * t.itemsize for t in pair)

    # Required by the base class. Masks and positions never depend on them here.
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class KVCache(Cache):
    """Slots of one model and their tensors.

    Args:
        layers: Layers of the model.
        max_slots: Maximum slots.
        context: Context length of the model; None without a limit.
        name: The model's name, for messages.
        zeroed: Whether new memory is zeroed on devices other than the CPU. Masked positions are
            read by CUDA graphs and must be finite.
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
        """Slots that may be busy at a time; fewer after a shortage, until all are free."""
        self._most_slots = max_slots
        self._warned = False
        self.context = context
        self.zeroed = zeroed
        self.slots: list[Slot] = []
        self.capacity = min(FIRST_SLOTS, max_slots)
        """Slots that the tensors have room for (S)."""
        self.length = self._length_for(0)
        """Positions of each slot (L)."""
        self._clock = itertools.count(1)
        self._idle_wanted = FIRST_SLOTS
        """Idle slots kept before the least recently used is overwritten."""
        self._evicted: deque[list[int]] = deque(maxlen=max_slots)
        super().__init__(layers=[KVLayer(self) for _ in range(layers)])

    # --- slots ---------------------------------------------------------------------------

    def allocate(self, ids: Sequence[int], limit: int) -> Slot | None:
        """Take a slot for a sequence; its `tokens` are the prefix of `ids` that is cached.

        The free slot with the longest common prefix is taken in place if most of its tokens are
        shared. Otherwise the prefix is copied to another slot.

        Args:
            ids: The tokens of the sequence.
            limit: Longest prefix to reuse. Tokens whose logits are needed are computed.

        Returns:
            None while `max_slots` are busy.

        Raises:
            NotEnoughMemoryError: No slot has memory. From now on fewer sequences run at a time.
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
            slot = self._vacant(keep=source)
            if slot is not None and source is not None:
                self._copy(source, slot, overlap)
            elif in_place:  # there is no other slot
                slot = source
            if slot is None:
                self._shrink(len(busy))
                raise self._no_memory(len(ids))
        self._note_miss(ids, overlap)
        slot.busy = True
        del slot.tokens[overlap:]
        return slot

    def reserve(self, tokens: int) -> None:
        """Have room for sequences of so many tokens.

        Raises:
            NotEnoughMemoryError: There is no memory for it.
        """
        length = self._length_for(tokens)
        if length > self.length and not self._resized(self.capacity, length, tokens):
            raise self._no_memory(tokens)

    def release(self, slot: Slot) -> None:
        """Free a slot. Its tokens stay for requests with the same beginning."""
        slot.busy = False
        slot.released = next(self._clock)
        if not any(s.busy for s in self.slots):
            self.max_slots = self._most_slots  # there may be memory again

    def cached(self, ids: Sequence[int]) -> int:
        """Most leading tokens of `ids` that some slot holds."""
        return self._longest_prefix(ids)[1]

    def clear(self) -> None:
        """Forget all slots. The tensors stay."""
        self.slots.clear()
        self._evicted.clear()

    def _longest_prefix(self, ids: Sequence[int]) -> tuple[Slot | None, int]:
        """The slot that holds most of the beginning of `ids`, free ones first among equals."""
        best, most = None, 0
        for slot in sorted(self.slots, key=_free_and_recent, reverse=True):
            n = common_prefix(slot.tokens, ids, most)
            if n > most:
                best, most = slot, n
        return best, most

    def _vacant(self, keep: Slot | None) -> Slot | None:
        """An empty slot, a new one, or the least recently used; None without memory."""
        free = [s for s in self.slots if not s.busy and s is not keep]
        if empty := next((s for s in free if not s.tokens), None):
            return empty
        if (len(free) < self._idle_wanted or not free) and self._may_add_slot():
            self.slots.append(Slot(len(self.slots), []))
            return self.slots[-1]
        if not free:
            return None
        oldest = min(free, key=operator.attrgetter("released"))
        self._evicted.append(oldest.tokens[:])
        oldest.tokens.clear()
        return oldest

    def _may_add_slot(self) -> bool:
        if len(self.slots) >= self.max_slots:
            return False
        if len(self.slots) < self.capacity:
            return self._commits_at_once or self._fits(FIRST_LENGTH * self.token_bytes)
        more = min(2 * self.capacity, self.max_slots)
        return self._resized(more, self.length, FIRST_LENGTH)

    def _note_miss(self, ids: Sequence[int], overlap: int) -> None:
        """Keep one more idle slot when a request computes again what an evicted slot held."""
        end = overlap + MIN_OVERLAP
        for tokens in self._evicted if len(ids) >= end else ():
            if common_prefix(tokens, ids, end - 1) >= end:
                self._evicted.remove(tokens)
                self._idle_wanted += 1
                return

    # --- memory --------------------------------------------------------------------------

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all layers; 0 before the first forward."""
        return sum(layer.token_bytes for layer in self._kv_layers())

    @property
    def shaped(self) -> bool:
        """Whether a forward has told how much memory a token takes."""
        return self.token_bytes > 0

    def room(self, like: Tensor) -> Tensor:
        """A tensor [S, L, H, D] for states like these, [1, H, T, D]."""
        shape = self.capacity, self.length, like.shape[1], like.shape[3]
        if like.device.type == "cpu":
            return _lazy_zeros(shape, like.dtype)
        new: Any = like.new_zeros if self.zeroed else like.new_empty
        room: Tensor = new(shape)
        return room

    def _length_for(self, tokens: int) -> int:
        """Positions for so many tokens and a spare one, to which padding is written."""
        length = FIRST_LENGTH
        while length < tokens + 1:
            length *= 2
        return min(length, self.context + 1) if self.context else length

    def _resized(self, slots: int, length: int, tokens: int) -> bool:
        """Grow the tensors; False without memory.

        Where memory is committed as it is written, only what one more sequence of `tokens` and the
        move of a layer need is asked for.
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
        """Whether allocating takes the memory; otherwise a CPU's pages are taken when written."""
        return self._device is not None and self._device.type != "cpu"

    @property
    def _device(self) -> torch.device | None:
        return next((k.keys.device for k in self._kv_layers() if k.keys is not None), None)

    def _fits(self, needed: int) -> bool:
        """Whether there is memory beside what busy slots may still write."""
        if self._device is None:
            return True
        if not self._commits_at_once:
            written = (len(s.tokens) for s in self.slots if s.busy)
            needed += sum(max(0, FIRST_LENGTH - n) for n in written) * self.token_bytes
        return HEADROOM * needed <= memory.free_bytes(self._device)

    def _shrink(self, slots: int) -> None:
        if 0 < slots < self.max_slots and not self._warned:
            self._warned = True
            logger.warning(
                "%s has no memory for another slot of %d tokens and runs %d sequences at a time "
                "until they end. Set max_slots=%d or a lower max_tokens, or dtype='bfloat16'.",
                self.name,
                self.length,
                slots,
                slots,
            )
        self.max_slots = max(1, slots)

    def _no_memory(self, tokens: int) -> NotEnoughMemoryError:
        return NotEnoughMemoryError(
            f"{self.name} has no memory for a sequence of {tokens} tokens, which needs "
            f"{self.token_bytes * tokens / 2**20:.0f} MiB of keys and values. Lower max_tokens or "
            "max_slots, set dtype='bfloat16', or shorten the conversation."
        )

    def _copy(self, source: Slot, target: Slot, tokens: int) -> None:
        """Copy the first `tokens` of a slot to another."""
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
    """Number of leading tokens that two sequences share. Below `at_least` it may be 0 instead."""
    n = min(len(a), len(b))
    if n <= at_least or a[at_least] != b[at_least]:
        return 0
    if a[:n] == b[:n]:
        return n
    return next(itertools.compress(itertools.count(), map(operator.ne, a, b)), n)


def _lazy_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU that take no memory until they are written.

    `torch.zeros` writes all of them; numpy leaves that to the operating system.
    """
    size, align = math.prod(shape) * dtype.itemsize, 64
    buffer = np.zeros(size + align, np.uint8)
    offset = -buffer.ctypes.data % align
    return torch.from_numpy(buffer[offset : offset + size]).view(dtype).view(*shape)
