"""Sampling: it follows the model's distribution, and a seed fixes it whatever else runs."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from langgraph_arbitrage.engine import Engine, GenerateRequest, SamplingParams
from langgraph_arbitrage.engine.sampler import choose, warp
from tiny import generate, loaded, make, random_ids

PATH = make("llama", endless=True)
PROMPT = random_ids(20)


@pytest.fixture(scope="module")
def llama(engine: Callable[..., Engine]) -> Engine:
    return engine(PATH)


def write(engine: Engine, ids: list[int] = PROMPT, new: int = 25, **sampling: float) -> list[int]:
    return (
        engine.submit(GenerateRequest(ids, new, sampling=SamplingParams(**sampling))).result().ids
    )


def test_a_seed_gives_the_same_answer_alone_and_among_sixteen_others(llama: Engine) -> None:
    mine = SamplingParams(temperature=1.0, seed=5)
    alone = llama.submit(GenerateRequest(PROMPT, 25, sampling=mine)).result().ids
    others = [
        GenerateRequest(
            random_ids(5 + 3 * n, seed=n),
            40,
            sampling=SamplingParams(temperature=n % 3 / 2, seed=n),
        )
        for n in range(16)
    ]
    tickets = [llama.submit(o) for o in others[:8]]
    ticket = llama.submit(GenerateRequest(PROMPT, 25, sampling=mine))
    tickets += [llama.submit(o) for o in others[8:]]
    assert ticket.result().ids == alone
    again = [t.result().ids for t in tickets]
    assert again == [llama.submit(o).result().ids for o in others]


def test_other_seeds_give_other_answers(llama: Engine) -> None:
    answers = {tuple(write(llama, temperature=1.0, seed=s)) for s in range(8)}
    assert len(answers) == 8


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_from_one_token_is_greedy(llama: Engine, narrow: dict[str, float]) -> None:
    assert write(llama, temperature=1.0, seed=3, **narrow) == generate(PATH, PROMPT, 25)


def test_temperature_zero_ignores_the_seed(llama: Engine) -> None:
    assert write(llama, seed=1) == write(llama, seed=2) == generate(PATH, PROMPT, 25)


@pytest.mark.parametrize("sampling", [{"temperature": 3.0}, {"temperature": 6.0, "top_k": 12}])
def test_samples_follow_the_models_softmax(llama: Engine, sampling: dict[str, float]) -> None:
    """Pearson's chi-square over the likeliest tokens and the rest; p below 1e-4 fails."""
    n = 600
    with torch.no_grad():
        logits = loaded(PATH)(torch.tensor([PROMPT])).logits[0, -1] / sampling["temperature"]
    if "top_k" in sampling:
        logits[logits < logits.topk(sampling["top_k"]).values[-1]] = -torch.inf
    probs = logits.softmax(-1)
    tickets = [
        llama.submit(GenerateRequest(PROMPT, 1, sampling=SamplingParams(seed=s, **sampling)))
        for s in range(n)
    ]
    drawn = Counter(t.result().ids[0] for t in tickets)
    likely = [i for i in probs.argsort(descending=True)[:10].tolist() if n * probs[i] >= 5]
    cells = [(drawn[i], n * probs[i].item()) for i in likely]
    rest = n - sum(e for _, e in cells)
    if rest > 5:
        cells.append((n - sum(o for o, _ in cells), rest))
    assert len(cells) >= 4
    assert all(probs[i] > 0 for i in drawn)
    chi_square = sum((o - e) ** 2 / e for o, e in cells)
    limit = torch.distributions.Gamma((len(cells) - 1) / 2, 0.5).sample((200_000,)).quantile(0.9999)
    assert chi_square < limit


def test_a_row_draws_one_number_a_token() -> None:
    """So that a row's stream does not depend on its neighbours."""
    stream, twin = random.Random(1), random.Random(1)
    choose(
        torch.randn(2, 9),
        [SamplingParams(temperature=1), SamplingParams()],
        [stream, random.Random(2)],
    )
    twin.random()
    assert stream.random() == twin.random()


def test_logprobs_are_those_of_the_model_itself(llama: Engine) -> None:
    """Of temperature 1, with nothing cut off, however the token was drawn."""
    written = llama.submit(
        GenerateRequest(PROMPT, 10, sampling=SamplingParams(temperature=2.0, top_k=5, seed=1))
    ).result()
    ids = PROMPT + written.ids
    with torch.no_grad():
        spread = loaded(PATH)(torch.tensor([ids])).logits[0].log_softmax(-1)
    want = [spread[len(PROMPT) - 1 + k, t].item() for k, t in enumerate(written.ids)]
    assert written.logprobs == pytest.approx(want, abs=1e-4)


def reference(logits: list[float], sampling: SamplingParams) -> list[float]:
    """One row's probabilities, the slow way: temperature, then top-k, then top-p."""
    scaled = torch.tensor(logits, dtype=torch.float64) / sampling.temperature
    order = sorted(range(len(logits)), key=lambda i: -scaled[i].item())
    kept = order[: sampling.top_k] if sampling.top_k else order
    weights = {i: scaled[i].exp().item() for i in kept}
    total, mass, chosen = sum(weights.values()), 0.0, []
    for i in kept:
        if mass >= sampling.top_p:
            break
        chosen.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in chosen)
    return [weights[i] / total if i in chosen else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("seed", range(6))
def test_warp_equals_a_naive_reference_row_by_row(seed: int) -> None:
    rng = random.Random(seed)
    rows = [[rng.gauss(0, 2) for _ in range(11)] for _ in range(40)]
    samplings = [
        SamplingParams(
            temperature=rng.choice([0.3, 0.7, 1.0, 2.5]),
            top_p=rng.choice([1.0, 0.95, 0.6, 0.2]),
            top_k=rng.choice([0, 1, 3, 11, 50]),
        )
        for _ in rows
    ]
    found = warp(torch.tensor(rows), samplings)
    want = torch.tensor([reference(r, s) for r, s in zip(rows, samplings, strict=True)])
    torch.testing.assert_close(found, want.float(), atol=1e-5, rtol=1e-4)


def test_a_draw_takes_the_token_that_its_number_falls_on() -> None:
    class Fixed(random.Random):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def random(self) -> float:
            return self.value

    probs = torch.tensor([0.5, 0.0, 0.25, 0.25])
    draws = [0.0, 0.49, 0.51, 0.74, 0.76, 0.999999]
    logits = probs.log().expand(len(draws), -1)
    ids, _ = choose(logits, [SamplingParams(temperature=1)] * len(draws), list(map(Fixed, draws)))
    assert ids == [0, 0, 2, 2, 3, 3]
