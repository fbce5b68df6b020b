"""Forwards without the interpreter: on a CPU, a model's operations as one TorchScript graph.

Python takes longer to start an operation of a small model than the operation takes. A trace of the
forward starts them all from C++, with the same kernels and so the same results, and leaves the
interpreter to other threads meanwhile. Sizes stay open: one trace serves any number of rows,
tokens and positions, and any slots. There is one for each number of arenas that a batch lies in.

What Python decides from a size would be fixed by a trace. So each is compared with eager forwards
of real batches: the first of one row and of several, of one token and of several, and each time
about twice as many positions are read. Whatever goes wrong, the model runs eagerly from then on,
and one warning says why.

TorchScript is deprecated in favour of `torch.export`, whose programs run in the interpreter again
or have to be compiled for a minute. Where it is gone, models run eagerly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.agreement import Agreement
from langgraph_arbitrage.engine.capturable import NotCapturableError, OwnForwards, Watch, why_never
from langgraph_arbitrage.engine.cores import SMALL
from langgraph_arbitrage.engine.crew import Baton, Halts
from langgraph_arbitrage.engine.decode_loop import Loop, loop_of
from langgraph_arbitrage.engine.lanes import Lanes, lanes_of
from langgraph_arbitrage.engine.loader import LOADING
from langgraph_arbitrage.engine.open_sizes import (
    OpenPlace,
    Traced,
    example,
    going_on,
    in_order,
    inputs,
    known_places,
    most_read,
    script_of,
    unwarned,
)
from langgraph_arbitrage.engine.packed_linear import is_packed, packed_layers, parameters
from langgraph_arbitrage.engine.row import Batch
from langgraph_arbitrage.engine.slot_cache import Place, SlotCache
from langgraph_arbitrage.engine.slots import SlotTable
from langgraph_arbitrage.engine.spec import ModelSpec

__all__ = ["Traces", "script_of", "traces_of"]

logger = logging.getLogger(__name__)

MOST = 400_000_000  # parameters; beyond, products take so long that nothing is saved
MET = 8  # forwards over as many arenas before a trace is made: it costs more than so many

Forward = Callable[[Sequence[Place], Tensor, Tensor, Tensor, Tensor], Tensor]
"""Places, input ids [B, Q], positions [B, Q], all positions that are read [view], and the places
in Q whose logits are wanted → logits."""


class Traces:
    """The traces of one model, and whether it has any.

    Its thread holds the baton, and lays it down while a trace computes.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        cache: SlotCache,
        table: SlotTable,
        baton: Baton,
        halts: Halts,
    ) -> None:
        self.name = name
        self.baton = baton
        self.halts = halts
        self.cache = cache
        self.table = table
        self.weights = [layer.weight for layer in packed_layers(model)]
        self.agreement = Agreement.of(model, cache)
        self.own = OwnForwards(model)
        self.why_not: str | None = None
        """Why the model no longer has any."""
        self.made: dict[int, Traced] = {}
        """By the number of arenas."""
        self.loops: dict[int, Loop | None] = {}
        """Around each of them, once one was asked for; None where there can be none."""
        self.forwards = 0
        """Those that a trace did."""
        self._met: Counter[int] = Counter()
        self._checked: set[tuple[Any, ...]] = set()

    def forward(self, batch: Batch, eager: Callable[[Batch], Tensor], forward: Forward) -> Tensor:
        """Logits of a batch, by a trace where there is one, else by `eager`.

        Args:
            batch: Rows and how many tokens of each are read.
            eager: The ordinary forward.
            forward: What is traced.
        """
        if self.why_not is not None or not self.cache.shaped or not self.own.intact:
            return eager(batch)
        lanes = lanes_of(batch, self.table)
        logits = self._traced(lanes, batch.keep, forward)
        if logits is None:
            return eager(batch)
        like = _like(lanes, batch.keep)
        if like in self._checked:
            return logits
        logits, wrong = self.agreement.checked(batch, logits, eager)
        if wrong is None:
            self._checked.add(like)
        else:
            self.disable(wrong)
        return logits

    def decode(self, batch: Batch, most: int, stops: Tensor) -> tuple[Tensor, Tensor] | None:
        """Several greedy tokens of each row, by a loop around the trace.

        Args:
            batch: Rows with one token to read, or a single row with all that it has to read.
            most: Tokens of each row.
            stops: Tokens [V] behind which the loop ends, if it is not asked for a halt before.

        Returns:
            Ids and log-probabilities [tokens, B]; None where the trace is not proven for it.
        """
        if not self.at_work:
            return None
        lanes = lanes_of(batch, self.table)
        proven, there = _like(lanes, 1), self._there(lanes)
        begins = (*proven[:2], True, *proven[3:])  # to read a prompt, and to go on from it
        if not {proven, begins} <= self._checked or there is None:
            return None
        loop = self._loop(len(lanes.spans), len(there))
        if loop is None:
            return None
        try:
            tokens, bounds, wanted = inputs(lanes, 1, there[0].device)
            goes_on = going_on(lanes, tokens.device)
            halt = self.halts.flags[batch.rows[0].hand]
            most = min(most, 1 + (1 << proven[-1]) - lanes.view)  # no further than was compared
            with self.baton.laid_down():
                ids, logprobs = loop(tokens, bounds, wanted, goes_on, stops, halt, most, there)
        except Exception as error:  # as for a forward
            self._give_up(error)
            return None
        self.forwards += len(ids)
        return in_order(ids, lanes, 1), in_order(logprobs, lanes, 1)

    @property
    def at_work(self) -> bool:
        """Whether forwards need no interpreter now."""
        return bool(self.made) and self.own.intact

    def disable(self, why: str, level: int = logging.WARNING) -> None:
        """Run eagerly from now on, and say so once."""
        self.why_not = why
        self.made.clear()
        self.loops.clear()
        logger.log(
            level,
            "%s runs without traces from here on, slower and with the same results: %s. "
            "engine='eager' has it so from the start.",
            self.name,
            why,
        )

    def _traced(self, lanes: Lanes, keep: int, forward: Forward) -> Tensor | None:
        """The logits by a trace; None where eager has to."""
        try:
            count, there = len(lanes.spans), self._there(lanes)
            traced = self.made.get(count) or self._made(count, forward)
            if traced is None or there is None:
                return None
            tokens, bounds, wanted = inputs(lanes, keep, there[0].device)
            with self.baton.laid_down():
                logits = traced(tokens, bounds, wanted, *there)
        except Exception as error:  # of the tracer, of the model's own code: eager does without
            self._give_up(error)
            return None
        self.forwards += 1
        logits = in_order(logits, lanes, 0)
        return logits[:, -keep:] if logits.dim() == 3 else logits

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, NotCapturableError):
            self.disable(str(error), logging.INFO)  # such a model has none
        else:
            cause = str(error).strip().partition("\n")[0]
            self.disable(f"{type(error).__name__}: {cause}")

    def _there(self, lanes: Lanes) -> list[Tensor] | None:
        """Keys and values, and packed weights; None where an arena has too little room."""
        cached = self.cache.tensors({span.arena: span.slots for span in lanes.spans})
        return cached and [*cached, *self.weights]

    def _loop(self, arenas: int, tensors: int) -> Loop | None:
        if arenas not in self.loops:
            try:
                with unwarned():
                    self.loops[arenas] = loop_of(self.made[arenas], tensors)
            except Exception as error:  # of TorchScript: one token at a time does without
                self.loops[arenas] = None
                logger.info("%s decodes one token at a time: %s", self.name, error)
        return self.loops[arenas]

    def _made(self, arenas: int, forward: Forward) -> Traced | None:
        """A trace for so many arenas, once they were met often enough."""
        self._met[arenas] += 1
        if self._met[arenas] <= MET or not LOADING.acquire(blocking=False):
            return None
        try:
            self.made[arenas] = traced = self._trace(arenas, forward)
        finally:
            LOADING.release()
        return traced

    def _trace(self, arenas: int, forward: Forward) -> Traced:
        """Watch the forward once, for what no trace can repeat, then trace it."""
        tokens, _, wanted, *cached = made = example(arenas, self.cache)

        def function(tokens: Tensor, bounds: Tensor, wanted: Tensor, *there: Tensor) -> Tensor:
            self.cache.lend(there[: len(cached)], arenas)
            keys = most_read(bounds)
            places = [
                OpenPlace.of(n, tokens, size, arenas) for n, size in enumerate(bounds.unbind(0))
            ]
            return forward(places, tokens[0], tokens[1], keys, wanted)

        with self.cache.lent():
            self.cache.lend(cached, arenas)
            with Watch(tokens.device):
                forward(known_places(tokens, arenas), tokens[0], tokens[1], wanted, wanted)
            with unwarned():  # what is an input is no constant, also where the layers find it
                return script_of(function, (*made, *self.weights))


def _like(lanes: Lanes, keep: int) -> tuple[int, bool, bool, bool, int]:
    """Sizes by which Python may choose: how many are one, and about how many are read."""
    few = lanes.alone, lanes.width == 1, keep == 1
    return len(lanes.spans), *few, (lanes.view - 1).bit_length()


def traces_of(
    model: PreTrainedModel,
    spec: ModelSpec,
    cache: SlotCache,
    table: SlotTable,
    baton: Baton,
    halts: Halts,
) -> Traces | None:
    """The traces of a model, none made yet; None where it is to run eagerly."""
    quantized = getattr(model, "hf_quantizer", None) is not None
    small = parameters(model) <= (MOST if is_packed(model) else SMALL)
    # Some forwards are eager, and which ones depends on what else was asked.
    exact = spec.batch_invariant
    if model.device.type != "cpu" or spec.engine != "auto" or exact or quantized or not small:
        return None
    if (why := why_never(model)) is not None:
        logger.info("%s runs without traces: %s", spec.name, why)
        return None
    return Traces(spec.name, model, cache, table, baton, halts)
