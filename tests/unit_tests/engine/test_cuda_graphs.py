"""CUDA graphs of decoding, on a CPU: a tape of operations stands for the GPU's graph (`tape`)."""

import inspect
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor
from transformers import LlamaForCausalLM

from langgraph_arbitrage.engine import (
    Engine,
    GenerateRequest,
    SamplingParams,
    ScoreRequest,
    cuda_graphs,
)
from langgraph_arbitrage.engine.cuda_graphs import (
    CAPTURES,
    CaptureCheck,
    CudaGraphs,
    Graph,
    Shape,
)
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.transfer import packed, unpacked
from langgraph_arbitrage.errors import EngineError
from tape import no_capture, taped, tensors
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
WARNING = "decodes without CUDA graphs"


@pytest.fixture(autouse=True)
def graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: taped)
    monkeypatch.setattr(cuda_graphs, "SEEN_BEFORE_CAPTURE", 6)  # more than the check at load runs


@pytest.fixture
def graphed(fresh: Make) -> Make:
    """Engines that decode by graphs."""
    return lambda path, **settings: fresh(path, **{"cuda_graphs": True, **settings})


def graphs_of(schedulers: list[Scheduler]) -> CudaGraphs:
    return schedulers[-1].runner.cuda_graphs  # type: ignore[attr-defined, no-any-return]


def prompts(n: int) -> list[list[int]]:
    return [random_ids(8 + 3 * k, seed=k) for k in range(n)]


def write_all(engine: Engine, asked: list[list[int]], new: int) -> list[list[int]]:
    return [h.result().ids for h in [engine.submit(GenerateRequest(ids, new)) for ids in asked]]


KINDS = ["llama", "qwen2", "qwen2-sliding", "qwen3_moe", "gpt2", "mistral", "gemma3_text"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_writes_what_transformers_writes_alone_and_many_at_once(
    kind: str, graphed: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    path = make(kind, endless=True)
    engine = graphed(path)
    assert write_all(engine, [random_ids(20)], 30) == [generate(path, random_ids(20), 30)]
    alone = graphs_of(schedulers).replays
    assert alone > 20
    assert write_all(engine, prompts(6), 30) == [generate(path, p, 30) for p in prompts(6)]
    assert graphs_of(schedulers).replays > alone + 20
    assert WARNING not in caplog.text


def test_sequences_that_join_and_leave_and_a_cache_that_grows_change_no_answer(
    graphed: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "SEEN_BEFORE_CAPTURE", 0)
    monkeypatch.setattr("langgraph_arbitrage.engine.kv_cache.FIRST_LENGTH", 32)
    engine = graphed(PATH, max_slots=20)
    asked = prompts(14) + prompts(3)
    lengths = [10 + 13 * (n % 4) for n in range(len(asked))]
    requests = [GenerateRequest(p, new) for p, new in zip(asked, lengths, strict=True)]
    first = [engine.submit(r) for r in requests[:5]]
    first[0].result()  # the others arrive while these run
    handles = first + [engine.submit(r) for r in requests[5:]]
    found = [h.result().ids for h in handles]
    assert found == [generate(PATH, p, n) for p, n in zip(asked, lengths, strict=True)]
    shapes = list(graphs_of(schedulers).graphs)
    assert len({shape.rows for shape in shapes}) > 1
    assert len({shape.view for shape in shapes}) > 1


def test_a_graph_whose_cache_has_moved_is_captured_again(
    graphed: Make, schedulers: list[Scheduler]
) -> None:
    engine = graphed(PATH)
    write_all(engine, [random_ids(20)], 20)
    (before,) = graphs_of(schedulers).graphs.values()
    schedulers[-1].runner.cache.reserve(900)
    asked = random_ids(9, seed=3)
    assert write_all(engine, [asked], 20) == [generate(PATH, asked, 20)]
    (after,) = graphs_of(schedulers).graphs.values()
    assert before.shape == after.shape
    assert after is not before


def test_padding_leaves_what_idle_slots_hold_unchanged(
    graphed: Make, schedulers: list[Scheduler]
) -> None:
    engine, asked = graphed(PATH), prompts(4)
    before = write_all(engine, asked, 12)
    three = [asked[n] + before[n] for n in (0, 1, 2)]  # padded to four
    replays = graphs_of(schedulers).replays
    assert write_all(engine, three, 20) == [generate(PATH, p, 20) for p in three]
    assert graphs_of(schedulers).replays > replays
    held = asked[3] + before[3]
    written = engine.submit(GenerateRequest(held, 20)).result()
    assert written.cached_tokens >= len(held) - 1
    assert written.ids == generate(PATH, held, 20)


def test_the_graphs_used_last_are_kept(
    graphed: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    engine = graphed(PATH)
    assert write_all(engine, prompts(1), 150) == [generate(PATH, prompts(1)[0], 150)]
    assert [shape.view for shape in graphs_of(schedulers).graphs] == [128, 192]


def test_a_seed_gives_the_same_answer_by_graphs_and_eagerly(fresh: Make, graphed: Make) -> None:
    def written(engine: Engine) -> list[Any]:
        asked = [
            GenerateRequest(
                p, 20, sampling=SamplingParams(k % 2 * 0.9, top_p=0.9, top_k=30, seed=k)
            )
            for k, p in enumerate(prompts(5))
        ]
        return [h.result() for h in [engine.submit(a) for a in asked]]

    found, wanted = written(graphed(PATH)), written(fresh(PATH))
    assert [f.ids for f in found] == [w.ids for w in wanted]
    for f, w in zip(found, wanted, strict=True):
        assert f.logprobs == pytest.approx(w.logprobs, abs=1e-4)


def test_prompts_drafts_and_scores_run_eagerly(graphed: Make, schedulers: list[Scheduler]) -> None:
    engine, ids = graphed(PATH), random_ids(30)
    own = generate(PATH, ids, 8)
    for n in range(4):
        engine.submit(GenerateRequest(random_ids(30, seed=n), 1)).result()
        engine.submit(ScoreRequest([*ids, *own], start=30)).result()
        verified = engine.submit(GenerateRequest(ids, 8, draft_tokens=own)).result()
        assert verified.accepted_draft_tokens == 8
    assert not graphs_of(schedulers).graphs


# --- failures ----------------------------------------------------------------------------


def constant(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Repeats the output of the capture, whatever the input."""
    output = work()
    return lambda: output


def test_a_replay_that_differs_is_found_and_changes_no_answer(
    graphed: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: constant)
    engine = graphed(PATH)
    assert write_all(engine, prompts(4), 16) == [generate(PATH, p, 16) for p in prompts(4)]
    assert graphs_of(schedulers).disabled
    assert not graphs_of(schedulers).graphs
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "standard deviations" in told
    assert "cuda_graphs=False" in told


def test_not_a_number_does_not_agree(
    graphed: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: lambda work: lambda: work() * torch.nan)
    engine = graphed(PATH)
    assert write_all(engine, prompts(1), 16) == [generate(PATH, prompts(1)[0], 16)]
    assert "standard deviations" in (graphs_of(schedulers).disabled or "")


def test_a_device_that_cannot_capture_decodes_eagerly_after_one_warning(
    graphed: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", no_capture)
    engine = graphed(PATH)
    assert write_all(engine, prompts(4), 30) == [generate(PATH, p, 30) for p in prompts(4)]
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "RuntimeError: CUDA error: operation not permitted when stream is capturing. " in told


def test_an_error_of_the_model_itself_still_fails_the_request(
    graphed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = graphed(PATH)
    write_all(engine, [[7]], 1)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("of its own")

    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "forward", failing)
        with pytest.raises(EngineError, match="of its own"):
            write_all(engine, [[8]], 3)


ROPE = {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0}
EAGER: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamic rope": (make("llama", endless=True, rope_parameters=ROPE), {}, "waits for a value"),
    "experts chosen by the host": (
        make("qwen3_moe", endless=True),
        {"model_kwargs": {"experts_implementation": "eager"}},
        r"waits for a value of the device \(nonzero\)",
    ),
}


@pytest.mark.parametrize("what", EAGER)
def test_what_no_graph_can_repeat_runs_eagerly_with_the_reason(
    what: str, graphed: Make, caplog: pytest.LogCaptureFixture
) -> None:
    path, settings, reason = EAGER[what]
    engine, ids = graphed(path, **settings), random_ids(9)
    assert write_all(engine, [ids], 10) == [generate(path, ids, 10)]
    assert engine.backend == "slot"
    (told,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert re.search(reason, told)


def test_weights_that_accelerate_moves_run_eagerly(
    graphed: Make, schedulers: list[Scheduler]
) -> None:
    engine = graphed(PATH, model_kwargs={"device_map": {"": "cpu"}})
    write_all(engine, [[7]], 1)
    assert graphs_of(schedulers) is not None  # all on one device: nothing is moved
    model = schedulers[-1].runner.model  # type: ignore[attr-defined]
    why = cuda_graphs._why_not
    assert why(model) is None
    model.hf_device_map = {"model": 0, "lm_head": 1}
    assert "several devices" in (why(model) or "")
    model.hf_device_map = {"": 0}
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert "accelerate" in (why(model) or "")


def test_they_are_off_by_default_and_a_cpu_has_none(
    fresh: Make,
    graphed: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_all(fresh(PATH), [[7]], 20)
    assert graphs_of(schedulers) is None
    monkeypatch.delitem(CAPTURES, "cpu")
    write_all(graphed(PATH), [[7]], 20)
    assert graphs_of(schedulers) is None
    assert "decodes without CUDA graphs: it is on cpu" in caplog.text


SEEN: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "a value": (lambda t: bool(t.sum() > 2), True),
    "a value as a number": (lambda t: t[0].item(), True),
    "a mask as an index": (lambda t: t[t > 0], True),
    "assignment by a mask": (lambda t: t.clone().__setitem__(t > 0, t.clone()[:2]), True),
    "a slice": (lambda t: t[:1] * 2 + 1, False),
    "a tensor as an index": (lambda t: t[t.long() * 0], False),
    "where": (lambda t: torch.where(t > 0, t, -t).clone(), False),
    "a range": (lambda t: torch.arange(2, device=t.device) + t, False),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_a_graph_cannot_repeat_is_detected(what: str) -> None:
    work, refused = SEEN[what]
    given = torch.ones(2)
    with torch.inference_mode(), CaptureCheck(given.device):
        if refused:
            with pytest.raises(RuntimeError, match="its forward"):
                work(given)
        else:
            work(given)


# --- pieces ------------------------------------------------------------------------------


def test_a_shape_holds_its_rows_and_tokens_with_little_to_spare() -> None:
    rng = random.Random(0)
    seen: set[Shape] = set()
    for _ in range(3000):
        rows, length = rng.randint(1, 64), rng.choice([512, 2048, 8192, 1025])
        tokens = rng.randint(1, length)
        shape = Shape.of(rows, tokens, length)
        seen.add(shape)
        assert rows <= shape.rows < 2 * rows or rows == shape.rows == 1
        assert tokens <= shape.view <= length
        assert shape.view - tokens < max(64, tokens / 2)
    assert len({s.view for s in seen}) < 24  # few enough to capture


def test_padding_rows_write_where_nothing_is_valid() -> None:
    graph = Graph(Shape(4, 64), torch.device("cpu"), spare=511)
    assert graph.inputs[2].tolist() == [511] * 4


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
