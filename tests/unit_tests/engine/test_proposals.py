"""A proposed step is kept as far as the model would have written it, and changes no token."""

from collections import Counter
from collections.abc import Callable

import pytest

from langgraph_arbitrage.engine import Engine, Sampling, Write
from tiny import make, random_ids

LAYERS = 3
Make = Callable[..., Engine]


@pytest.mark.parametrize("kind", ["llama", "qwen2-sliding", "gpt2", "mamba"])
@pytest.mark.parametrize("wrong_at", [0, 1, 7, 11, None])
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


def test_a_sampled_step_is_drawn_as_if_nothing_were_proposed(engine: Make) -> None:
    model, ids = engine(make("llama", endless=True)), random_ids(30)
    sampling = Sampling(temperature=1.0, seed=3)
    alone = model.submit(Write(ids, max_tokens=12, sampling=sampling)).result()
    write = Write(ids, max_tokens=12, sampling=sampling, proposal=alone.ids)
    assert model.submit(write).result().ids == alone.ids
