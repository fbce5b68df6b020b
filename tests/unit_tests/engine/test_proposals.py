"""A proposed step is kept as far as the model would have written it, and changes no token."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from langgraph_arbitrage.engine import Engine, Sampling, Write
from langgraph_arbitrage.engine.row import PIECE
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
    alone = model.submit(Write(ids, max_tokens=20)).result()
    proposal = alone.ids[:12]
    if wrong_at is not None:
        proposal[wrong_at] = (proposal[wrong_at] + 1) % 50 + 3
    other = random_ids(9, seed=5)  # so that the prompt is not cached whole
    model.submit(Write([*other, *ids], max_tokens=1)).result()
    found = model.submit(Write(ids, max_tokens=20, proposal=proposal)).result()
    assert found.ids == alone.ids
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.finish == alone.finish
    agreed = 0 if model.backend == "plain" else 12 if wrong_at is None else wrong_at
    assert (found.kept, alone.kept) == (agreed, 0)


def test_rows_with_and_without_a_proposal_run_together(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    prompts = [random_ids(10 + 7 * i, seed=i) for i in range(6)]
    alone = [model.submit(Write(p, max_tokens=15)).result().ids for p in prompts]
    tickets = [
        model.submit(Write(p, max_tokens=15, proposal=ids[: 3 * i] + [7] * (i % 2)))
        for i, (p, ids) in enumerate(zip(prompts, alone, strict=True))
    ]
    assert [t.result().ids for t in tickets] == alone


def test_a_step_that_both_would_write_costs_one_forward(fresh: Make, fed: Counter[int]) -> None:
    model, ids = fresh(make("llama", endless=True)), random_ids(30)
    proposal = model.submit(Write(ids, max_tokens=12)).result().ids
    calls: list[int] = []
    model.submit(Write(ids, max_tokens=12, proposal=proposal), calls.append).result()
    assert calls == proposal
    fed.clear()
    again = model.submit(Write(ids, max_tokens=12, proposal=proposal)).result()
    assert fed[LAYERS] == again.fed == 12  # the prompt's last token, and all but the last proposed
    follow = model.submit(Write([*ids, *proposal, 9], max_tokens=1)).result()
    assert follow.fed == 2  # what was kept is in the cache


def test_a_proposal_beyond_a_limit_is_cut_there(engine: Make) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    alone = model.submit(Write(ids, max_tokens=12)).result().ids
    found = model.submit(Write(ids, max_tokens=5, proposal=alone)).result()
    assert (found.ids, found.finish) == (alone[:5], "length")


@pytest.mark.parametrize(
    ("temperature", "wrong_at"),
    [(0.0, at) for at in (0, PIECE - 1, PIECE, PIECE + 1, 130, None)] + [(1.0, 130)],
)
def test_of_a_long_proposal_little_is_read_for_nothing(
    temperature: float, wrong_at: int | None, engine: Make
) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    write = Write(ids, max_tokens=300, sampling=Sampling(temperature, seed=5))
    alone = model.submit(write).result()
    proposal = list(alone.ids)
    kept = 300 if wrong_at is None else wrong_at
    proposal[kept : kept + 1] = [3] * (kept < 300)  # a token that no model writes
    found = model.submit(replace(write, proposal=proposal)).result()
    assert (found.ids, found.kept, found.finish) == (alone.ids, kept, "length")
    assert found.fed <= 30 + 300 + max(PIECE, kept)
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


SAMPLED = [
    Sampling(temperature=0.7, seed=3),
    Sampling(temperature=1.0, top_p=0.9, seed=4),
    Sampling(temperature=2.0, top_k=7, seed=5),
]


@pytest.mark.parametrize("sampling", SAMPLED)
@pytest.mark.parametrize(
    ("kind", "wrong_at"), [*(("llama", at) for at in (0, 1, 7, None)), ("qwen2-sliding", 7)]
)
def test_a_sampled_step_is_drawn_as_if_nothing_were_proposed(
    kind: str, sampling: Sampling, wrong_at: int | None, engine: Make
) -> None:
    """Its stream gives each place the number that it gives without a proposal."""
    model, ids = engine(make(kind, endless=True)), random_ids(30)
    alone = model.submit(Write(ids, max_tokens=20, sampling=sampling)).result()
    proposal = alone.ids[:12]
    if wrong_at is not None:
        proposal[wrong_at] = (proposal[wrong_at] + 1) % 50 + 3
    write = Write(ids, max_tokens=20, sampling=sampling, proposal=proposal)
    found = model.submit(write).result()
    assert found.ids == alone.ids
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.kept == (12 if wrong_at is None else wrong_at)


ENDS: list[dict[str, Any]] = [
    {},
    {"separators": ("a",)},
    {"separators": ("\n", "."), "stop": (" ",)},
    {"stop": ("t", "en"), "tail": "x"},
]


@pytest.mark.parametrize("sampling", [Sampling(), *SAMPLED])
@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("length", [1, 5])
def test_a_step_in_many_requests_is_the_step_of_one(
    length: int, ends: dict[str, Any], sampling: Sampling, engine: Make
) -> None:
    """Proposals with an error in every third token, each settled and answered by itself."""
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    write = Write(ids, max_tokens=24, sampling=sampling, **ends)
    alone = model.submit(write).result()
    wrong = [t if i % 3 else (t + 1) % 50 + 3 for i, t in enumerate(alone.ids)]
    found, logprobs, told, answer = [], [], [], None
    while answer is None or answer.finish == "settled":
        rest = replace(
            write,
            ids=[*ids, *found],
            max_tokens=24 - len(found),
            proposal=wrong[len(found) :][:length],
            pauses=True,
            begun=len(found),
        )
        answer = model.submit(rest, told.append).result()
        assert 0 < len(answer.ids) <= length
        found += answer.ids
        logprobs += answer.logprobs
    assert found == told == alone.ids
    assert answer.finish == alone.finish
    assert logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_a_begun_step_ends_by_what_was_written_of_it_before(engine: Make) -> None:
    """A separator of two tokens, one of them before the pause."""
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    alone = model.submit(Write(ids, max_tokens=8)).result().ids
    text = [model.tokenizer.decode_after(alone[:i], [alone[i]]) for i in range(8)]
    both = next(a + b for a, b in pairwise(text[3:]) if a.strip() and b.strip())
    write = Write(ids, max_tokens=8, separators=(both,))
    step = model.submit(write).result()
    at = len(step.ids) - 1
    assert (step.finish, at > 0) == ("separator", True)
    rest = replace(write, ids=[*ids, *step.ids[:at]], max_tokens=8 - at, begun=at)
    assert model.submit(rest).result().ids == step.ids[at:]
    assert model.submit(replace(rest, begun=0)).result().finish == "length"


def test_a_row_pays_its_share_of_the_forwards(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    alone = model.submit(Write(random_ids(20), max_tokens=30)).result()
    assert 0 < alone.spent < alone.seconds
    assert 0 < 29 * alone.pace < alone.spent
    many = [model.submit(Write(random_ids(20, seed=i), max_tokens=30)) for i in range(1, 9)]
    answers = [t.result() for t in many]
    assert sum(a.spent for a in answers) < max(a.seconds for a in answers)


def test_verified_steps_follow_the_models_distribution_whatever_is_proposed(engine: Make) -> None:
    """Pearson's chi-square over pairs of tokens, for two proposals; p below 1e-4 fails."""
    path, ids, n = make("llama", endless=True), random_ids(20), 600
    warm = {"temperature": 6.0, "top_k": 4}
    pairs = _pairs(path, ids, **warm)
    likely, unlikely = max(pairs, key=pairs.__getitem__), min(pairs, key=pairs.__getitem__)
    limit = torch.distributions.Gamma((len(pairs) - 1) / 2, 0.5).sample((200_000,)).quantile(0.9999)
    for proposal in (likely, unlikely):
        tickets = [
            engine(path).submit(
                Write(ids, 2, sampling=Sampling(seed=seed, **warm), proposal=proposal)
            )
            for seed in range(n)
        ]
        answers = [t.result() for t in tickets]
        drawn = Counter(tuple(a.ids) for a in answers)
        assert sum(a.kept for a in answers) > n / 10  # some were kept
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
