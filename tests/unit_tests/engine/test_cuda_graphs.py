"""CUDA graphs on a CPU: a tape of recorded operations replaces the GPU's graph (see `tape`)."""

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
from langgraph_arbitrage.engine.transfer import join, split
from langgraph_arbitrage.errors import EngineError
from tape import no_capture, taped, tensors
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
WARNING = "decodes without CUDA graphs"


@pytest.fixture(autouse=True)
def graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: taped)
    # More runs than the check at load needs.
    monkeypatch.setattr(cuda_graphs, "EAGER_RUNS_BEFORE_CAPTURE", 6)


@pytest.fixture
def graphed(fresh: Make) -> Make:
    """Create engines that decode with graphs."""
    return lambda path, **settings: fresh(path, **{"cuda_graphs": True, **settings})


def graphs_of(schedulers: list[Scheduler]) -> CudaGraphs:
    return schedulers[-1].runner.cuda_graphs  # type: ignore[attr-defined, no-any-return]


def prompts(n: int) -> list[list[int]]:
    return [random_ids(8 + 3 * k, seed=k) for k in range(n)]


def generate_all(engine: Engine, inputs: list[list[int]], new: int) -> list[list[int]]:
    return [h.result().ids for h in [engine.submit(GenerateRequest(ids, new)) for ids in inputs]]


FAST = ["llama", "qwen2-sliding", "gpt2"]
SLOW = ["qwen2", "qwen3_moe", "mistral", "gemma3_text"]


@pytest.mark.parametrize("kind", [*FAST, *(pytest.param(k, marks=pytest.mark.slow) for k in SLOW)])
def test_replays_generate_the_same_as_transformers_alone_and_in_batches(
    kind: str, graphed: Make, schedulers: list[Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    path = make(kind, endless=True)
    engine = graphed(path)
    assert generate_all(engine, [random_ids(20)], 30) == [generate(path, random_ids(20), 30)]
    alone = graphs_of(schedulers).replays
    assert alone > 20
    assert generate_all(engine, prompts(6), 30) == [generate(path, p, 30) for p in prompts(6)]
    assert graphs_of(schedulers).replays > alone + 20
    assert WARNING not in caplog.text


def test_outputs_are_the_same_when_sequences_join_and_leave_and_the_cache_grows(
    graphed: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "EAGER_RUNS_BEFORE_CAPTURE", 0)
    monkeypatch.setattr("langgraph_arbitrage.engine.kv_cache.FIRST_LENGTH", 32)
    engine = graphed(PATH, max_slots=20)
    inputs = prompts(14) + prompts(3)
    lengths = [10 + 13 * (n % 4) for n in range(len(inputs))]
    requests = [GenerateRequest(p, new) for p, new in zip(inputs, lengths, strict=True)]
    first = [engine.submit(r) for r in requests[:5]]
    first[0].result()  # the others arrive while these run
    handles = first + [engine.submit(r) for r in requests[5:]]
    found = [h.result().ids for h in handles]
    assert found == [generate(PATH, p, n) for p, n in zip(inputs, lengths, strict=True)]
    shapes = list(graphs_of(schedulers).graphs)
    assert len({shape.rows for shape in shapes}) > 1
    assert len({shape.view for shape in shapes}) > 1


def test_a_graph_is_captured_again_after_the_cache_has_moved(
    graphed: Make, schedulers: list[Scheduler]
) -> None:
    engine = graphed(PATH)
    generate_all(engine, [random_ids(20)], 20)
    (before,) = graphs_of(schedulers).graphs.values()
    schedulers[-1].runner.cache.reserve(900)
    ids = random_ids(9, seed=3)
    assert generate_all(engine, [ids], 20) == [generate(PATH, ids, 20)]
    (after,) = graphs_of(schedulers).graphs.values()
    assert before.shape == after.shape
    assert after is not before


def test_padding_does_not_change_idle_slots(graphed: Make, schedulers: list[Scheduler]) -> None:
    engine, inputs = graphed(PATH), prompts(4)
    before = generate_all(engine, inputs, 12)
    three = [inputs[n] + before[n] for n in (0, 1, 2)]  # padded to four
    replays = graphs_of(schedulers).replays
    assert generate_all(engine, three, 20) == [generate(PATH, p, 20) for p in three]
    assert graphs_of(schedulers).replays > replays
    cached = inputs[3] + before[3]
    output = engine.submit(GenerateRequest(cached, 20)).result()
    assert output.cached_tokens >= len(cached) - 1
    assert output.ids == generate(PATH, cached, 20)


def test_the_least_recently_used_graph_is_dropped(
    graphed: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    engine = graphed(PATH)
    assert generate_all(engine, prompts(1), 150) == [generate(PATH, prompts(1)[0], 150)]
    assert [shape.view for shape in graphs_of(schedulers).graphs] == [128, 192]


def test_a_seed_gives_the_same_output_with_graphs_and_eagerly(fresh: Make, graphed: Make) -> None:
    def outputs(engine: Engine) -> list[Any]:
        requests = [
            GenerateRequest(
                p, 20, sampling=SamplingParams(k % 2 * 0.9, top_p=0.9, top_k=30, seed=k)
            )
            for k, p in enumerate(prompts(5))
        ]
        return [h.result() for h in [engine.submit(r) for r in requests]]

    with_graphs, eager = outputs(graphed(PATH)), outputs(fresh(PATH))
    assert [o.ids for o in with_graphs] == [o.ids for o in eager]
    for a, b in zip(with_graphs, eager, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


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
    """Return the output of the capture again, whatever the input."""
    output = work()
    return lambda: output


def test_a_wrong_replay_is_detected_and_does_not_change_the_output(
    graphed: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: constant)
    engine = graphed(PATH)
    assert generate_all(engine, prompts(4), 16) == [generate(PATH, p, 16) for p in prompts(4)]
    assert graphs_of(schedulers).disabled
    assert not graphs_of(schedulers).graphs
    (warning,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "standard deviations" in warning
    assert "cuda_graphs=False" in warning


def test_a_replay_with_nan_is_detected(
    graphed: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", lambda device: lambda work: lambda: work() * torch.nan)
    engine = graphed(PATH)
    assert generate_all(engine, prompts(1), 16) == [generate(PATH, prompts(1)[0], 16)]
    assert "standard deviations" in (graphs_of(schedulers).disabled or "")


def test_a_failed_capture_warns_once_and_decodes_eagerly(
    graphed: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", no_capture)
    engine = graphed(PATH)
    assert generate_all(engine, prompts(4), 30) == [generate(PATH, p, 30) for p in prompts(4)]
    (warning,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert "RuntimeError: CUDA error: operation not permitted when stream is capturing. " in warning


def test_an_error_of_the_model_fails_the_request(
    graphed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = graphed(PATH)
    generate_all(engine, [[7]], 1)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("model error")

    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "forward", failing)
        with pytest.raises(EngineError, match="model error"):
            generate_all(engine, [[8]], 3)


EAGER: dict[str, tuple[str, dict[str, Any], str]] = {
    "experts selected on the host": (
        make("qwen3_moe", endless=True),
        {"model_kwargs": {"experts_implementation": "eager"}},
        r"waits for a value from the device \(operation nonzero\)",
    ),
}


@pytest.mark.parametrize("case", EAGER)
def test_a_model_that_cannot_be_captured_runs_eagerly_and_the_warning_says_why(
    case: str, graphed: Make, caplog: pytest.LogCaptureFixture
) -> None:
    path, settings, reason = EAGER[case]
    engine, ids = graphed(path, **settings), random_ids(9)
    assert generate_all(engine, [ids], 10) == [generate(path, ids, 10)]
    assert engine.backend == "slot"
    (warning,) = [r.getMessage() for r in caplog.records if WARNING in r.getMessage()]
    assert re.search(reason, warning)


def test_models_whose_weights_accelerate_moves_are_not_captured(
    graphed: Make, schedulers: list[Scheduler]
) -> None:
    engine = graphed(PATH, model_kwargs={"device_map": {"": "cpu"}})
    generate_all(engine, [[7]], 1)
    assert graphs_of(schedulers) is not None  # with one device, nothing is moved
    model = schedulers[-1].runner.model  # type: ignore[attr-defined]
    problem = cuda_graphs._capture_problem
    assert problem(model) is None
    model.hf_device_map = {"model": 0, "lm_head": 1}
    assert "several devices" in (problem(model) or "")
    model.hf_device_map = {"": 0}
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert "accelerate" in (problem(model) or "")


def test_graphs_are_off_by_default_and_not_available_on_a_cpu(
    fresh: Make,
    graphed: Make,
    schedulers: list[Scheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    generate_all(fresh(PATH), [[7]], 20)
    assert graphs_of(schedulers) is None
    monkeypatch.delitem(CAPTURES, "cpu")
    generate_all(graphed(PATH), [[7]], 20)
    assert graphs_of(schedulers) is None
    assert "decodes without CUDA graphs: it is on cpu" in caplog.text


OPERATIONS: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "a value": (lambda t: bool(t.sum() > 2), True),
    "a value as a number": (lambda t: t[0].item(), True),
    "a mask as an index": (lambda t: t[t > 0], True),
    "assignment by a mask": (lambda t: t.clone().__setitem__(t > 0, t.clone()[:2]), True),
    "a slice": (lambda t: t[:1] * 2 + 1, False),
    "a tensor as an index": (lambda t: t[t.long() * 0], False),
    "where": (lambda t: torch.where(t > 0, t, -t).clone(), False),
    "a range": (lambda t: torch.arange(2, device=t.device) + t, False),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_that_a_graph_cannot_replay_are_detected(operation: str) -> None:
    work, is_rejected = OPERATIONS[operation]
    tensor = torch.ones(2)
    with torch.inference_mode(), CaptureCheck(tensor.device):
        if is_rejected:
            with pytest.raises(RuntimeError, match="its forward"):
                work(tensor)
        else:
            work(tensor)


# --- units -------------------------------------------------------------------------------


def test_a_shape_fits_its_rows_and_tokens_with_little_padding() -> None:
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
    assert len({s.view for s in seen}) < 24  # few enough to capture all of them


def test_padding_rows_write_to_the_spare_position() -> None:
    graph = Graph(Shape(4, 64), torch.device("cpu"), padding_position=511)
    assert graph.inputs[2].tolist() == [511] * 4


def test_torch_has_the_interface_that_a_capture_uses() -> None:
    parameters = inspect.signature(torch.cuda.graph.__init__).parameters
    assert {"pool", "stream", "capture_error_mode"} <= set(parameters)
    assert callable(torch.cuda.graph_pool_handle)


def test_joined_ids_and_logprobs_are_split_without_loss() -> None:
    ids = torch.tensor([0, 151_935, 2**31 - 1])
    logprobs = torch.tensor([-0.1, float("-inf"), -13.25])
    joined = join(ids, logprobs)
    assert joined.dtype == torch.int32
    assert split(joined) == (ids.tolist(), logprobs.tolist())


def test_a_tape_replays_on_the_memory_that_it_was_recorded_with() -> None:
    """The other tests rely on this: a tape becomes stale in the same way as a graph."""
    source, buffer = torch.ones(3), torch.zeros(2, 3)

    def work() -> Tensor:
        buffer[1] = source * 2
        return buffer.sum(0) + source.view(1, 3)

    replay = taped(work)
    output = replay()
    source.fill_(5)
    assert replay() is output
    assert output.tolist() == [[15.0] * 3]
    recorded, buffer = buffer, torch.zeros(2, 3)  # like a cache that has grown
    source.fill_(1)
    replay()
    assert not buffer.any()
    assert recorded[1].tolist() == [2.0] * 3
    assert len(tensors((recorded, {"a": [buffer]}))) == 2
