"""Greedy outputs of the engine equal those of `transformers`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from langgraph_arbitrage.engine import Engine, GenerateRequest
from langgraph_arbitrage.engine.model_runner import ModelRunner
from langgraph_arbitrage.engine.scheduler import Scheduler
from tiny import KINDS, MORE_KINDS, PLAIN_KINDS, QUESTIONS, generate, make, prompt

NEW = 24
MAX_STEP = 5


def generate_steps(engine: Engine, ids: list[int], new: int = NEW) -> list[list[int]]:
    """Generate an answer in steps. Each step is a request with all ids so far."""
    steps: list[list[int]] = []
    while (generated := sum(map(len, steps))) < new:
        prefix = [*ids, *(i for step in steps for i in step)]
        limit = min(MAX_STEP, new - generated)
        output = engine.submit(
            GenerateRequest(prefix, max_tokens=limit, separators=(" ",))
        ).result()
        steps.append(output.ids)
        if output.finish == "end":
            break
    return steps


def joined(steps: list[list[int]]) -> list[int]:
    return [i for step in steps for i in step]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_generate_one_at_a_time_and_eight_at_once(
    kind: str, fresh: Callable[..., Engine]
) -> None:
    path = make(kind)
    prompts = [prompt(q) for q in QUESTIONS]
    expected = [generate(path, ids, NEW) for ids in prompts]
    engine = fresh(path)

    alone = [generate_steps(engine, ids) for ids in prompts[:3]]
    assert list(map(joined, alone)) == expected[:3]
    assert max(map(len, alone)) >= 5

    engine = fresh(path, max_slots=63)  # another engine, with an empty cache
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda ids: generate_steps(engine, ids), prompts))
    assert list(map(joined, together)) == expected
    assert engine.backend == ("plain" if kind in PLAIN_KINDS else "slot")


FAST = ("gpt_oss", "gemma4_text", "gpt_neox", "cohere", "glm4_moe", "phi", "exaone4")


@pytest.mark.parametrize(
    "kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in MORE_KINDS]
)
def test_more_architectures_equal_generate_alone_and_eight_at_once(
    kind: str, fresh: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = make(kind, seed=int(kind == "gemma2"), endless=True), 32
    prompts = [prompt(q) for q in QUESTIONS]
    expected = [generate(path, ids, new) for ids in prompts]
    engine = fresh(path)
    assert engine.submit(GenerateRequest(prompts[0], new)).result().ids == expected[0]
    assert engine.backend == "slot"
    forward, forwards = ModelRunner.forward, []

    def counted(self: ModelRunner, batch: Any) -> Any:
        forwards.append(batch)
        return forward(self, batch)

    monkeypatch.setattr(ModelRunner, "forward", counted)
    handles = [engine.submit(GenerateRequest(ids, new)) for ids in prompts]
    assert [h.result().ids for h in handles] == expected
    assert len(forwards) <= 1.1 * new + 2  # the sequences share forwards
    assert len(set(expected[0])) >= 20  # the outputs are not repetitions


@pytest.mark.parametrize("kind", ["llama", "mistral", "mamba"])
def test_another_step_from_the_same_prefix_equals_generate(
    kind: str, fresh: Callable[..., Engine]
) -> None:
    """Generate, roll back, compute another model's step instead, and continue: an escalation."""
    path, engine = make(kind), fresh(make(kind))
    ids = prompt(QUESTIONS[0])
    own = engine.submit(GenerateRequest(ids, max_tokens=9)).result().ids
    foreign = prompt(QUESTIONS[1])[:7]
    for prefix in (ids + foreign, ids + own[:4] + foreign, ids + own):
        assert engine.submit(GenerateRequest(prefix, max_tokens=12)).result().ids == generate(
            path, prefix, 12
        )


def test_a_model_in_half_precision_agrees_with_a_plain_forward(
    fresh: Callable[..., Engine],
) -> None:
    """Compares log-probabilities of the same tokens, since greedy texts diverge at ties."""
    from transformers import AutoModelForCausalLM

    path = make("llama")
    output = (
        fresh(path, dtype="bfloat16").submit(GenerateRequest(prompt(QUESTIONS[0]), 20)).result()
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    ids = prompt(QUESTIONS[0]) + output.ids
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    start = len(ids) - len(output.ids)
    expected = [logprobs[start - 1 + k, token].item() for k, token in enumerate(output.ids)]
    assert output.logprobs == pytest.approx(expected, abs=0.3)


def test_a_model_whose_logits_to_keep_must_be_an_int_runs_in_batches(
    fresh: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models with remote code may require it."""
    own = LlamaForCausalLM.forward

    def forward(self: Any, logits_to_keep: int = 0, **kwargs: Any) -> Any:
        assert isinstance(logits_to_keep, int)
        return own(self, logits_to_keep=logits_to_keep, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    engine = fresh(make("llama", seed=3), dtype="bfloat16", engine="eager")
    assert len(engine.submit(GenerateRequest(prompt(QUESTIONS[0]), 5)).result().ids) == 5
    assert engine.backend == "slot"


def test_the_output_head_gets_contiguous_hidden_states_in_half_precision(
    fresh: Callable[..., Engine], schedulers: list[Scheduler]
) -> None:
    """If the hidden states are a slice of a tensor, torch copies all weights for the product."""
    engine = fresh(make("llama"), dtype="bfloat16", engine="eager")
    first = engine.submit(GenerateRequest(prompt(QUESTIONS[0]), 5)).result()
    seen = []

    def record(_: object, inputs: tuple[Any, ...]) -> None:
        (hidden,) = inputs
        seen.append(hidden.stride() == hidden.clone(memory_format=torch.contiguous_format).stride())

    schedulers[-1].runner.model.lm_head.register_forward_pre_hook(record)  # type: ignore[attr-defined]
    engine.submit(
        GenerateRequest([*prompt(QUESTIONS[0]), *first.ids, *prompt(QUESTIONS[1])], 5)
    ).result()
    assert len(seen) == 5
    assert all(seen)
