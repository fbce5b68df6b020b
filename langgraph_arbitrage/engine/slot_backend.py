"""The slot engine: many sequences at a time through an unmodified Hugging Face model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.attention import join_arenas
from langgraph_arbitrage.engine.cuda_capture import CAPTURES
from langgraph_arbitrage.engine.decode_graphs import DecodeGraphs
from langgraph_arbitrage.engine.lanes import lanes_of, last_places
from langgraph_arbitrage.engine.masks import Masks
from langgraph_arbitrage.engine.row import Batch, Row, by_arena
from langgraph_arbitrage.engine.slot_cache import Place, SlotCache
from langgraph_arbitrage.engine.slots import (
    APART,
    JOINED,
    Claim,
    Lengths,
    SlotTable,
    common_prefix,
)
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.traces import Traces
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
        self.goes_on = not spec.batch_invariant
        self.device = model.device
        self.cache = SlotCache(model.config.get_text_config().num_hidden_layers)
        self.joined = join_arenas(model, joined=joined)
        # A graph knows its arenas: on a GPU few of them make few graphs.
        many = self.joined and self.device.type not in CAPTURES
        self.table = SlotTable(spec.max_slots, context, lengths or (JOINED if many else APART))
        self.chunk = CHUNK.get(self.device.type, CHUNK["cuda"])
        self.masks = Masks(model)
        keeps = inspect.signature(model.forward).parameters.get("logits_to_keep")
        self._keeps_logits = keeps is not None
        # For a slice of the positions torch copies a whole output head of 16 bits (2.13).
        half = self.device.type == "cpu" and model.dtype.itemsize == 2
        self._gathers = half and keeps is not None and "Tensor" in str(keeps.annotation)
        self.faster: DecodeGraphs | Traces | None = None
        """Goes around the eager forward where it can."""

    # --- slots ---------------------------------------------------------------------------

    @property
    def max_rows(self) -> int:
        """Most rows at a time: `max_slots`, or what there was memory for."""
        return self.table.max_slots

    def home(self, ids: Sequence[int]) -> int | None:
        """The hand that holds clearly most of the beginning of `ids`, if one does."""
        return self.table.home(ids)

    def admit(self, row: Row, others: Sequence[Row]) -> bool:
        """Give the row a slot; False where it has to wait."""
        if others and not self.cache.shaped:
            return False  # the first forward tells how much memory a slot takes
        ids, reuse = row.tokens, not self.spec.batch_invariant
        if reuse and self._is_read_now(ids, others):
            return False
        claim = self._claimed(ids, row.hand, reuse=reuse)
        if claim is None:
            return False
        self._copy(claim)
        row.take(claim.slot, claim.cached)
        return True

    def _is_read_now(self, ids: list[int], others: Sequence[Row]) -> bool:
        """Whether another row is reading a long common beginning: it is copied once it is there."""
        reading = [other for other in others if other.remaining >= WORTH_WAITING]
        if not reading:
            return False
        here = self.table.overlap(ids)
        return any(
            common_prefix(other.tokens, ids) - max(here, len(other.slot.ids)) >= WORTH_WAITING
            for other in reading
        )

    def _claimed(self, ids: list[int], hand: int, *, reuse: bool) -> Claim | None:
        """A slot with memory behind it; None when all are busy.

        Raises:
            NotEnoughMemoryError: There is no memory; from now on fewer rows run at a time.
        """
        tokens = len(ids) + self.table.lengths.grow
        for _ in range(2):  # a new slot, and where there is no memory for it, one that is there
            claim = self.table.claim(ids, tokens, reuse=reuse, hand=hand)
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
        arena = claim.slot.arena
        slots, most = len(self.table.arenas[arena]), self.spec.max_slots
        if not self.cache.shaped or self.cache.reserve(arena, slots, most):
            return True
        for idle in self.table.drop_idle(claim):
            self.cache.drop(idle)
        if self.cache.reserve(arena, slots, most):
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
                (source.arena, source.index),
                (slot.arena, slot.index),
                claim.cached,
                len(self.table.arenas[slot.arena]),
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
            self.cache.swap(outer.arena, outer.index, inner.index, tokens)
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
        if self.faster is not None:
            logits = self.faster.forward(batch, self._eager, self._masked)
        else:
            logits = self._eager(batch)
        for row, count in zip(batch.rows, batch.counts, strict=True):
            held = len(row.slot.ids)
            row.slot.ids.extend(row.tokens[held : held + count])
            row.fed += count
        return logits

    def decode(
        self, batch: Batch, most: int, stops: Callable[[int], Tensor]
    ) -> list[tuple[list[int], list[float]]]:
        """Write several greedy tokens of each row at once, where that can be done."""
        fed = batch.counts
        room = (r.slot.length - len(r.slot.ids) - n for r, n in zip(batch.rows, fed, strict=True))
        most = min(most, *room)
        if not isinstance(self.faster, Traces) or most < 2:
            return []
        vocabulary: int = self.model.config.get_text_config().vocab_size
        found = self.faster.decode(batch, most, stops(vocabulary))
        if found is None:
            return []
        self.table.forwards += 1
        ids, logprobs = (values.T.tolist() for values in found)
        for row, new, count in zip(batch.rows, ids, fed, strict=True):
            row.slot.ids += [*row.tokens[-count:], *new[:-1]]
            row.fed += count + len(new) - 1
        return list(zip(ids, logprobs, strict=True))

    def _eager(self, batch: Batch) -> Tensor:
        lanes = lanes_of(batch, self.table)
        tokens = lanes.tokens(self.device)
        # One row is a model's ordinary case: it makes its own masks, or none.
        masks = None if lanes.alone else self.masks.of(tokens[1], self.masks.keys(lanes.view))
        keep: int | Tensor = batch.keep
        if self._gathers and batch.keep < lanes.width:
            keep = last_places(lanes.width, batch.keep, self.device)
        logits = self._run(lanes.places(tokens), tokens[0], tokens[1], masks, keep)
        if lanes.order is not None:
            logits = logits.index_select(0, on_device(lanes.order, self.device))
        return logits[:, -batch.keep :] if logits.dim() == 3 else logits

    def _masked(
        self,
        places: Sequence[Place],
        input_ids: Tensor,
        position_ids: Tensor,
        keys: Tensor,
        keep: int | Tensor = 1,
    ) -> Tensor:
        """Logits of tensors that are there: what is captured or traced."""
        masks = self.masks.of(position_ids, keys)
        return self._run(places, input_ids, position_ids, masks, keep)

    def _run(
        self,
        places: Sequence[Place],
        input_ids: Tensor,
        position_ids: Tensor,
        masks: Tensor | dict[str, Tensor] | None,
        keep: int | Tensor,
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
