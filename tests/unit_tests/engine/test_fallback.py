"""Models that the batched runner does not compute correctly fall back to the plain runner."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)

from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreRequest
from langgraph_arbitrage.engine.attention import PackedLayout
from langgraph_arbitrage.engine.load_check import LoadCheck
from langgraph_arbitrage.engine.model_runner import ModelRunner
from langgraph_arbitrage.engine.plain_runner import PlainRunner
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import EngineError
from tiny import QUESTIONS, generate, make, prompt, random_ids

Make = Callable[..., Engine]
PATH = make("llama")


def assert_equals_generate(engine: Engine) -> None:
    prompts = [prompt(q) for q in QUESTIONS[:3]]
    handles = [engine.submit(GenerateRequest(p, 12)) for p in prompts]
    assert [h.result().ids for h in handles] == [generate(PATH, p, 12) for p in prompts]


def test_a_runner_with_wrong_masks_falls_back_to_plain(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_visible(self: PackedLayout, n: int, offset: int, *_: Any) -> torch.Tensor:
        return torch.zeros(n, offset + n)

    monkeypatch.setattr(PackedLayout, "_mask", all_visible)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_a_model_that_rejects_the_slot_cache_falls_back_to_plain(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ModelRunner, batch: Any) -> torch.Tensor:
        raise TypeError("unexpected cache class")

    monkeypatch.setattr(ModelRunner, "forward", refuse)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_a_runner_that_returns_nan_falls_back_to_plain(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ModelRunner.forward

    def nan(self: ModelRunner, batch: Any) -> torch.Tensor:
        return forward(self, batch) * torch.nan

    monkeypatch.setattr(ModelRunner, "forward", nan)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_a_model_whose_own_cache_is_wrong_runs_without_a_cache(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ModelRunner, batch: Any) -> torch.Tensor:
        raise TypeError("unexpected cache class")

    logits = PlainRunner._logits

    def forgetful(self: PlainRunner, tokens: list[int], logit_count: int) -> torch.Tensor:
        if self.cached:
            self.cache.model_cache = None
        return logits(self, tokens, logit_count)

    monkeypatch.setattr(ModelRunner, "forward", refuse)
    monkeypatch.setattr(PlainRunner, "_logits", forgetful)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_the_plain_runner_can_be_selected(fresh: Make) -> None:
    engine = fresh(PATH, engine="plain")
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_the_check_at_load_covers_sliding_windows(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that ignores the window is wrong only for texts longer than the window."""
    attend = PackedLayout.attend

    def without_window(self: PackedLayout, *args: Any, **options: Any) -> torch.Tensor:
        return attend(self, *args, **options | {"window": None})

    monkeypatch.setattr(PackedLayout, "attend", without_window)
    engine = fresh(make("mistral"))
    engine.submit(GenerateRequest([7], 1)).result()
    assert engine.backend == "plain"


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_the_plain_runner_rolls_back_and_continues_as_generate(kind: str, fresh: Make) -> None:
    path, engine = make(kind, endless=True), fresh(make(kind, endless=True), engine="plain")
    ids = random_ids(20)
    own = engine.submit(GenerateRequest(ids, 10)).result().ids
    for prefix in (
        [*ids, *own],
        [*ids, *own, *random_ids(5, seed=1)],
        [*ids, *random_ids(60, seed=2)],
        [*ids, *own[:3]],
        ids,
    ):
        assert engine.submit(GenerateRequest(prefix, 8)).result().ids == generate(path, prefix, 8)


def test_the_plain_runner_serves_waiting_requests_after_a_cancelled_one(fresh: Make) -> None:
    engine = fresh(make("llama", endless=True), engine="plain")
    ids, handles = random_ids(10), []

    def on_token(_: int) -> None:
        handles[0].cancel()

    handles.append(engine.submit(GenerateRequest(ids, 500), on_token))
    handles += [engine.submit(GenerateRequest(random_ids(9, seed=n), 3)) for n in range(3)]
    for n, handle in enumerate(handles[1:]):
        expected = generate(make("llama", endless=True), random_ids(9, seed=n), 3)
        assert handle.result().ids == expected
    assert handles[0].future.exception() is not None


# --- encoders ----------------------------------------------------------------------------

HEADS = {
    "sequence-classification": BertForSequenceClassification,
    "token-classification": BertForTokenClassification,
}
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"she adds three to four so the answer is seven".split(),
]


@pytest.fixture(scope="module", params=HEADS)
def bert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tiny encoder with its own tokenizer: its folder, head and model."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=2,
    )
    model = HEADS[request.param](config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    path = tmp_path_factory.mktemp("bert")
    model.save_pretrained(path)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    return path, request.param, model


def test_an_encoder_scores_on_the_plain_runner(bert: tuple[Path, str, Any], engine: Make) -> None:
    path, head, model = bert
    scorer = engine(str(path), kind=head)
    start = scorer.tokenizer.start_ids
    assert start == [2]
    texts = ["she adds three", "she adds three to four", "so the answer is seven", "she"]
    for text in texts:
        ids = [*start, *scorer.tokenizer.encode(text)]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        expected = logits if logits.dim() == 1 else logits[-1]
        found = scorer.submit(ScoreRequest(ids)).result()
        assert found.logits == pytest.approx(expected.tolist(), abs=1e-4)
        assert (found.computed_tokens, found.cached_tokens) == (len(ids), 0)
    assert scorer.backend == "plain"


def test_the_runner_is_chosen_once_and_used_again_after_a_failure(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed check after a failure would leave the model on the slow runner."""
    engine, ids = fresh(make("llama")), random_ids(9)
    expected = engine.submit(GenerateRequest(ids, 3)).result().ids

    def on_token(_: int) -> None:
        raise RuntimeError("the model fails")

    monkeypatch.setattr(LoadCheck, "passes", lambda *_: False)
    with pytest.raises(EngineError):
        engine.submit(GenerateRequest(ids, 3), on_token).result()
    assert engine.submit(GenerateRequest(ids, 3)).result().ids == expected
    assert engine.backend == "slot"


def test_an_interrupted_check_is_repeated(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next thread does not use a runner whose check did not finish."""
    passes, checks = LoadCheck.passes, []

    def interrupted(self: LoadCheck, scheduler: Scheduler) -> bool:
        checks.append(scheduler.runner.name)
        if len(checks) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return passes(self, scheduler)

    monkeypatch.setattr(LoadCheck, "passes", interrupted)
    engine = fresh(PATH)
    with pytest.raises(EngineError, match="out of memory"):
        engine.submit(GenerateRequest([7], 1)).result()
    assert_equals_generate(engine)
    assert checks == ["slot", "slot"]
