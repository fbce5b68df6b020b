"""A draft step is accepted as far as the model would have written it, and changes no token."""

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
def test_the_answer_is_what_the_model_writes_alone(
    kind: str, wrong_at: int | None, engine: Make
) -> None:
    model, ids = engine(make(kind, endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=20)).result()
    drafted = alone.ids[:12]
    if wrong_at is not None:
        drafted[wrong_at] = (drafted[wrong_at] + 1) % 50 + 3
    other = random_ids(9, seed=5)  # so that the prompt is not cached whole
    model.submit(GenerateRequest([*other, *ids], max_tokens=1)).result()
    found = model.submit(GenerateRequest(ids, max_tokens=20, draft_tokens=drafted)).result()
    assert found.ids == alone.ids
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.finish == alone.finish
    agreed = 0 if model.backend == "plain" else 12 if wrong_at is None else wrong_at
    assert (found.accepted_draft_tokens, alone.accepted_draft_tokens) == (agreed, 0)


def test_rows_with_and_without_a_drafted_run_together(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    prompts = [random_ids(10 + 7 * i, seed=i) for i in range(6)]
    alone = [model.submit(GenerateRequest(p, max_tokens=15)).result().ids for p in prompts]
    tickets = [
        model.submit(GenerateRequest(p, max_tokens=15, draft_tokens=ids[: 3 * i] + [7] * (i % 2)))
        for i, (p, ids) in enumerate(zip(prompts, alone, strict=True))
    ]
    assert [t.result().ids for t in tickets] == alone


def test_a_step_that_both_would_write_costs_one_forward(fresh: Make, fed: Counter[int]) -> None:
    model, ids = fresh(make("llama", endless=True)), random_ids(30)
    drafted = model.submit(GenerateRequest(ids, max_tokens=12)).result().ids
    calls: list[int] = []
    model.submit(GenerateRequest(ids, max_tokens=12, draft_tokens=drafted), calls.append).result()
    assert calls == drafted
    fed.clear()
    again = model.submit(GenerateRequest(ids, max_tokens=12, draft_tokens=drafted)).result()
    assert (
        fed[LAYERS] == again.computed_tokens == 12
    )  # the prompt's last token, and all but the last proposed
    follow = model.submit(GenerateRequest([*ids, *drafted, 9], max_tokens=1)).result()
    assert follow.computed_tokens == 2  # what was kept is in the cache


def test_a_drafted_beyond_a_limit_is_cut_there(engine: Make) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=12)).result().ids
    found = model.submit(GenerateRequest(ids, max_tokens=5, draft_tokens=alone)).result()
    assert (found.ids, found.finish) == (alone[:5], "length")


@pytest.mark.parametrize(
    ("temperature", "wrong_at"),
    [(0.0, at) for at in (0, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, 130, None)]
    + [(1.0, 130)],
)
def test_of_a_long_drafted_little_is_read_for_nothing(
    temperature: float, wrong_at: int | None, engine: Make
) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    write = GenerateRequest(ids, max_tokens=300, sampling=SamplingParams(temperature, seed=5))
    alone = model.submit(write).result()
    drafted = list(alone.ids)
    kept = 300 if wrong_at is None else wrong_at
    drafted[kept : kept + 1] = [3] * (kept < 300)  # a token that no model writes
    found = model.submit(replace(write, draft_tokens=drafted)).result()
    assert (found.ids, found.accepted_draft_tokens, found.finish) == (alone.ids, kept, "length")
    assert found.computed_tokens <= 30 + 300 + max(FIRST_CHUNK, kept)
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
def test_a_sampled_step_is_drawn_as_if_nothing_were_proposed(
    kind: str, sampling: SamplingParams, wrong_at: int | None, engine: Make
) -> None:
    """Its stream gives each place the number that it gives without a drafted."""
    model, ids = engine(make(kind, endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=20, sampling=sampling)).result()
    drafted = alone.ids[:12]
    if wrong_at is not None:
        drafted[wrong_at] = (drafted[wrong_at] + 1) % 50 + 3
    write = GenerateRequest(ids, max_tokens=20, sampling=sampling, draft_tokens=drafted)
    found = model.submit(write).result()
    assert found.ids == alone.ids
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.accepted_draft_tokens == (12 if wrong_at is None else wrong_at)


def test_verified_steps_follow_the_models_distribution_whatever_is_proposed(engine: Make) -> None:
    """Pearson's chi-square over pairs of tokens, for two drafteds; p below 1e-4 fails."""
    path, ids, n = make("llama", endless=True), random_ids(20), 600
    warm = {"temperature": 6.0, "top_k": 4}
    pairs = _pairs(path, ids, **warm)
    likely, unlikely = max(pairs, key=pairs.__getitem__), min(pairs, key=pairs.__getitem__)
    limit = torch.distributions.Gamma((len(pairs) - 1) / 2, 0.5).sample((200_000,)).quantile(0.9999)
    for drafted in (likely, unlikely):
        tickets = [
            engine(path).submit(
                GenerateRequest(
                    ids, 2, sampling=SamplingParams(seed=seed, **warm), draft_tokens=drafted
                )
            )
            for seed in range(n)
        ]
        answers = [t.result() for t in tickets]
        drawn = Counter(tuple(a.ids) for a in answers)
        assert sum(a.accepted_draft_tokens for a in answers) > n / 10  # some were kept
        assert set(drawn) <= set(pairs)
        assert sum((drawn[p] - n * e) ** 2 / (n * e) for p, e in pairs.items()) < limit


def _pairs(path: str, ids: list[int], *, temperature: float, top_k: int) -> dict[Any, float]:
    """Probability of each pair of tokens after `ids`, by the plain model."""

    def likely(prefix: list[int]) -> list[tuple[int, float]]:
        with torch.no_grad():
            logits = loaded(path)(torch.tensor([prefix])).logits[0, -1] / temperature
        best = logits.topk(top_k)
        return list(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))

    return {(a, b): p * q for a, p in likely(ids) for b, q in likely([*ids, a])}
