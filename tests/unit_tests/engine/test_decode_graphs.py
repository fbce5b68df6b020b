"""Decoding by graphs, on a CPU: a tape of operations stands for the GPU's graph (`tape`)."""

import inspect
import random
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from langgraph_arbitrage.engine import (
    Engine,
    Sampling,
    Score,
    Write,
    decode_graphs,
    decode_shapes,
    slot_backend,
    slots,
)
from langgraph_arbitrage.engine.capturable import NotCapturableError, Watch, why_eager
from langgraph_arbitrage.engine.cuda_capture import CAPTURES
from langgraph_arbitrage.engine.decode_graphs import DecodeGraph, DecodeGraphs
from langgraph_arbitrage.engine.decode_shapes import Part, part_of
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.transfer import packed, unpacked
from tape import Tape, no_capture, taped, tensors
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
WARNING = "decodes without CUDA graphs"


@pytest.fixture(autouse=True)
def graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: taped)
    monkeypatch.setattr(decode_graphs, "MET", 2)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slots are read where they are, as large ones are."""
    monkeypatch.setattr(decode_shapes, "COPIED", 64)


def graphs_of(schedulers: list[Scheduler]) -> DecodeGraphs:
    return schedulers[-1].backend.faster  # type: ignore[attr-defined]


def prompts(n: int) -> list[list[int]]:
    return [random_ids(8 + 3 * k, seed=k) for k in range(n)]


def write_all(engine: Engine, asked: list[list[int]], new: int) -> list[list[int]]:
    return [t.result().ids for t in [engine.submit(Write(ids, new)) for ids in asked]]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3_moe", "gpt2"])
def test_a_replay_writes_what_transformers_writes_alone_and_many_at_once(
    kind: str, fresh: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    path = make(kind, endless=True)
    engine = fresh(path)
    assert write_all(engine, [random_ids(20)], 30) == [generate(path, random_ids(20), 30)]
    alone = graphs_of(schedulers).replayed
    assert alone > 20
    assert write_all(engine, prompts(6), 30) == [generate(path, p, 30) for p in prompts(6)]
    assert graphs_of(schedulers).replayed > alone + 20
    assert WARNING not in caplog.text


@pytest.mark.usefixtures("in_place")
def test_rows_that_join_leave_and_move_and_arenas_that_grow_change_no_answer(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_backend, "APART", slots.Lengths(32, 2))
    monkeypatch.setattr(slots, "STALE", 0)
    monkeypatch.setattr(decode_graphs, "MET", 0)
    engine = fresh(PATH, max_slots=20)
    asked = prompts(14) + prompts(3)
    lengths = [10 + 13 * (n % 4) for n in range(len(asked))]
    swapped: list[int] = []
    swap = slots.SlotTable.swap
    monkeypatch.setattr(slots.SlotTable, "swap", lambda *args: (swapped.append(1), swap(*args))[1])
    first = [engine.submit(Write(ids, new)) for ids, new in zip(asked[:5], lengths, strict=False)]
    first[0].result()  # the others come while these are under way
    tickets = first + [
        engine.submit(Write(ids, new)) for ids, new in zip(asked[5:], lengths[5:], strict=True)
    ]
    found = [t.result().ids for t in tickets]
    assert found == [generate(PATH, p, n) for p, n in zip(asked, lengths, strict=True)]
    graphs = graphs_of(schedulers)
    parts = [part for shape in graphs.graphs for part in shape]
    assert len({part.arena for part in parts}) > 1  # rows moved on to longer slots
    assert any(part.low is not None for part in parts)
    assert len(parts) > len(graphs.graphs)  # rows of several arenas in one graph
    assert swapped


def test_a_graph_whose_arena_has_grown_is_captured_again(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    write_all(engine, [random_ids(20)], 20)
    graphs = graphs_of(schedulers)
    (before,) = graphs.graphs.values()
    engine_cache = schedulers[-1].backend.cache  # type: ignore[attr-defined]
    engine_cache.reserve(slots.Arena(512), 30, 64)
    assert write_all(engine, [random_ids(9, seed=3)], 20) == [
        generate(PATH, random_ids(9, seed=3), 20)
    ]
    (after,) = graphs.graphs.values()
    assert before.shape == after.shape
    assert after is not before
    assert graphs.captured == 2


@pytest.mark.usefixtures("in_place")
def test_padding_leaves_what_idle_slots_hold_as_it_is(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    asked = prompts(3)
    before = write_all(engine, asked, 12)
    held = asked[1] + before[1]
    others = [asked[0] + before[0], asked[2] + before[2]]  # on both sides of it
    replayed = graphs_of(schedulers).replayed
    assert write_all(engine, others, 20) == [generate(PATH, p, 20) for p in others]
    assert graphs_of(schedulers).replayed > replayed
    ranges = [p.rows for (p,) in graphs_of(schedulers).graphs if p.low is not None]
    assert 4 in ranges
    written = engine.submit(Write(held, 20)).result()
    assert written.cached >= len(held) - 1
    assert written.ids == generate(PATH, held, 20)


def test_no_more_graphs_are_kept_than_allowed_and_those_used_last_stay(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_graphs, "MOST", 2)
    engine = fresh(PATH)
    assert write_all(engine, prompts(1), 150) == [generate(PATH, prompts(1)[0], 150)]
    graphs = graphs_of(schedulers)
    assert [part.view for (part,) in graphs.graphs] == [128, 192]
    assert graphs.captured == 3


def test_a_seed_gives_the_same_answer_by_graphs_and_eagerly(fresh: Make) -> None:
    def written(engine: Engine) -> list[Any]:
        asked = [
            Write(p, 20, sampling=Sampling(temperature=k % 2 * 0.9, top_p=0.9, top_k=30, seed=k))
            for k, p in enumerate(prompts(5))
        ]
        return [t.result() for t in [engine.submit(a) for a in asked]]

    found, wanted = written(fresh(PATH)), written(fresh(PATH, cuda_graphs=False))
    assert [f.ids for f in found] == [w.ids for w in wanted]
    for f, w in zip(found, wanted, strict=True):
        assert f.logprobs == pytest.approx(w.logprobs, abs=1e-4)


def test_prompts_proposals_and_scores_are_read_eagerly(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine, ids = fresh(PATH), random_ids(30)
    own = generate(PATH, ids, 8)
    for n in range(4):
        engine.submit(Write(random_ids(30, seed=n), 1)).result()
        engine.submit(Score([*ids, *own], start=30)).result()
        assert engine.submit(Write(ids, 8, proposal=own)).result().kept == 8
    assert graphs_of(schedulers).captured == 0


# --- what goes wrong ---------------------------------------------------------------------


def constant(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Repeats the output of the capture, whatever comes in."""
    output = work()
    return lambda: output


def elsewhere(change: Callable[[DecodeGraph], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Has graphs work on other inputs than they were given."""

    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        load = DecodeGraph.load

        def loaded(self: DecodeGraph, rows: Any) -> None:
            load(self, rows)
            change(self)

        monkeypatch.setattr(DecodeGraph, "load", loaded)

    return sabotage


WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "values recorded as constants": lambda m: m.setitem(CAPTURES, "cpu", lambda device: constant),
    "a position too far": elsewhere(lambda graph: graph.inputs[1:2].add_(1)),
    "keys written nowhere": elsewhere(lambda graph: graph.inputs[2:3].fill_(500)),
    "rows of others": elsewhere(lambda graph: graph.inputs[4].copy_(graph.inputs[4].flip(0))),
    "not a number": elsewhere(lambda graph: graph.ids.fill_(-1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_that_computes_something_else_is_found_and_changes_no_answer(
    what: str,
    fresh: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    WRONG[what](monkeypatch)
    engine = fresh(PATH)
    found = write_all(engine, prompts(4), 16)
    assert found == [generate(PATH, p, 16) for p in prompts(4)]
    assert graphs_of(schedulers).why_not
    assert not graphs_of(schedulers).graphs
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "standard deviations" in told or "index out of range" in told
    assert "cuda_graphs=False" in told


def test_keys_that_a_replay_has_not_written_are_missed_though_its_logits_are_right(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only tokens to come would be wrong."""

    def forgetful(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        work()
        with Tape() as tape:
            output = work()
        cache = schedulers[-1].backend.cache  # type: ignore[attr-defined]

        def replay() -> Tensor:
            arenas = [t for layer in cache.layers for pair in layer.arenas.values() for t in pair]
            before = [t.clone() for t in arenas]
            tape.run()
            for arena, old in zip(arenas, before, strict=True):
                arena.copy_(old)
            return output

        return replay

    monkeypatch.setitem(CAPTURES, "cpu", lambda device: forgetful)
    engine = fresh(PATH)
    assert write_all(engine, prompts(1), 16) == [generate(PATH, prompts(1)[0], 16)]
    assert "standard deviations" in (graphs_of(schedulers).why_not or "")


def test_a_device_that_cannot_capture_decodes_eagerly_after_one_warning(
    fresh: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", no_capture)
    engine = fresh(PATH)
    assert write_all(engine, prompts(4), 30) == [generate(PATH, p, 30) for p in prompts(4)]
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "RuntimeError: CUDA error: operation not permitted when stream is capturing. " in told


def test_errors_of_the_model_itself_are_not_taken_for_those_of_a_graph(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    from langgraph_arbitrage.errors import EngineError

    engine = fresh(PATH)
    write_all(engine, [[7]], 1)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("of its own")

    graphs = graphs_of(schedulers)
    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "forward", failing)
        with pytest.raises(EngineError, match="of its own"):
            write_all(engine, [[8]], 3)
    assert graphs.why_not is None


ROPE = {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0}
EAGER: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamic rope": (make("llama", endless=True, rope_parameters=ROPE), {}, "waits for a value"),
    "experts chosen by the host": (
        make("qwen3_moe", endless=True),
        {"model_kwargs": {"experts_implementation": "eager"}},
        r"waits for a value of the device \(nonzero\)",
    ),
    "a sliding window": (make("mistral", endless=True), {}, "a sliding window"),
    "layers of two kinds": (make("gemma3_text", endless=True), {}, "sliding_attention"),
    "one at a time": (PATH, {"batch_invariant": True}, "batch_invariant"),
}


@pytest.mark.parametrize("what", EAGER)
def test_what_no_graph_can_repeat_is_decoded_eagerly_and_the_reason_is_told_if_asked(
    what: str, fresh: Make, caplog: pytest.LogCaptureFixture
) -> None:
    path, settings, reason = EAGER[what]
    engine = fresh(path, cuda_graphs=True, **settings)
    ids = random_ids(9)
    assert write_all(engine, [ids], 10) == [generate(path, ids, 10)]
    assert engine.backend == "slot"
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert re.search(reason, told)


def test_weights_that_accelerate_moves_are_decoded_eagerly(
    fresh: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    engine = fresh(PATH, cuda_graphs=True, model_kwargs={"device_map": {"": "cpu"}})
    write_all(engine, [[7]], 1)
    assert graphs_of(schedulers) is not None  # all on one device: nothing is moved
    from accelerate import cpu_offload

    model, spec = schedulers[-1].backend.model, engine.spec  # type: ignore[attr-defined]
    assert why_eager(model, spec) is None
    model.hf_device_map = {"model": 0, "lm_head": 1}
    assert "several devices" in (why_eager(model, spec) or "")
    model.hf_device_map = {"": 0}
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert "accelerate" in (why_eager(model, spec) or "")


def test_they_are_off_where_they_were_turned_off_and_on_a_cpu(
    fresh: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_all(fresh(PATH, cuda_graphs=False), [[7]], 20)
    assert not isinstance(graphs_of(schedulers), DecodeGraphs)
    monkeypatch.delitem(CAPTURES, "cpu")
    write_all(fresh(PATH), [[7]], 20)
    assert not isinstance(graphs_of(schedulers), DecodeGraphs)
    assert WARNING not in caplog.text
    write_all(fresh(PATH, cuda_graphs=True), [[7]], 20)
    assert "decodes without CUDA graphs: it is on cpu" in caplog.text


SEEN: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "a value": (lambda t: bool(t.sum() > 2), True),
    "a value as a number": (lambda t: t[0].item(), True),
    "a mask as an index": (lambda t: t[t > 0], True),
    "assignment by a mask": (lambda t: t.clone().__setitem__(t > 0, t.clone()[:2]), True),
    "a list as an index": (lambda t: t[[0, 1]], True),
    "a new tensor of values": (lambda t: t + torch.tensor([1.0, 2.0]), True),
    "a slice": (lambda t: t[:1] * 2 + 1, False),
    "a tensor as an index": (lambda t: t[t.long() * 0], False),
    "where": (lambda t: torch.where(t > 0, t, -t).clone(), False),
    "a range": (lambda t: torch.arange(2, device=t.device) + t, False),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_a_graph_cannot_repeat_is_seen(what: str) -> None:
    work, refused = SEEN[what]
    given = torch.ones(2)
    with torch.inference_mode(), Watch(given.device):
        if refused:
            with pytest.raises(NotCapturableError):
                work(given)
        else:
            work(given)


def test_copies_to_the_device_are_seen_and_scalars_are_none() -> None:
    there = torch.ones(3, device="meta")
    with Watch(there.device):
        _ = there * torch.ones(()) + there.to("meta")
        for copy in (
            lambda: torch.ones(3).to("meta"),
            lambda: there.copy_(torch.ones(3)),
            lambda: there[torch.zeros(2, dtype=torch.long)],
        ):
            with pytest.raises(NotCapturableError, match="also works on cpu"):
                copy()


# --- pieces ------------------------------------------------------------------------------


def test_a_part_holds_all_its_rows_and_lies_within_the_arena() -> None:
    rng = random.Random(0)
    seen: set[Part] = set()
    for _ in range(3000):
        capacity = rng.choice([1, 8, 16, 20, 64])
        count = rng.randint(1, capacity)
        indices = rng.sample(range(capacity), count)
        length = rng.choice([512, 2048, 8192, 1025])
        held = [rng.randrange(1, length - 1) for _ in indices]
        rows: Any = [
            SimpleNamespace(slot=slots.Slot(slots.Arena(length), i, ids=[0] * n))
            for i, n in zip(indices, held, strict=True)
        ]
        part = part_of(rows, capacity)
        if part is None:
            assert max(indices) + 1 - min(indices) > 2 * count
            continue
        seen.add(replace(part, low=0))
        assert max(held) < part.view <= length
        assert part.view - max(held) - 1 < max(64, (max(held) + 1) / 2)
        if part.low is None:
            assert count <= part.rows < 2 * count
            assert part.rows * part.view <= decode_shapes.COPIED
        else:
            assert 0 <= part.low <= min(indices)
            assert max(indices) < part.low + part.rows <= capacity
    assert len({s.view for s in seen}) < 20  # few enough to capture
    assert {s.rows for s in seen} <= {1, 2, 4, 8, 16, 20, 32, 64}


def test_torch_has_what_a_capture_asks_of_it() -> None:
    asked = inspect.signature(torch.cuda.graph.__init__).parameters
    assert {"pool", "stream", "capture_error_mode"} <= set(asked)
    assert callable(torch.cuda.graph_pool_handle)


def test_ids_and_logprobs_come_back_in_one_tensor_as_they_were() -> None:
    ids = torch.tensor([0, 151_935, 2**31 - 1])
    logprobs = torch.tensor([-0.1, float("-inf"), -13.25])
    both = packed(ids, logprobs)
    assert both.dtype == torch.int32
    assert unpacked(both) == (ids.tolist(), logprobs.tolist())


def test_a_tape_repeats_work_on_the_memory_that_it_was_recorded_on() -> None:
    """What the other tests stand on: a tape goes stale as a graph does."""
    given, kept = torch.ones(3), torch.zeros(2, 3)

    def work() -> Tensor:
        kept[1] = given * 2
        return kept.sum(0) + given.view(1, 3)

    replay = taped(work)
    output = replay()
    given.fill_(5)
    assert replay() is output
    assert output.tolist() == [[15.0] * 3]
    recorded, kept = kept, torch.zeros(2, 3)  # an arena that has grown
    given.fill_(1)
    replay()
    assert not kept.any()
    assert recorded[1].tolist() == [2.0] * 3
    assert len(tensors((recorded, {"a": [kept]}))) == 2
