"""Draft tokens are accepted up to the first wrong one, and never change the output."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from langgraph_arbitrage.engine import Engine, GenerateRequest, SamplingParams
from langgraph_arbitrage.engine.sequence import FIRST_CHUNK
from tiny import loaded, make, random_ids

LAYERS = 3
Make = Callable[..., Engine]


@pytest.mark.parametrize(
    ("kind", "wrong_at"),
    [
        *(("llama", at) for at in (0, 1, 7, 11, None)),
        *((kind, at) for kind in ("qwen2-sliding", "gpt2", "mamba") for at in (7, None)),
    ],
)
def test_the_output_is_the_same_with_and_without_draft_tokens(
    kind: str, wrong_at: int | None, engine: Make
) -> None:
    model, ids = engine(make(kind, endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=20)).result()
    drafted = alone.ids[:12]
    if wrong_at is not None:
        drafted[wrong_at] = (drafted[wrong_at] + 1) % 50 + 3
    other = random_ids(9, seed=5)  # takes the slot, so that not the whole prompt is cached
    model.submit(GenerateRequest([*other, *ids], max_tokens=1)).result()
    found = model.submit(GenerateRequest(ids, max_tokens=20, draft_tokens=drafted)).result()
    assert found.ids == alone.ids
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.finish == alone.finish
    accepted = 0 if model.backend == "plain" else 12 if wrong_at is None else wrong_at
    assert (found.accepted_draft_tokens, alone.accepted_draft_tokens) == (accepted, 0)


def test_sequences_with_and_without_draft_tokens_run_together(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    prompts = [random_ids(10 + 7 * i, seed=i) for i in range(6)]
    alone = [model.submit(GenerateRequest(p, max_tokens=15)).result().ids for p in prompts]
    handles = [
        model.submit(GenerateRequest(p, max_tokens=15, draft_tokens=ids[: 3 * i] + [7] * (i % 2)))
        for i, (p, ids) in enumerate(zip(prompts, alone, strict=True))
    ]
    assert [h.result().ids for h in handles] == alone


def test_a_fully_accepted_step_costs_one_forward(fresh: Make, fed: Counter[int]) -> None:
    model, ids = fresh(make("llama", endless=True)), random_ids(30)
    drafted = model.submit(GenerateRequest(ids, max_tokens=12)).result().ids
    streamed: list[int] = []
    request = GenerateRequest(ids, max_tokens=12, draft_tokens=drafted)
    model.submit(request, streamed.append).result()
    assert streamed == drafted
    fed.clear()
    again = model.submit(request).result()
    # The prompt's last token, and all draft tokens except the last one.
    assert fed[LAYERS] == again.computed_tokens == 12
    next_step = model.submit(GenerateRequest([*ids, *drafted, 9], max_tokens=1)).result()
    assert next_step.computed_tokens == 2  # the accepted draft tokens are cached


def test_draft_tokens_beyond_max_tokens_are_cut_off(engine: Make) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=12)).result().ids
    found = model.submit(GenerateRequest(ids, max_tokens=5, draft_tokens=alone)).result()
    assert (found.ids, found.finish) == (alone[:5], "length")


@pytest.mark.parametrize(
    ("temperature", "wrong_at"),
    [(0.0, at) for at in (0, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, 130, None)]
    + [(1.0, 130)],
)
def test_a_rejection_in_a_long_draft_wastes_few_tokens(
    temperature: float, wrong_at: int | None, engine: Make
) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    request = GenerateRequest(ids, max_tokens=180, sampling=SamplingParams(temperature, seed=5))
    alone = model.submit(request).result()
    drafted = list(alone.ids)
    accepted = 180 if wrong_at is None else wrong_at
    drafted[accepted : accepted + 1] = [3] * (accepted < 180)  # a token that is never generated
    found = model.submit(replace(request, draft_tokens=drafted)).result()
    assert (found.ids, found.accepted_draft_tokens) == (alone.ids, accepted)
    assert found.finish == "length"
    assert found.computed_tokens <= 30 + 180 + max(FIRST_CHUNK, accepted)
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


SAMPLED = [
    SamplingParams(temperature=0.7, seed=3),
    SamplingParams(temperature=1.0, top_p=0.9, seed=4),
    SamplingParams(temperature=2.0, top_k=7, seed=5),
]


@pytest.mark.parametrize("sampling", SAMPLED)
@pytest.mark.parametrize(
    ("kind", "wrong_at"), [*(("llama", at) for at in (0, 1, 7, None)), ("qwen2-sliding", 7)]
)
def test_sampled_output_is_the_same_with_and_without_draft_tokens(
    kind: str, sampling: SamplingParams, wrong_at: int | None, engine: Make
) -> None:
    """Each position consumes the same random number with and without draft tokens."""
    model, ids = engine(make(kind, endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=20, sampling=sampling)).result()
    drafted = alone.ids[:12]
    if wrong_at is not None:
        drafted[wrong_at] = (drafted[wrong_at] + 1) % 50 + 3
    request = GenerateRequest(ids, max_tokens=20, sampling=sampling, draft_tokens=drafted)
    found = model.submit(request).result()
    assert found.ids == alone.ids
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.accepted_draft_tokens == (12 if wrong_at is None else wrong_at)


def test_verified_steps_follow_the_models_distribution_for_any_draft(engine: Make) -> None:
    """Pearson's chi-square test over pairs of tokens, for two drafts. Fails for p < 1e-4."""
    path, ids, n = make("llama", endless=True), random_ids(20), 600
    sampling = {"temperature": 6.0, "top_k": 4}
    pairs = _pairs(path, ids, **sampling)
    likely, unlikely = max(pairs, key=pairs.__getitem__), min(pairs, key=pairs.__getitem__)
    limit = torch.distributions.Gamma((len(pairs) - 1) / 2, 0.5).sample((200_000,)).quantile(0.9999)
    for drafted in (likely, unlikely):
        handles = [
            engine(path).submit(
                GenerateRequest(
                    ids, 2, sampling=SamplingParams(seed=seed, **sampling), draft_tokens=drafted
                )
            )
            for seed in range(n)
        ]
        outputs = [h.result() for h in handles]
        drawn = Counter(tuple(o.ids) for o in outputs)
        assert sum(o.accepted_draft_tokens for o in outputs) > n / 10
        assert set(drawn) <= set(pairs)
        assert sum((drawn[p] - n * e) ** 2 / (n * e) for p, e in pairs.items()) < limit


def _pairs(path: str, ids: list[int], *, temperature: float, top_k: int) -> dict[Any, float]:
    """Probability of each pair of tokens after `ids`, by a plain forward of the model."""

    def likely(prefix: list[int]) -> list[tuple[int, float]]:
        with torch.no_grad():
            logits = loaded(path)(torch.tensor([prefix])).logits[0, -1] / temperature
        best = logits.topk(top_k)
        return list(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))

    return {(a, b): p * q for a, p in likely(ids) for b, q in likely([*ids, a])}
