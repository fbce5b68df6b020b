"""Greedy answers of the engine are those of `transformers` alone."""

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
LONGEST_STEP = 5


def write_in_steps(engine: Engine, ids: list[int], new: int = NEW) -> list[list[int]]:
    """An answer in steps, each a request of its own on all the ids so far."""
    steps: list[list[int]] = []
    while (written := sum(map(len, steps))) < new:
        so_far = [*ids, *(i for step in steps for i in step)]
        limit = min(LONGEST_STEP, new - written)
        answer = engine.submit(
            GenerateRequest(so_far, max_tokens=limit, separators=(" ",))
        ).result()
        steps.append(answer.ids)
        if answer.finish == "end":
            break
    return steps


def joined(steps: list[list[int]]) -> list[int]:
    return [i for step in steps for i in step]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_one_at_a_time_and_eight_at_once_equal_generate(
    kind: str, fresh: Callable[..., Engine]
) -> None:
    path = make(kind)
    prompts = [prompt(q) for q in QUESTIONS]
    want = [generate(path, ids, NEW) for ids in prompts]
    engine = fresh(path)

    alone = [write_in_steps(engine, ids) for ids in prompts[:3]]
    assert list(map(joined, alone)) == want[:3]
    assert max(map(len, alone)) >= 5

    engine = fresh(path, max_slots=63)  # another one, which has nothing in its cache yet
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda ids: write_in_steps(engine, ids), prompts))
    assert list(map(joined, together)) == want
    assert engine.backend == ("plain" if kind in PLAIN_KINDS else "slot")


FAST = ("gpt_oss", "gemma4_text", "gpt_neox", "cohere", "glm4_moe", "phi", "exaone4")


@pytest.mark.parametrize(
    "kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in MORE_KINDS]
)
def test_further_architectures_equal_generate_alone_and_eight_at_once(
    kind: str, fresh: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = make(kind, seed=int(kind == "gemma2"), endless=True), 32
    prompts = [prompt(q) for q in QUESTIONS]
    want = [generate(path, ids, new) for ids in prompts]
    engine = fresh(path)
    assert engine.submit(GenerateRequest(prompts[0], new)).result().ids == want[0]
    assert engine.backend == "slot"
    forward, forwards = ModelRunner.forward, []

    def counted(self: ModelRunner, batch: Any) -> Any:
        forwards.append(batch)
        return forward(self, batch)

    monkeypatch.setattr(ModelRunner, "forward", counted)
    handles = [engine.submit(GenerateRequest(ids, new)) for ids in prompts]
    assert [h.result().ids for h in handles] == want
    assert len(forwards) <= 1.1 * new + 2  # of one token of each, and prompts
    assert len(set(want[0])) >= 20  # the texts do not repeat themselves


@pytest.mark.parametrize("kind", ["llama", "mistral", "mamba"])
def test_another_step_from_the_same_prefix_equals_generate(
    kind: str, fresh: Callable[..., Engine]
) -> None:
    """Write, go back, read a foreign step instead, write on: what an escalation does."""
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
    """Teacher-forced: log-probabilities, since greedy texts part at ties."""
    from transformers import AutoModelForCausalLM

    path = make("llama")
    written = (
        fresh(path, dtype="bfloat16").submit(GenerateRequest(prompt(QUESTIONS[0]), 20)).result()
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    ids = prompt(QUESTIONS[0]) + written.ids
    with torch.no_grad():
        spread = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    start = len(ids) - len(written.ids)
    want = [spread[start - 1 + k, token].item() for k, token in enumerate(written.ids)]
    assert written.logprobs == pytest.approx(want, abs=0.3)


def test_a_model_that_keeps_a_number_of_logits_only_has_slots_in_half_precision(
    fresh: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As code that comes with a checkpoint may."""
    own = LlamaForCausalLM.forward

    def forward(self: Any, logits_to_keep: int = 0, **kwargs: Any) -> Any:
        assert isinstance(logits_to_keep, int)
        return own(self, logits_to_keep=logits_to_keep, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    engine = fresh(make("llama", seed=3), dtype="bfloat16", engine="eager")
    assert len(engine.submit(GenerateRequest(prompt(QUESTIONS[0]), 5)).result().ids) == 5
    assert engine.backend == "slot"


def test_in_half_precision_no_output_head_is_copied(
    fresh: Callable[..., Engine], schedulers: list[Scheduler]
) -> None:
    """For hidden states that are a slice of more, torch's product copies all of the weights."""
    engine = fresh(make("llama"), dtype="bfloat16", engine="eager")
    first = engine.submit(GenerateRequest(prompt(QUESTIONS[0]), 5)).result()
    seen = []

    def look(_: object, given: tuple[Any, ...]) -> None:
        (hidden,) = given
        seen.append(hidden.stride() == hidden.clone(memory_format=torch.contiguous_format).stride())

    schedulers[-1].runner.model.lm_head.register_forward_pre_hook(look)  # type: ignore[attr-defined]
    engine.submit(
        GenerateRequest([*prompt(QUESTIONS[0]), *first.ids, *prompt(QUESTIONS[1])], 5)
    ).result()
    assert len(seen) == 5
    assert all(seen)
