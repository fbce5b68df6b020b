"""The slot engine: many sequences at a time through an unmodified Hugging Face model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.attention import join_arenas
from langgraph_arbitrage.engine.cuda_capture import CAPTURES
from langgraph_arbitrage.engine.decode_graphs import DecodeGraphs
from langgraph_arbitrage.engine.row import Batch, Row, by_arena
from langgraph_arbitrage.engine.slot_cache import Place, SlotCache
from langgraph_arbitrage.engine.slots import (
    APART,
    JOINED,
    Claim,
    Lengths,
    Slot,
    SlotTable,
    common_prefix,
)
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.transfer import on_device
from langgraph_arbitrage.errors import NotEnoughMemoryError

__all__ = ["SlotBackend"]

logger = logging.getLogger(__name__)

CHUNK = {"cpu": 256, "cuda": 2048}  # prompt tokens a forward, so that other rows wait little
WORTH_WAITING = 16  # a prefix this long that another row is reading now is waited for


class SlotBackend:
    """Feeds batches of rows to the model over a slot cache."""

    name = "slot"

    def __init__(
        self,
        model: PreTrainedModel,
        spec: ModelSpec,
        context: int | None,
        *,
        joined: bool = True,
        lengths: Lengths | None = None,
    ) -> None:
        """Make a backend without slots.

        Args:
            model: The model, whose attention is changed where rows of several arenas are joined.
            spec: Its settings.
            context: Most tokens that it reads.
            joined: Whether rows of several arenas may go through the model together.
            lengths: Of the arenas; None takes what suits.
        """
        self.model = model
        self.spec = spec
        self.device = model.device
        text = model.config.get_text_config()
        self.cache = SlotCache(text.num_hidden_layers)
        self.joined = join_arenas(model, joined=joined)
        # A graph knows its arenas: on a GPU few of them make few graphs.
        many = self.joined and self.device.type not in CAPTURES
        self.table = SlotTable(spec.max_slots, context, lengths or (JOINED if many else APART))
        self.chunk = CHUNK.get(self.device.type, CHUNK["cuda"])
        self._layer_types: list[str] = sorted(set(getattr(text, "layer_types", None) or []))
        self._window: int | None = getattr(text, "sliding_window", None)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._lowest = torch.finfo(model.dtype).min
        self._positions = torch.arange(0, device=self.device)
        self.graphs: DecodeGraphs | None = None
        """Decode batches go through them where there are some."""

    # --- slots ---------------------------------------------------------------------------

    @property
    def max_rows(self) -> int:
        """Most rows at a time: `max_slots`, or what there was memory for."""
        return self.table.max_slots

    def admit(self, row: Row, others: Sequence[Row]) -> bool:
        """Give the row a slot; False where it has to wait."""
        if others and not self.cache.shaped:
            return False  # the first forward tells how much memory a slot takes
        ids, reuse = row.tokens, not self.spec.batch_invariant
        if reuse and self._is_read_now(ids, others):
            return False
        claim = self._claimed(ids, reuse=reuse)
        if claim is None:
            return False
        self._copy(claim)
        row.take(claim.slot, claim.cached)
        return True

    def _is_read_now(self, ids: list[int], others: Sequence[Row]) -> bool:
        """Whether another row is reading a long common beginning: it is copied once it is there."""
        here = self.table.overlap(ids)
        return any(
            common_prefix(other.tokens, ids) - max(here, len(other.slot.ids)) >= WORTH_WAITING
            for other in others
        )

    def _claimed(self, ids: list[int], *, reuse: bool) -> Claim | None:
        """A slot with memory behind it; None when all are busy.

        Raises:
            NotEnoughMemoryError: There is no memory; from now on fewer rows run at a time.
        """
        tokens = len(ids) + self.table.lengths.grow
        for _ in range(2):  # a new slot, and where there is no memory for it, one that is there
            claim = self.table.claim(ids, tokens, reuse=reuse)
            if claim is None or self._fits(claim):
                return claim
        length = self.table.arena_length(tokens)
        if self.table.shrink():
            logger.warning(
                "no memory for another sequence of %d tokens: %s now works on %d at a time. Set "
                "max_slots=%d or a lower max_tokens, or dtype='bfloat16', to have it so from the "
                "start.",
                length,
                self.spec.name,
                self.table.max_slots,
                self.table.max_slots,
            )
        raise self._no_memory(length)

    def _fits(self, claim: Claim) -> bool:
        """Whether there is memory for a claimed slot, if need be that of idle ones."""
        length = claim.slot.length
        slots, most = len(self.table.arenas[length]), self.spec.max_slots
        if not self.cache.shaped or self.cache.reserve(length, slots, most):
            return True
        for idle in self.table.drop_idle(claim):
            self.cache.drop(idle)
        if self.cache.reserve(length, slots, most):
            return True
        self.table.withdraw(claim)
        return False

    def _no_memory(self, length: int) -> NotEnoughMemoryError:
        return NotEnoughMemoryError(
            f"{self.spec.name} has no memory for a sequence of {length} tokens. Lower max_tokens "
            "or max_slots, set dtype='bfloat16', or shorten the conversation."
        )

    def leave(self, row: Row) -> None:
        """The row is done; its slot keeps what it holds for whoever goes on from there."""
        self.table.release(row.slot)

    def _copy(self, claim: Claim) -> None:
        if claim.source is not None and claim.cached:
            source, slot = claim.source, claim.slot
            self.cache.copy(
                (source.length, source.index),
                (slot.length, slot.index),
                claim.cached,
                len(self.table.arenas[slot.length]),
            )

    def make_room(self, row: Row) -> None:
        """Move a row that outgrows its slot to a longer one."""
        count = row.chunk(self.chunk)
        if len(row.slot.ids) + count + 1 > row.slot.length:
            old = row.slot
            claim = self.table.move(old, len(old.ids) + count + self.table.lengths.grow)
            if not self._fits(claim):
                raise self._no_memory(claim.slot.length)
            self._copy(claim)
            row.slot = claim.slot
            self.table.release(old)

    # --- batches -------------------------------------------------------------------------

    def batches(self, rows: Sequence[Row]) -> list[Batch]:
        """What goes through the model next: all that decode together, and prompts in chunks."""
        if self.spec.batch_invariant or len(rows) == 1:
            return [Batch([row], [row.chunk(self.chunk)]) for row in rows]
        found = []
        for here in [list(rows)] if self.joined and rows else by_arena(rows):
            decoding = [r for r in here if r.remaining == 1 and r.trailing == 1]
            reading = [r for r in here if not (r.remaining == 1 and r.trailing == 1)]
            if decoding:
                for neighbours in by_arena(decoding):
                    self._gather(neighbours)
                found.append(Batch(decoding, [1] * len(decoding)))
            if reading:
                found.append(self._reading_batch(reading))
        return found

    def _gather(self, rows: list[Row]) -> None:
        """Bring rows of one arena that run together closer together, one of them at a time."""
        pair = self.table.scattered([row.slot for row in rows])
        if pair is not None:
            outer, inner = pair
            tokens = max(len(outer.ids), len(inner.ids))
            self.cache.swap(outer.length, outer.index, inner.index, tokens)
            self.table.swap(outer, inner)

    def _reading_batch(self, rows: list[Row]) -> Batch:
        """Rows with similar numbers of tokens to read, up to a chunk with its padding.

        The one that came first is always among them, so that none waits for ever.
        """
        chosen, counts = rows[:1], [rows[0].chunk(self.chunk)]
        for row in rows[1:]:
            count = row.chunk(self.chunk)
            shortest, width = min(count, *counts), max(count, *counts)
            if 2 * shortest >= width and (len(chosen) + 1) * width <= self.chunk:
                chosen.append(row)
                counts.append(count)
        return Batch(chosen, counts)

    def forward(self, batch: Batch) -> Tensor:
        """Feed a batch; logits of the trailing positions, [B, keep, V], or [B, labels]."""
        self.table.forwards += 1
        if self.graphs is not None:
            logits = self.graphs.forward(batch, self._eager, self._masked)
        else:
            logits = self._eager(batch)
        for row, count in zip(batch.rows, batch.counts, strict=True):
            held = len(row.slot.ids)
            row.slot.ids.extend(row.tokens[held : held + count])
            row.fed += count
        return logits

    def _eager(self, batch: Batch) -> Tensor:
        places, input_ids, position_ids, order = self._inputs(batch)
        # One row is a model's ordinary case: it makes its own masks, or none.
        masks = None
        if places[0].first is None:
            masks = self._masks(position_ids, self._keys(max(p.view for p in places)))
        logits = self._run(places, input_ids, position_ids, masks, batch.keep)
        if order is not None:
            logits = logits.index_select(0, self._tensor(order))
        return logits[:, -batch.keep :] if logits.dim() == 3 else logits

    def _masked(
        self, places: Sequence[Place], input_ids: Tensor, position_ids: Tensor, keys: Tensor
    ) -> Tensor:
        """Logits of tensors that are there, one token a row: what a graph captures."""
        return self._run(places, input_ids, position_ids, self._masks(position_ids, keys), keep=1)

    def _run(
        self,
        places: Sequence[Place],
        input_ids: Tensor,
        position_ids: Tensor,
        masks: Tensor | dict[str, Tensor] | None,
        keep: int,
    ) -> Tensor:
        self.cache.places = places
        kwargs: dict[str, Any] = {"logits_to_keep": keep} if self._keeps_logits else {}
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=masks,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
            **kwargs,
        ).logits
        return logits

    def _inputs(self, batch: Batch) -> tuple[list[Place], Tensor, Tensor, list[int] | None]:
        """Tensors for a batch, and which of its lanes are the batch's rows, if not all in order."""
        fed = {r.slot: (r, n) for r, n in zip(batch.rows, batch.counts, strict=True)}
        ranges = [self._lanes([r.slot for r in rows]) for rows in by_arena(batch.rows)]
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
        if len(lanes) == 1:
            places, order = [self._place_of_one(slot, positions[0])], None
        else:
            places = self._places(ranges, self._tensor(writes), [p[-1] + 1 for p in positions])
            lane = {slot: i for i, slot in enumerate(lanes)}
            order = [lane[r.slot] for r in batch.rows]
            if order == list(range(len(lanes))):
                order = None
        return places, self._tensor(ids), self._tensor(positions), order

    def _place_of_one(self, slot: Slot, positions: list[int]) -> Place:
        return Place(
            length=slot.length,
            slots=len(self.table.arenas[slot.length]),
            lanes=slice(0, 1),
            rows=slice(slot.index, slot.index + 1),
            view=positions[-1] + 1,
            first=positions[0],
        )

    def _places(
        self, ranges: list[tuple[list[Slot], bool]], writes: Tensor, ends: list[int]
    ) -> list[Place]:
        """The places of several lanes, from the positions that each writes and reads up to."""
        indices = self._tensor([[slot.index] for slots, _ in ranges for slot in slots])
        places, first = [], 0
        for slots, in_place in ranges:
            low, lanes = slots[0].index, slice(first, first + len(slots))
            places.append(
                Place(
                    length=slots[0].length,
                    slots=len(self.table.arenas[slots[0].length]),
                    lanes=lanes,
                    rows=slice(low, low + len(slots)) if in_place else indices[lanes, 0],
                    row_ids=indices[lanes],
                    positions=writes[lanes],
                    view=max(ends[lanes]),
                )
            )
            first += len(slots)
        return places

    def _lanes(self, slots: Sequence[Slot]) -> tuple[list[Slot], bool]:
        """The slots of an arena to compute for these, by index, and whether they are a range.

        A range is read in place; idle ones inside are computed for nothing, which is cheaper than
        copying all keys and values out, unless there are many.
        """
        by_index = sorted(slots, key=lambda s: s.index)
        low, high = by_index[0].index, by_index[-1].index + 1
        if 2 * (high - low) <= 3 * len(slots):
            return self.table.arenas[slots[0].length][low:high], True
        return by_index, False

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return on_device(values, self.device)

    def _keys(self, view: int) -> Tensor:
        """All positions below `view`."""
        if len(self._positions) < view:
            self._positions = torch.arange(2 * view, device=self.device)
        return self._positions[:view]

    def _masks(self, position_ids: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks [B, 1, Q, longest view]; one a layer type where the model has several."""
        queries = position_ids[:, None, :, None]
        full = keys <= queries
        sliding = full & (keys > queries - self._window) if self._window else full
        if len(self._layer_types) > 1:
            return {
                kind: self._additive(sliding if kind == "sliding_attention" else full)
                for kind in self._layer_types
            }
        uses_window = self._layer_types in ([], ["sliding_attention"])
        return self._additive(sliding if uses_window else full)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=self.device)
        return mask.masked_fill_(~visible, self._lowest)
