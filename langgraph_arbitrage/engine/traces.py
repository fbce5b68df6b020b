"""Forwards without the interpreter: on a CPU, a small model's operations as one TorchScript graph.

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
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.agreement import Agreement
from langgraph_arbitrage.engine.capturable import NotCapturableError, OwnForwards, Watch, why_never
from langgraph_arbitrage.engine.cores import SMALL
from langgraph_arbitrage.engine.crew import Baton, Halts
from langgraph_arbitrage.engine.decode_loop import Loop, loop_of
from langgraph_arbitrage.engine.lanes import Lanes, lanes_of
from langgraph_arbitrage.engine.loader import LOADING
from langgraph_arbitrage.engine.row import Batch
from langgraph_arbitrage.engine.slot_cache import Place, SlotCache
from langgraph_arbitrage.engine.slots import Arena, SlotTable
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["Traces", "script_of", "traces_of"]

logger = logging.getLogger(__name__)

MET = 8  # forwards over as many arenas before a trace is made: it costs more than so many
VIEW = 4  # the column of the bounds
EXAMPLE = 2  # rows of each arena, and tokens of each row, that a trace is made on

Forward = Callable[[Sequence[Place], Tensor, Tensor, Tensor, Tensor], Tensor]
"""Places, input ids [B, Q], positions [B, Q], all positions that are read [view], and the places
in Q whose logits are wanted → logits."""
Traced = Callable[..., Tensor]
"""Tokens [4, B, Q], bounds [arenas, 5], wanted places [keep], keys and values → logits."""


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
            batch: Rows with one token to read.
            most: Tokens of each row.
            stops: Tokens [V] behind which the loop ends, if it is not asked for a halt before.

        Returns:
            Ids and log-probabilities [tokens, B]; None where the trace is not proven for it.
        """
        if not self.at_work:
            return None
        lanes = lanes_of(batch, self.table)
        proven, there = _like(lanes, 1), self._there(lanes)
        if proven not in self._checked or there is None:
            return None
        loop = self._loop(len(lanes.spans), len(there))
        if loop is None:
            return None
        try:
            tokens, bounds, wanted = _inputs(lanes, 1, there[0].device)
            goes_on = _going_on(lanes, tokens.device)
            halt = self.halts.flags[batch.rows[0].hand]
            most = min(most, 1 + (1 << proven[-1]) - lanes.view)  # no further than was compared
            with self.baton.laid_down():
                ids, logprobs = loop(tokens, bounds, wanted, goes_on, stops, halt, most, there)
        except Exception as error:  # as for a forward
            self._give_up(error)
            return None
        self.forwards += len(ids)
        return _in_order(ids, lanes, 1), _in_order(logprobs, lanes, 1)

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
            tokens, bounds, wanted = _inputs(lanes, keep, there[0].device)
            with self.baton.laid_down():
                logits = traced(tokens, bounds, wanted, *there)
        except Exception as error:  # of the tracer, of the model's own code: eager does without
            self._give_up(error)
            return None
        self.forwards += 1
        logits = _in_order(logits, lanes, 0)
        return logits[:, -keep:] if logits.dim() == 3 else logits

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, NotCapturableError):
            self.disable(str(error), logging.INFO)  # such a model has none
        else:
            cause = str(error).strip().partition("\n")[0]
            self.disable(f"{type(error).__name__}: {cause}")

    def _there(self, lanes: Lanes) -> list[Tensor] | None:
        """Keys and values; None where an arena has too little room."""
        return self.cache.tensors({span.arena: span.slots for span in lanes.spans})

    def _loop(self, arenas: int, tensors: int) -> Loop | None:
        if arenas not in self.loops:
            try:
                with _unwarned():
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
        tokens, _, wanted, *there = example = _example(arenas, self.cache)

        def function(tokens: Tensor, bounds: Tensor, wanted: Tensor, *there: Tensor) -> Tensor:
            self.cache.lend(there, arenas)
            keys = torch.arange(bounds[:, VIEW].max(), device=tokens.device)  # type: ignore[call-overload]
            places = [_Place.of(n, tokens, size, arenas) for n, size in enumerate(bounds.unbind(0))]
            return forward(places, tokens[0], tokens[1], keys, wanted)

        with self.cache.lent():
            self.cache.lend(there, arenas)
            with Watch(tokens.device):
                forward(_known_places(tokens, arenas), tokens[0], tokens[1], wanted, wanted)
            with _unwarned():
                return script_of(function, example)


def script_of(function: Traced, example: Sequence[Tensor]) -> Traced:
    """A traced function that is gone with its last user, and the model's weights with it.

    `torch.jit.trace` keeps what it makes of a function until the process ends, weights included.
    """
    names = "".format  # of values: none
    graph, _ = torch._C._create_graph_by_tracing(function, tuple(example), names, True, False)
    made: Traced = torch._C.CompilationUnit().create_function("forward", graph)
    return made


@dataclass
class _Place(Place):
    """A place whose sizes are in a tensor: a trace would keep a number as it is."""

    size: Tensor | None = None
    """A row of the bounds."""

    @classmethod
    def of(cls, n: int, tokens: Tensor, size: Tensor, arenas: int) -> _Place:
        """The place in the n-th arena, of tokens as `Lanes.tokens` lays them out."""
        writes, rows = tokens[2], tokens[3]
        lanes: Any = slice(None)
        if arenas > 1:
            lanes = slice(*size[:2].unbind(0))
        return cls(
            arena=Arena(n),
            slots=0,  # the arena is there
            lanes=lanes,
            rows=rows[lanes, 0],
            view=0,
            row_ids=rows[lanes],
            positions=writes[lanes],
            size=size,
        )

    def read(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those that the rows attend to: where these are a range, as it lies there."""
        found: tuple[Tensor, Tensor] = _reader()(keys, values, self.size, self.rows)
        return found


@cache
def _reader() -> Callable[..., Any]:
    """What decides as it runs, not when it is traced."""
    with _unwarned():
        return torch.jit.script(_read)


def _read(keys: Tensor, values: Tensor, size: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    low, high, view = int(size[2]), int(size[3]), int(size[4])
    if high - low == rows.size(0):
        return keys[low:high, :, :view], values[low:high, :, :view]
    keys, values = keys[:, :, :view], values[:, :, :view]
    return keys.index_select(0, rows), values.index_select(0, rows)


def _like(lanes: Lanes, keep: int) -> tuple[int, bool, bool, bool, int]:
    """Sizes by which Python may choose: how many are one, and about how many are read."""
    few = lanes.alone, lanes.width == 1, keep == 1
    return len(lanes.spans), *few, (lanes.view - 1).bit_length()


def _inputs(lanes: Lanes, keep: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What a trace takes beside keys and values.

    The bounds of each arena: first and last lane, first and last slot, positions that are read.
    """
    bounds = [(s.lanes.start, s.lanes.stop, s.low, s.high, s.view) for s in lanes.spans]
    wanted = _wanted(lanes.width, keep, device)
    return lanes.tokens(device), on_device(bounds, device), wanted


@lru_cache(maxsize=256)
def _wanted(width: int, keep: int, device: torch.device) -> Tensor:
    """The last `keep` of so many places."""
    return torch.arange(width - keep, width, device=device)


def _going_on(lanes: Lanes, device: torch.device) -> Tensor:
    """How far each lane goes on with a token: 1, or 0 where no row is, [B, 1]."""
    if lanes.order is None:
        return on_device([[1]] * len(lanes.ids), device)
    rows = set(lanes.order)
    return on_device([[int(lane in rows)] for lane in range(len(lanes.ids))], device)


def _in_order(values: Tensor, lanes: Lanes, dim: int) -> Tensor:
    """Those of each row instead of each lane."""
    if lanes.order is None:
        return values
    return values.index_select(dim, on_device(lanes.order, values.device))


def _known_places(tokens: Tensor, arenas: int) -> list[Place]:
    """The places of the example, with sizes that no tensor has to be asked for."""
    lanes = [slice(EXAMPLE * n, EXAMPLE * (n + 1)) for n in range(arenas)]
    everything = slice(0, EXAMPLE)
    return [
        Place(
            Arena(n),
            0,
            here,
            everything,
            EXAMPLE,
            row_ids=tokens[3, here],
            positions=tokens[2, here],
        )
        for n, here in enumerate(lanes)
    ]


def _example(arenas: int, cache: SlotCache) -> tuple[Tensor, ...]:
    """Inputs to trace on: a few rows and tokens, and arenas of their own."""
    n, many = EXAMPLE, arenas * EXAMPLE
    there = cache.made_up(n, n, arenas)
    device = there[0].device
    places = list(range(n))
    rows = [[slot] * n for _ in range(arenas) for slot in range(n)]
    tokens = on_device(([[0] * n] * many, [places] * many, [places] * many, rows), device)
    bounds = on_device([(n * i, n * i + n, 0, n, n) for i in range(arenas)], device)
    return (tokens, bounds, on_device(places, device), *there)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without what the tracer warns of: sizes that Python looks at are what checks are for.

    Warnings are a setting of the process. No other ones are hidden: another thread that sets them
    meanwhile might put these filters back for good.
    """
    from torch.jit._trace import TracerWarning  # here: the rest does without TorchScript

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


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
    small = model.num_parameters() <= SMALL
    # Some forwards are eager, and which ones depends on what else was asked.
    exact = spec.batch_invariant
    if model.device.type != "cpu" or spec.engine != "auto" or exact or quantized or not small:
        return None
    if (why := why_never(model)) is not None:
        logger.info("%s runs without traces: %s", spec.name, why)
        return None
    return Traces(spec.name, model, cache, table, baton, halts)
