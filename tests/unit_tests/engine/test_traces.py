"""Forwards by traces: the same results as eager ones, or none."""

import gc
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel

from langgraph_arbitrage.engine import (
    Engine,
    ModelSpec,
    Sampling,
    Score,
    Write,
    cores,
    open_sizes,
    slots,
    traces,
    worker,
)
from langgraph_arbitrage.engine.cores import Cores
from langgraph_arbitrage.engine.crew import Baton, Halts
from langgraph_arbitrage.engine.loader import LOADING
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_cache import SlotCache
from langgraph_arbitrage.engine.slots import Arena, SlotTable
from langgraph_arbitrage.engine.traces import Traces, traces_of
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
WARNING = "runs without traces"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MET", 1)


def traces_in(schedulers: list[Scheduler]) -> Traces:
    found = schedulers[-1].backend.faster  # type: ignore[attr-defined]
    assert isinstance(found, Traces)
    return found


def write_all(engine: Engine, asked: list[list[int]], new: int) -> list[list[int]]:
    return [t.result().ids for t in [engine.submit(Write(ids, new)) for ids in asked]]


@pytest.mark.parametrize("kind", ["llama", "qwen2-sliding", "qwen3_moe", "gemma3_text", "gpt2"])
def test_traces_write_what_transformers_writes_alone_and_many_at_once(
    kind: str, fresh: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    path = make(kind, endless=True)
    engine = fresh(path)
    long, short = random_ids(150), [random_ids(8 + 3 * k, seed=k) for k in range(5)]
    assert write_all(engine, [long], 30) == [generate(path, long, 30)]  # past any window
    alone = traces_in(schedulers).forwards
    assert alone > 20
    found = write_all(engine, [long[:140], *short], 30)
    assert found == [generate(path, p, 30) for p in (long[:140], *short)]
    assert traces_in(schedulers).forwards > alone + 20
    assert traces_in(schedulers).made.keys() >= {1, 2}  # arenas
    assert WARNING not in caplog.text


def test_one_trace_serves_all_sizes_and_arenas_that_grow_and_move(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH, max_slots=20)
    asked = [random_ids(5 + 20 * n, seed=n) for n in range(12)]
    write_all(engine, asked[:1], 12)
    before = traces_in(schedulers).made[1]
    scores = [engine.submit(Score(ids, start=1)) for ids in asked[1:]]
    assert write_all(engine, asked, 25) == [generate(PATH, p, 25) for p in asked]
    for score, ids in zip(scores, asked[1:], strict=True):
        wanted = scored(PATH, ids)
        assert torch.allclose(torch.tensor(score.result().logprobs), wanted, atol=1e-4)
    assert traces_in(schedulers).made[1] is before


def scored(path: str, ids: list[int]) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.inference_mode():
        spread = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return spread[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_a_seeded_step_and_a_verified_one_are_the_same_as_without_traces(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    ids, sampling = random_ids(30), Sampling(temperature=0.9, seed=7)
    plain = fresh(PATH, engine="eager").submit(Write(ids, 40, sampling=sampling)).result()
    proposal = plain.ids[:12] + random_ids(5)
    traced = fresh(PATH)
    for request in (
        Write(ids, 40, sampling=sampling),
        Write(ids, 40, sampling=sampling, proposal=proposal),
    ):
        assert traced.submit(request).result().ids == plain.ids
    assert traces_in(schedulers).forwards > 40


@pytest.mark.parametrize(
    "head", ["sequence-classification", "token-classification"], ids=lambda h: h.partition("-")[0]
)
def test_models_that_score_are_traced_too(
    head: Any, fresh: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    path = make("qwen2", head=head)
    asked = [random_ids(6 + n, seed=n) for n in range(5)] * 3
    plain = fresh(path, kind=head, engine="eager")
    wanted = [plain.submit(Score(ids)).result().logits for ids in asked]
    traced = fresh(path, kind=head)
    found = [traced.submit(Score(ids)).result().logits for ids in asked]
    assert torch.allclose(torch.tensor(found), torch.tensor(wanted), atol=1e-5)
    assert traces_in(schedulers).forwards
    assert WARNING not in caplog.text


def test_only_what_is_met_often_is_traced(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MET", 8)
    engine = fresh(PATH)
    write_all(engine, [random_ids(20)], 6)
    assert not traces_in(schedulers).made
    write_all(engine, [random_ids(9)], 12)
    assert list(traces_in(schedulers).made) == [1]


def wrong(change: Callable[[Tensor], Tensor], tokens: int) -> Callable[..., Any]:
    """A tracer whose traces fix something that Python decides: for so many tokens it is wrong."""
    script_of = traces.script_of

    def tracing(function: Any, example: Any) -> Any:
        traced = script_of(function, example)

        def run(given: Tensor, *others: Tensor) -> Tensor:
            logits = traced(given, *others)
            return change(logits) if given.shape[2] == tokens else logits

        return run

    return tracing


@pytest.mark.parametrize("change", [lambda t: t.roll(1, -1), lambda t: t * torch.nan])
def test_a_trace_that_computes_something_else_is_found_and_changes_no_answer(
    change: Callable[[Tensor], Tensor],
    fresh: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(traces, "script_of", wrong(change, tokens=7))
    engine = fresh(PATH)
    ids = random_ids(20)
    first = write_all(engine, [ids], 12)
    assert first == [generate(PATH, ids, 12)]
    assert traces_in(schedulers).why_not is None  # one token at a time is right
    more = ids + first[0] + random_ids(6)
    assert write_all(engine, [more], 12) == [generate(PATH, more, 12)]
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "standard deviations" in told
    assert "engine='eager'" in told
    assert not traces_in(schedulers).made


def test_keys_that_a_trace_has_not_written_are_missed_though_its_logits_are_right(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_of = traces.script_of

    def forgetful(function: Any, example: Any) -> Any:
        traced = script_of(function, example)

        def run(tokens: Tensor, bounds: Tensor, wanted: Tensor, *arenas: Tensor) -> Tensor:
            return traced(tokens, bounds, wanted, *[t.clone() for t in arenas])

        return run

    monkeypatch.setattr(traces, "script_of", forgetful)
    ids = random_ids(20)
    assert write_all(fresh(PATH), [ids], 12) == [generate(PATH, ids, 12)]
    assert "standard deviations" in (traces_in(schedulers).why_not or "")


def test_a_model_that_waits_for_a_value_runs_eagerly_which_is_no_fault(
    fresh: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    path = make(
        "llama",
        endless=True,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    ids = random_ids(20)
    assert write_all(fresh(path), [ids], 12) == [generate(path, ids, 12)]
    assert "waits for a value" in (traces_in(schedulers).why_not or "")
    assert WARNING not in caplog.text


def test_where_nothing_is_traced() -> None:
    model = AutoModelForCausalLM.from_pretrained(PATH)
    cache, table = SlotCache(3), SlotTable(4, None)

    def found(**settings: Any) -> Traces | None:
        return traces_of(model, ModelSpec(PATH, **settings), cache, table, Baton(), Halts())

    assert found() is not None
    assert found(engine="eager") is None
    assert found(batch_invariant=True) is None
    hook = model.model.layers[1].register_forward_hook(lambda *_: None)
    assert found() is None
    hook.remove()
    model.model.norm.forward = lambda states: states
    assert found() is None
    del model.model.norm.forward
    assert found() is not None
    model.hf_quantizer = object()
    assert found() is None
    del model.hf_quantizer
    model.hf_device_map = {"model": 0, "lm_head": 1}
    assert found() is None
    model.hf_device_map = {"": 0}
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert found() is None


def test_a_forward_that_is_replaced_later_is_called(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH)
    write_all(engine, [random_ids(20)], 12)
    before = traces_in(schedulers).forwards
    assert before
    called, forward = [], LlamaModel.forward
    with monkeypatch.context() as patched:
        patched.setattr(
            LlamaModel, "forward", lambda *a, **k: (called.append(1), forward(*a, **k))[1]
        )
        write_all(engine, [random_ids(9)], 12)
    assert len(called) == 12
    assert traces_in(schedulers).forwards == before
    write_all(engine, [random_ids(7)], 12)
    assert len(called) == 12
    assert traces_in(schedulers).forwards > before


def test_a_model_so_large_that_its_operations_take_longest_is_not_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "SMALL", 1000)
    model = AutoModelForCausalLM.from_pretrained(PATH)
    assert (
        traces_of(model, ModelSpec(PATH), SlotCache(3), SlotTable(4, None), Baton(), Halts())
        is None
    )


def test_without_a_tracer_a_model_runs_eagerly_after_one_warning(
    fresh: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(torch._C, "_create_graph_by_tracing")
    assert write_all(fresh(PATH), [random_ids(20)], 12) == [generate(PATH, random_ids(20), 12)]
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "AttributeError" in told


def test_what_the_tracer_warns_of_is_not_shown(fresh: Make, schedulers: list[Scheduler]) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        write_all(fresh(PATH), [random_ids(20)], 12)
    assert traces_in(schedulers).made
    assert not [w for w in shown if "trace" in str(w.message)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_in_half_precision_are_traced_too(
    dtype: str, fresh: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    engine = fresh(PATH, dtype=dtype)
    write_all(engine, [random_ids(20 + 9 * n, seed=n) for n in range(4)], 12)
    assert traces_in(schedulers).forwards
    assert WARNING not in caplog.text


def test_the_weights_of_a_traced_model_go_with_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    open_sizes._reader()  # that one stays
    of_torch = torch.jit._state._python_cu
    functions = len(of_torch.get_functions())
    kept: list[weakref.ref[Any]] = []
    load, script_of = worker.load_model, traces.script_of

    def loading(spec: ModelSpec) -> Any:
        model = load(spec)
        kept.append(weakref.ref(model))
        return model

    def tracing(function: Any, example: Any) -> Any:
        traced = script_of(function, example)
        kept.append(weakref.ref(traced))  # it owns the weights too
        return traced

    monkeypatch.setattr(worker, "load_model", loading)
    monkeypatch.setattr(traces, "script_of", tracing)
    engine = Engine(ModelSpec(PATH))
    write_all(engine, [random_ids(20)], 12)
    assert [found() is None for found in kept] == [False, False]
    engine.close()
    del engine
    gc.collect()
    assert [found() is None for found in kept] == [True, True]
    assert len(of_torch.get_functions()) == functions  # where torch would keep it for ever


def test_an_arena_that_is_freed_and_made_again_is_read_where_it_is_now(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    write_all(engine, [random_ids(20)], 12)
    backend = schedulers[-1].backend
    old = weakref.ref(backend.cache.tensors({Arena(128): 1})[0])  # type: ignore[attr-defined]
    backend.cache.drop(Arena(128))  # type: ignore[attr-defined]
    del backend.table.arenas[Arena(128)]  # type: ignore[attr-defined]
    gc.collect()
    assert old() is None  # no trace keeps it
    before = traces_in(schedulers).forwards
    assert write_all(engine, [random_ids(9)], 20) == [generate(PATH, random_ids(9), 20)]
    assert traces_in(schedulers).forwards > before


def test_a_longer_view_is_compared_too(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python may choose by a size that the first batches do not reach."""
    script_of = traces.script_of

    def tracing(function: Any, example: Any) -> Any:
        traced = script_of(function, example)

        def run(tokens: Tensor, bounds: Tensor, *others: Tensor) -> Tensor:
            logits = traced(tokens, bounds, *others)
            return logits.roll(1, -1) if bounds[0, open_sizes.VIEW] > 64 else logits

        return run

    monkeypatch.setattr(traces, "script_of", tracing)
    ids = random_ids(20)
    assert write_all(fresh(PATH), [ids], 70) == [generate(PATH, ids, 70)]
    assert traces_in(schedulers).why_not is not None


def test_while_a_model_loads_nothing_is_traced(fresh: Make, schedulers: list[Scheduler]) -> None:
    engine = fresh(PATH)
    write_all(engine, [random_ids(20)], 1)
    with LOADING:
        assert write_all(engine, [random_ids(9)], 12) == [generate(PATH, random_ids(9), 12)]
        assert not traces_in(schedulers).made
    write_all(engine, [random_ids(7)], 3)
    assert traces_in(schedulers).made


def test_models_at_work_at_the_same_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(cores, "ALL", 6)
    model = AutoModelForCausalLM.from_pretrained(PATH)
    monkeypatch.setattr(cores, "WIDE", model.num_parameters() * 4)
    found, there, go = [], threading.Barrier(2), threading.Event()

    def other() -> None:
        with Cores(model, None):
            there.wait()
            go.wait()

    try:
        mine = Cores(model, None)
        beside = threading.Thread(target=other)
        beside.start()
        there.wait()
        with mine:
            for rows in (1, 4):
                mine.use(rows)
                found.append(torch.get_num_threads())
            go.set()
            beside.join()
            mine.use(4)
            found.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert found == [1, 3, 6]


def test_slots_that_lie_apart_are_traced_too_and_no_idle_row_reads_several_tokens(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "STALE", 10**9)  # they are not brought together
    seen: list[tuple[bool, int, bool]] = []
    lay_out = traces.lanes_of

    def noting(batch: Any, table: Any) -> Any:
        lanes = lay_out(batch, table)
        apart = not all(span.in_place for span in lanes.spans)
        seen.append((apart, lanes.width, len(lanes.ids) > len(batch.rows)))
        return lanes

    monkeypatch.setattr(traces, "lanes_of", noting)
    engine = fresh(PATH)
    asked = [random_ids(20, seed=n) for n in range(6)]
    for again in range(2):
        new = [40, 2, 2, 2, 2, 40]
        tickets = [engine.submit(Write(ids, n)) for ids, n in zip(asked, new, strict=True)]
        found = [ticket.result().ids for ticket in tickets]
        assert found == [generate(PATH, ids, n) for ids, n in zip(asked, new, strict=True)]
        asked = [ids + random_ids(3 + again) for ids in asked]
    assert any(apart for apart, _, _ in seen)
    assert not any(idle for _, width, idle in seen if width > 1)
    assert traces_in(schedulers).why_not is None


def test_a_model_that_runs_by_traces_takes_no_turns(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Counter[str]()
    turn = worker.TURNS.turn
    monkeypatch.setattr(worker.TURNS, "turn", lambda rows: (turns.update(["taken"]), turn(rows))[1])
    engine = fresh(PATH)
    write_all(engine, [random_ids(20)], 12)
    assert traces_in(schedulers).made
    before = turns["taken"]
    assert before  # until there was a trace
    write_all(engine, [random_ids(9)], 12)
    assert turns["taken"] == before
