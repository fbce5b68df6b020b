"""Scores equal those of a plain forward with `transformers`."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaForCausalLM,
)

from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreOutput, ScoreRequest, cpu
from langgraph_arbitrage.errors import ContextLengthError, SettingsError
from tiny import loaded, make, random_ids

Make = Callable[..., Engine]
CLASSIFIERS = {
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}


def plain(path: str, ids: list[int], start: int) -> tuple[list[float], list[float]]:
    """Log-probabilities and entropies of `ids[start:]` from one forward."""
    with torch.no_grad():
        logprobs = loaded(path)(torch.tensor([ids])).logits[0].log_softmax(-1)
    rows = range(start - 1, len(ids) - 1)
    entropies = torch.distributions.Categorical(logits=logprobs).entropy()
    return [logprobs[i, ids[i + 1]].item() for i in rows], [entropies[i].item() for i in rows]


def plain_labels(path: str, head: str, ids: list[int]) -> list[float]:
    with torch.no_grad():
        logits = loaded(path, CLASSIFIERS[head])(torch.tensor([ids])).logits[0]
    return (logits if logits.dim() == 1 else logits[-1]).tolist()


def assert_same(output: ScoreOutput, path: str, ids: list[int], start: int) -> None:
    logprobs, entropies = plain(path, ids, start)
    assert output.logprobs == pytest.approx(logprobs, abs=2e-4)
    assert output.entropies == pytest.approx(entropies, abs=2e-4)
    assert output.logits == []


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "mamba"])
def test_a_causal_lm_reports_logprobs_and_entropies(kind: str, engine: Make) -> None:
    path = make(kind)
    ids = random_ids(70)
    for start in (1, 2, 40, 69, 70):
        assert_same(engine(path).submit(ScoreRequest(ids, start)).result(), path, ids, start)


@pytest.mark.parametrize("kind", ["llama", "mistral", "mamba"])
def test_a_score_after_generation_from_the_same_prefix_is_correct(kind: str, fresh: Make) -> None:
    path, engine, ids = make(kind, endless=True), fresh(make(kind, endless=True)), random_ids(30)
    step = engine.submit(GenerateRequest(ids, max_tokens=8)).result()
    whole = [*ids, *step.ids]
    assert_same(engine.submit(ScoreRequest(whole, 30)).result(), path, whole, 30)
    assert_same(
        engine.submit(ScoreRequest([*whole, 50, 51], 20)).result(), path, [*whole, 50, 51], 20
    )
    foreign = [*ids, *random_ids(6, seed=9)]
    assert_same(engine.submit(ScoreRequest(foreign, 30)).result(), path, foreign, 30)


def test_scores_and_generation_of_different_lengths_in_one_batch_are_correct(engine: Make) -> None:
    path = make("llama", endless=True)
    model = engine(path)
    sequences = [random_ids(n, seed=n) for n in (2, 17, 40, 90, 300)]
    starts = [1, 5, 40, 60, 290]
    scores = [model.submit(ScoreRequest(s, n)) for s, n in zip(sequences, starts, strict=True)]
    steps = [model.submit(GenerateRequest(s, 5)) for s in sequences]
    for handle, ids, start in zip(scores, sequences, starts, strict=True):
        assert_same(handle.result(), path, ids, start)
    for handle, ids in zip(steps, sequences, strict=True):
        step = handle.result()
        expected, _ = plain(path, [*ids, *step.ids], len(ids))
        assert step.logprobs == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_a_classifier_reports_the_logits_at_the_last_token(head: str, engine: Make) -> None:
    path = make("llama", head=head, num_labels=3)
    model = engine(path, kind=head)
    sequences = [random_ids(n, seed=n) for n in (1, 2, 30, 31, 200, 400)]
    alone = [model.submit(ScoreRequest(s)).result().logits for s in sequences]
    sequences += [random_ids(n, seed=100 + n) for n in (3, 25, 60, 300)]
    handles = [model.submit(ScoreRequest(s)) for s in sequences]
    found = alone + [h.result().logits for h in handles]
    expected = [plain_labels(path, head, s) for s in sequences[:6] + sequences]
    assert [len(logits) for logits in found] == [3] * 16
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=2e-4, rtol=1e-3)
    assert model.backend == "slot"


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_a_classifier_only_computes_new_tokens(head: str, fresh: Make, fed: Counter[int]) -> None:
    path = make("llama", head=head)
    model, ids = fresh(path, kind=head), random_ids(80)
    model.submit(ScoreRequest(ids[:50])).result()
    fed.clear()
    longer = model.submit(ScoreRequest(ids)).result()
    assert fed[3] == longer.computed_tokens == 30
    fed.clear()
    # Another step after an earlier prefix.
    again = model.submit(ScoreRequest([*ids[:60], 40, 41])).result()
    assert fed[3] == again.computed_tokens == 2
    for found, sequence in ((longer, ids), (again, [*ids[:60], 40, 41])):
        assert found.logits == pytest.approx(plain_labels(path, head, sequence), abs=2e-4)


def test_a_start_outside_the_tokens_is_rejected(engine: Make) -> None:
    model = engine(make("llama", endless=True))
    for start in (0, 6, -1):
        with pytest.raises(SettingsError, match=rf"start={start} is not between .* \(5\)"):
            model.submit(ScoreRequest([1, 2, 3, 4, 5], start))


def test_a_classifier_can_use_its_whole_context(engine: Make) -> None:
    path = make("llama", head="token-classification", max_position_embeddings=64)
    model = engine(path, kind="token-classification")
    ids = random_ids(64)
    expected = plain_labels(path, "token-classification", ids)
    assert model.submit(ScoreRequest(ids)).result().logits == pytest.approx(expected, abs=2e-4)
    with pytest.raises(ContextLengthError, match=r"65 tokens .* context length is 64"):
        model.submit(ScoreRequest(random_ids(65)))


def test_concurrent_scores_share_forwards(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, widths = fresh(make("llama")), []
    engine.submit(ScoreRequest(random_ids(9))).result()
    forward = LlamaForCausalLM.forward

    def recording(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        widths.append(input_ids.shape[1])
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", recording)
    for handle in [engine.submit(ScoreRequest(random_ids(20 + n, seed=n))) for n in range(9)]:
        handle.result()
    assert len(widths) < 5
    assert max(widths) >= 7 * 20  # packed in one row


def test_models_on_a_cpu_run_one_forward_at_a_time(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent forwards would share the cores. Requests of both models make progress."""
    engines = [fresh(make("llama")), fresh(make("llama", num_hidden_layers=2))]
    for engine in engines:
        engine.submit(ScoreRequest(random_ids(9))).result()
    forward, inside, order = LlamaForCausalLM.forward, [], []

    def recording(self: Any, *args: Any, **kwargs: Any) -> Any:
        inside.append(1)
        order.append((len(inside), self.config.num_hidden_layers))
        try:
            return forward(self, *args, **kwargs)
        finally:
            inside.pop()

    monkeypatch.setattr(LlamaForCausalLM, "forward", recording)
    handles = [e.submit(GenerateRequest(random_ids(9), 60)) for e in engines]
    for handle in handles:
        handle.result(60)
    assert max(n for n, _ in order) == 1
    layers = [n for _, n in order]
    assert layers != sorted(layers)  # neither model waits until the other has finished
    assert layers != sorted(layers, reverse=True)


def test_the_model_with_more_requests_has_priority_and_none_starves() -> None:
    """The next owner of the cores is chosen when they are released."""
    cores = cpu._CoreLock()

    class Model:
        def __init__(self, requests: int) -> None:
            self.count, self.forwards = requests, 0

        def requests(self) -> int:
            return self.count

    models: list[Any] = [Model(6), Model(2)]
    order: list[int] = []
    both = threading.Barrier(2)

    def run(n: int) -> None:
        both.wait(60)
        for _ in range(100):
            cores.acquire(models[n])
            order.append(n)
            time.sleep(0.0005)  # time for the other model to queue
            cores.offer(models[n])
        cores.release(models[n])

    threads = [threading.Thread(target=run, args=[n], daemon=True) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert order.count(0) == order.count(1) == 100
    last = max(i for i, n in enumerate(order) if n == 0)
    assert 2 <= order[:last].count(1) <= 15  # one in `MAX_PASSES`
