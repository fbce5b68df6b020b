"""`verify_only` scores the draft tokens in one forward, and generation continues from there."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from langgraph_arbitrage.engine import Engine, GenerateRequest, SamplingParams, ScoreRequest
from langgraph_arbitrage.engine.requests import Grammar
from langgraph_arbitrage.models.generation_config import TokenRules
from tiny import make, random_ids

LAYERS = 3
Make = Callable[..., Engine]
SAMPLING = [
    SamplingParams(),
    SamplingParams(temperature=0.7, seed=3),
    SamplingParams(temperature=1.5, top_k=9, seed=4),
    SamplingParams(rules=TokenRules(repetition_penalty=1.3, no_repeat_ngram_size=3)),
]


def wrong(ids: Sequence[int], at: int | None) -> list[int]:
    """Replace one token. None: no token."""
    return [(t + 1) % 50 + 3 if i == at else t for i, t in enumerate(ids)]


@pytest.mark.parametrize(
    ("kind", "wrong_at", "sampling"),
    [
        *(("llama", at, SAMPLING[0]) for at in (0, 1, 69, None)),
        *(("llama", 7, sampling) for sampling in SAMPLING),
        *((kind, 7, s) for kind in ("qwen2-sliding", "mamba") for s in SAMPLING[:2]),
    ],
)
def test_verification_then_continuation_equals_the_model_alone(
    kind: str, wrong_at: int | None, sampling: SamplingParams, engine: Make
) -> None:
    model, ids = engine(make(kind, endless=True)), random_ids(30)
    request = GenerateRequest(ids, max_tokens=90, sampling=sampling)
    alone = model.submit(request).result()
    draft = wrong(alone.ids[:70], wrong_at)
    verified = model.submit(replace(request, draft_tokens=draft, verify_only=True)).result()
    accepted = 70 if wrong_at is None else wrong_at
    generated = min(accepted + 1, 70)  # with the model's own token, unless all are accepted
    assert (verified.ids, verified.finish) == (alone.ids[:generated], "verified")
    assert verified.accepted_draft_tokens == accepted
    streamed: list[int] = []
    found = model.submit(replace(request, begun=verified), streamed.append).result()
    assert (found.ids, found.finish) == (alone.ids, "length")
    assert streamed == alone.ids[generated:]
    assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert found.accepted_draft_tokens == accepted


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_scores_equal_those_of_a_score_request(kind: str, engine: Make) -> None:
    model, ids, draft = engine(make(kind)), random_ids(30), random_ids(17, seed=2)
    rules = TokenRules(repetition_penalty=1.5)  # scores ignore the rules
    request = GenerateRequest(
        ids, 40, sampling=SamplingParams(rules=rules), draft_tokens=draft, verify_only=True
    )
    found = model.submit(request).result().draft_scores
    expected = model.submit(ScoreRequest([*ids, *draft], start=30)).result()
    assert found is not None
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert found.entropies == pytest.approx(expected.entropies, abs=1e-4)
    assert found.ranks == expected.ranks


def test_no_token_is_computed_twice(fresh: Make, fed: Counter[int]) -> None:
    model, ids = fresh(make("llama", endless=True)), random_ids(30)
    request = GenerateRequest(ids, max_tokens=20)
    alone = model.submit(request).result()
    draft = wrong(alone.ids[:12], 5)
    for continuation, computed in (
        (replace(request, begun=model.submit(_verify(request, draft)).result()), 20 - 5 - 1),
        # The policy has accepted the draft step: the slot still contains the rejected tokens.
        (GenerateRequest([*ids, *draft, 9], max_tokens=1), 2),
    ):
        model.submit(_verify(request, draft)).result()
        fed.clear()
        output = model.submit(continuation).result()
        assert fed[LAYERS] == output.computed_tokens == computed


def _verify(request: GenerateRequest, draft: list[int]) -> GenerateRequest:
    return replace(request, draft_tokens=draft, verify_only=True)


def test_a_step_that_ends_within_the_draft_needs_no_continuation(engine: Make) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    alone = model.submit(GenerateRequest(ids, max_tokens=20)).result().ids
    request = GenerateRequest(ids, max_tokens=20, stop_token_ids=(alone[8],), draft_tokens=alone)
    found = model.submit(replace(request, verify_only=True)).result()
    end = alone.index(alone[8]) + 1
    assert (found.ids, found.finish) == (alone[:end], "stop")
    assert found.draft_scores is not None
    assert len(found.draft_scores.logprobs) == 20


def test_under_a_grammar_the_draft_is_only_scored(engine: Make) -> None:
    model, ids, draft = engine(make("llama")), random_ids(30), random_ids(5, seed=2)
    request = GenerateRequest(
        ids, 20, grammar=Grammar("start: /[a-z ]+/", 30, 20), draft_tokens=draft, verify_only=True
    )
    found = model.submit(request).result()
    assert (found.ids, found.finish) == ([], "verified")
    assert found.draft_scores is not None
    assert len(found.draft_scores.logprobs) == 5


def test_a_draft_beyond_the_context_is_scored_up_to_it(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    assert model.context is not None
    ids = random_ids(model.context - 4)
    request = GenerateRequest(ids, 20, draft_tokens=random_ids(9, seed=2), verify_only=True)
    found = model.submit(request).result()
    assert found.draft_scores is not None
    assert len(found.draft_scores.logprobs) == 4


def test_verifications_of_many_sequences_equal_each_alone(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    prompts = [random_ids(10 + 7 * i, seed=i) for i in range(6)]
    requests = [
        GenerateRequest(p, 30, draft_tokens=random_ids(5 + i, seed=9), verify_only=True)
        for i, p in enumerate(prompts)
    ]
    alone = [model.submit(r).result() for r in requests]
    together = [h.result() for h in [model.submit(r) for r in requests]]
    for one, other in zip(alone, together, strict=True):
        assert one.ids == other.ids
        assert one.draft_scores is not None
        assert other.draft_scores is not None
        assert other.draft_scores.logprobs == pytest.approx(one.draft_scores.logprobs, abs=1e-4)
