"""Decoding by graphs: a forward of one token a row, recorded once a shape and then repeated.

At batch 1 a GPU spends most of an eager token waiting for Python to start the next kernel. A graph
starts them all at once. What is here knows shapes, rows and slots, and how to capture only as a
function that it is given: the same code runs in the tests on a CPU.

A graph works on fixed memory: its own inputs, the keys and values of its arenas. So each batch is
padded to a shape that graphs are made for (`decode_shapes`), a graph whose arena has moved is
dropped, and a shape is captured once it was met a few times. A graph is captured on made-up inputs;
the first real ones go through it and through an eager forward, and both must agree. Whatever goes
wrong, the model decodes eagerly from then on, and one warning says why.

No GPU has run this yet (`cuda_capture`).
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.agreement import Agreement
from langgraph_arbitrage.engine.capturable import NotCapturableError, Watch, why_eager
from langgraph_arbitrage.engine.cuda_capture import CAPTURES, Capture, Replay
from langgraph_arbitrage.engine.decode_shapes import Shape, part_of
from langgraph_arbitrage.engine.row import Batch, Row, by_arena
from langgraph_arbitrage.engine.slot_cache import Place, SlotCache
from langgraph_arbitrage.engine.slots import Slot
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.transfer import on_host

__all__ = ["DecodeGraph", "DecodeGraphs", "decode_graphs"]

logger = logging.getLogger(__name__)

MET = 8  # forwards of a shape before it is captured: a capture costs about as many
MOST = 48  # graphs of a model; the one not used for longest goes
Forward = Callable[[Sequence[Place], Tensor, Tensor, Tensor], Tensor]
"""Places, input ids [B, 1], positions [B, 1] and all positions that are read [view] → logits."""


class DecodeGraph:
    """One captured forward, and the memory that it works on."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        self.replay: Replay
        self.pointers: tuple[int, ...] = ()
        """Where the arenas were at the capture."""
        self.checked = False
        """Whether its first replay has agreed with an eager forward."""
        lanes = sum(part.rows for part in shape)
        # Ids, positions, where keys are written, slots, and which lane is the batch's next row.
        self.inputs = torch.zeros(5, lanes, dtype=torch.long, device=device)
        self.keys = torch.arange(max(part.view for part in shape), device=device)
        self.ids, self.positions, writes, indices = self.inputs[:4, :, None]
        self.order = self.inputs[4]
        self.places = []
        for part, first in zip(shape, self._firsts(), strict=True):
            here = slice(first, first + part.rows)
            in_place = None if part.low is None else slice(part.low, part.low + part.rows)
            self.places.append(
                Place(
                    arena=part.arena,
                    slots=0,  # the arena is there, and never grows in a capture
                    lanes=here,
                    rows=in_place or indices[here, 0],
                    view=part.view,
                    row_ids=indices[here],
                    positions=writes[here],
                )
            )

    def _firsts(self) -> list[int]:
        """The first lane of each part."""
        return [0, *itertools.accumulate(part.rows for part in self.shape)][:-1]

    def load(self, rows: Sequence[Row]) -> None:
        """Put a batch into the graph's inputs, in one copy; without rows, only padding.

        Padding reads position 0 and writes to the spare one, the last of a slot, where nothing is
        ever valid.
        """
        lanes = self.inputs.shape[1]
        ids, positions, writes, indices, order = ([0] * lanes for _ in range(5))
        lane_of: dict[Slot, int] = {}
        groups = by_arena(rows) or [[] for _ in self.shape]
        for part, first, here in zip(self.shape, self._firsts(), groups, strict=True):
            last = first + part.rows
            writes[first:last] = [part.arena.length - 1] * part.rows
            low = part.low
            if low is None:
                spare = here[0].slot.index if here else 0
                indices[first:last] = [spare] * part.rows
            else:
                indices[first:last] = range(low, low + part.rows)
            for number, row in enumerate(here):
                held, slot = len(row.slot.ids), row.slot
                lane = first + (number if low is None else slot.index - low)
                ids[lane], positions[lane], writes[lane] = row.tokens[held], held, held
                indices[lane], lane_of[slot] = slot.index, lane
        order[: len(rows)] = [lane_of[row.slot] for row in rows]
        values = on_host((ids, positions, writes, indices, order), self.inputs.device, torch.long)
        self.inputs.copy_(values, non_blocking=True)


class DecodeGraphs:
    """The graphs of one model, and whether it has any."""

    def __init__(
        self,
        name: str,
        cache: SlotCache,
        capture: Capture,
        device: torch.device,
        agreement: Agreement,
    ) -> None:
        self.name = name
        self.cache = cache
        self.device = device
        self.agreement = agreement
        self.why_not: str | None = None
        """Why the model no longer has any."""
        self.graphs: OrderedDict[Shape, DecodeGraph] = OrderedDict()
        """The one used last is the last."""
        self.captured = 0
        """How often one was."""
        self.replayed = 0
        """Forwards that a graph did."""
        self._met: Counter[Shape] = Counter()
        self._capture = capture

    def forward(self, batch: Batch, eager: Callable[[Batch], Tensor], forward: Forward) -> Tensor:
        """Logits of a batch, by a graph where there is one, else by `eager`.

        Args:
            batch: Rows and how many tokens of each are read.
            eager: The ordinary forward.
            forward: What a graph captures: a forward of tensors that are there.
        """
        shape = self._shape(batch)
        replayed = self._replayed(shape, batch, forward) if shape is not None else None
        if replayed is None:
            return eager(batch)
        graph, logits = replayed
        return logits if graph.checked else self._checked(graph, batch, logits.clone(), eager)

    def _replayed(
        self, shape: Shape, batch: Batch, forward: Forward
    ) -> tuple[DecodeGraph, Tensor] | None:
        """The graph that did the batch, and its logits; None where eager has to."""
        try:
            graph = self._graph(shape, forward)
            if graph is None:
                return None
            graph.load(batch.rows)
            logits = graph.replay()[: len(batch.rows)]
        except Exception as error:  # of CUDA, of the model's own code: eager does without
            cause = str(error).strip().partition("\n")[0]
            known = isinstance(error, NotCapturableError)
            self.disable(cause if known else f"{type(error).__name__}: {cause}")
            return None
        self.replayed += 1
        return graph, logits

    def disable(self, why: str) -> None:
        """Decode eagerly from now on, and say so once."""
        self.why_not = why
        self.graphs.clear()
        logger.warning(
            "%s decodes without CUDA graphs from here on, slower and with the same results: %s. "
            "cuda_graphs=False has it so from the start.",
            self.name,
            why,
        )

    def _shape(self, batch: Batch) -> Shape | None:
        if self.why_not is not None or batch.width > 1 or batch.keep > 1:
            return None
        parts = []
        for rows in by_arena(batch.rows):
            part = part_of(rows, self.cache.capacity(rows[0].slot.arena))
            if part is None:
                return None
            parts.append(part)
        return tuple(parts)

    def _pointers(self, shape: Shape) -> tuple[int, ...]:
        return tuple(p for part in shape for p in self.cache.pointers(part.arena))

    def _graph(self, shape: Shape, forward: Forward) -> DecodeGraph | None:
        """The graph of a shape that was met often enough, captured where need be."""
        graph = self.graphs.get(shape)
        if graph is not None and graph.pointers == self._pointers(shape):
            self.graphs.move_to_end(shape)
            return graph
        if graph is not None:
            self._drop_moved()
        self._met[shape] += 1
        if self._met[shape] <= MET:
            return None
        self.graphs[shape] = graph = self._captured(shape, forward)
        if len(self.graphs) > MOST:
            self._drop(next(iter(self.graphs)))
        return graph

    def _drop_moved(self) -> None:
        """Drop the graphs of arenas that have grown, or were freed and made again."""
        for shape, graph in list(self.graphs.items()):
            if graph.pointers != self._pointers(shape):
                self._drop(shape)

    def _drop(self, shape: Shape) -> None:
        del self.graphs[shape], self._met[shape]

    def _checked(
        self, graph: DecodeGraph, batch: Batch, logits: Tensor, eager: Callable[[Batch], Tensor]
    ) -> Tensor:
        """Compare a graph's first replay with an eager forward of the same batch.

        It was captured on padding alone: what was recorded as a constant shows here.

        Returns:
            The eager logits.
        """
        wanted, wrong = self.agreement.checked(batch, logits, eager)
        graph.checked = wrong is None
        if wrong is not None:
            self.disable(wrong)
        return wanted

    def _captured(self, shape: Shape, forward: Forward) -> DecodeGraph:
        graph = DecodeGraph(shape, self.device)
        graph.load(())

        def work() -> Tensor:
            logits = forward(graph.places, graph.ids, graph.positions, graph.keys)
            return logits.index_select(0, graph.order)

        with Watch(self.device):
            work()
        graph.replay = self._capture(work)
        graph.pointers = self._pointers(shape)
        self.captured += 1
        return graph


def decode_graphs(model: PreTrainedModel, spec: ModelSpec, cache: SlotCache) -> DecodeGraphs | None:
    """The graphs of a model, none captured yet; None where it is to decode eagerly."""
    make, wanted = CAPTURES.get(model.device.type), spec.cuda_graphs
    if wanted is False:
        return None
    why = f"it is on {model.device}" if make is None else why_eager(model, spec)
    if make is None or why is not None:
        if wanted:
            logger.warning("%s decodes without CUDA graphs: %s", spec.name, why)
        return None
    try:
        capture = make(model.device)
    except RuntimeError as error:
        logger.warning("%s decodes without CUDA graphs: %s", spec.name, error)
        return None
    agreement = Agreement.of(model, cache)
    return DecodeGraphs(spec.name, cache, capture, model.device, agreement)
