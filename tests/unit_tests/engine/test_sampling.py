"""Sampling follows the model's distribution, and a seed determines the output."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from langgraph_arbitrage.engine import Engine, GenerateRequest, SamplingParams
from langgraph_arbitrage.engine.sampler import sample, warp
from tiny import generate, loaded, make, random_ids

PATH = make("llama", endless=True)
PROMPT = random_ids(20)


@pytest.fixture(scope="module")
def llama(engine: Callable[..., Engine]) -> Engine:
    return engine(PATH)


def generated(
    engine: Engine, ids: list[int] = PROMPT, new: int = 25, **sampling: float
) -> list[int]:
    return (
        engine.submit(GenerateRequest(ids, new, sampling=SamplingParams(**sampling))).result().ids
    )


def test_a_seed_gives_the_same_output_alone_and_in_a_batch(llama: Engine) -> None:
    request = GenerateRequest(PROMPT, 25, sampling=SamplingParams(temperature=1.0, seed=5))
    alone = llama.submit(request).result().ids
    others = [
        GenerateRequest(
            random_ids(5 + 3 * n, seed=n),
            40,
            sampling=SamplingParams(temperature=n % 3 / 2, seed=n),
        )
        for n in range(16)
    ]
    handles = [llama.submit(o) for o in others[:8]]
    handle = llama.submit(request)
    handles += [llama.submit(o) for o in others[8:]]
    assert handle.result().ids == alone
    in_batch = [h.result().ids for h in handles]
    assert in_batch == [llama.submit(o).result().ids for o in others]


def test_different_seeds_give_different_outputs(llama: Engine) -> None:
    outputs = {tuple(generated(llama, temperature=1.0, seed=s)) for s in range(8)}
    assert len(outputs) == 8


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_from_one_token_is_greedy(llama: Engine, narrow: dict[str, float]) -> None:
    assert generated(llama, temperature=1.0, seed=3, **narrow) == generate(PATH, PROMPT, 25)


def test_temperature_zero_ignores_the_seed(llama: Engine) -> None:
    assert generated(llama, seed=1) == generated(llama, seed=2) == generate(PATH, PROMPT, 25)


@pytest.mark.parametrize("sampling", [{"temperature": 3.0}, {"temperature": 6.0, "top_k": 12}])
def test_samples_follow_the_models_softmax(llama: Engine, sampling: dict[str, float]) -> None:
    """Pearson's chi-square test over the likeliest tokens and the rest. Fails for p < 1e-4."""
    n = 600
    with torch.no_grad():
        logits = loaded(PATH)(torch.tensor([PROMPT])).logits[0, -1] / sampling["temperature"]
    if "top_k" in sampling:
        logits[logits < logits.topk(sampling["top_k"]).values[-1]] = -torch.inf
    probs = logits.softmax(-1)
    handles = [
        llama.submit(GenerateRequest(PROMPT, 1, sampling=SamplingParams(seed=s, **sampling)))
        for s in range(n)
    ]
    drawn = Counter(h.result().ids[0] for h in handles)
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


def test_a_sampled_token_consumes_one_random_number() -> None:
    """So other rows do not affect the random numbers of a row."""
    generator, reference = random.Random(1), random.Random(1)
    sample(
        torch.randn(2, 9),
        [SamplingParams(temperature=1), SamplingParams()],
        [generator, random.Random(2)],
    )
    reference.random()
    assert generator.random() == reference.random()


def test_logprobs_are_those_of_the_unmodified_distribution(llama: Engine) -> None:
    """They do not depend on temperature, top-k and top-p."""
    output = llama.submit(
        GenerateRequest(PROMPT, 10, sampling=SamplingParams(temperature=2.0, top_k=5, seed=1))
    ).result()
    ids = PROMPT + output.ids
    with torch.no_grad():
        logprobs = loaded(PATH)(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [logprobs[len(PROMPT) - 1 + k, t].item() for k, t in enumerate(output.ids)]
    assert output.logprobs == pytest.approx(expected, abs=1e-4)


def naive_probabilities(logits: list[float], sampling: SamplingParams) -> list[float]:
    """Probabilities of one row: temperature, then top-k, then top-p."""
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
def test_warp_equals_a_naive_implementation(seed: int) -> None:
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
    expected = [naive_probabilities(r, s) for r, s in zip(rows, samplings, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=1e-5, rtol=1e-4)


def test_a_random_number_selects_the_token_by_cumulative_probability() -> None:
    class Fixed(random.Random):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def random(self) -> float:
            return self.value

    probs = torch.tensor([0.5, 0.0, 0.25, 0.25])
    draws = [0.0, 0.49, 0.51, 0.74, 0.76, 0.999999]
    logits = probs.log().expand(len(draws), -1)
    ids, _ = sample(logits, [SamplingParams(temperature=1)] * len(draws), list(map(Fixed, draws)))
    assert ids == [0, 0, 2, 2, 3, 3]
