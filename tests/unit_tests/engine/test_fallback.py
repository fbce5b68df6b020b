"""Models that the slot engine does not compute rightly run on the plain one, and say so."""

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
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from langgraph_arbitrage.engine import Engine, Score, Write, worker
from langgraph_arbitrage.engine.masks import Masks
from langgraph_arbitrage.engine.plain_backend import PlainBackend
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.errors import EngineError
from tiny import QUESTIONS, generate, make, prompt, random_ids

Make = Callable[..., Engine]
PATH = make("llama")


def assert_equals_generate(engine: Engine) -> None:
    prompts = [prompt(q) for q in QUESTIONS[:3]]
    tickets = [engine.submit(Write(p, 12)) for p in prompts]
    assert [t.result().ids for t in tickets] == [generate(PATH, p, 12) for p in prompts]


def test_a_model_whose_masks_are_wrong_falls_back_to_plain(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_visible(self: Masks, position_ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*position_ids.shape, len(keys))[:, None]

    monkeypatch.setattr(Masks, "of", all_visible)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_a_model_that_refuses_the_slot_cache_falls_back_to_plain(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: SlotBackend, batch: Any) -> torch.Tensor:
        raise TypeError("unexpected cache class")

    monkeypatch.setattr(SlotBackend, "forward", refuse)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_not_a_number_does_not_agree(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SlotBackend.forward

    def nan(self: SlotBackend, batch: Any) -> torch.Tensor:
        return forward(self, batch) * torch.nan

    monkeypatch.setattr(SlotBackend, "forward", nan)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_a_model_whose_own_cache_is_wrong_is_read_without_one(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: SlotBackend, batch: Any) -> torch.Tensor:
        raise TypeError("unexpected cache class")

    logits = PlainBackend._logits

    def forgetful(self: PlainBackend, tokens: list[int], keep: int) -> torch.Tensor:
        if self.cached:
            self._cache = None
        return logits(self, tokens, keep)

    monkeypatch.setattr(SlotBackend, "forward", refuse)
    monkeypatch.setattr(PlainBackend, "_logits", forgetful)
    engine = fresh(PATH)
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_the_plain_engine_can_be_asked_for(fresh: Make) -> None:
    engine = fresh(PATH, engine="plain")
    assert_equals_generate(engine)
    assert engine.backend == "plain"


def test_a_sliding_window_is_passed_by_the_check(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot engine that forgot the window would agree on shorter texts."""
    init = Masks.__init__

    def without_window(self: Masks, model: PreTrainedModel) -> None:
        init(self, model)
        self._window = None

    monkeypatch.setattr(Masks, "__init__", without_window)
    engine = fresh(make("mistral"))
    engine.submit(Write([7], 1)).result()
    assert engine.backend == "plain"


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_the_plain_engine_goes_back_and_on_as_generate(kind: str, fresh: Make) -> None:
    path, engine = make(kind, endless=True), fresh(make(kind, endless=True), engine="plain")
    ids = random_ids(20)
    own = engine.submit(Write(ids, 10)).result().ids
    for prefix in (
        [*ids, *own],
        [*ids, *own, *random_ids(5, seed=1)],
        [*ids, *random_ids(60, seed=2)],
        [*ids, *own[:3]],
        ids,
    ):
        assert engine.submit(Write(prefix, 8)).result().ids == generate(path, prefix, 8)


def test_the_plain_engine_answers_cancelled_and_waiting_calls(fresh: Make) -> None:
    engine = fresh(make("llama", endless=True), engine="plain")
    ids, tickets = random_ids(10), []

    def on_token(_: int) -> None:
        tickets[0].cancel()

    tickets.append(engine.submit(Write(ids, 500), on_token))
    tickets += [engine.submit(Write(random_ids(9, seed=n), 3)) for n in range(3)]
    for n, ticket in enumerate(tickets[1:]):
        want = generate(make("llama", endless=True), random_ids(9, seed=n), 3)
        assert ticket.result().ids == want
    assert tickets[0].future.exception() is not None


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
    """A tiny encoder with a tokenizer of its own: its folder and its head."""
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


def test_an_encoder_scores_on_the_plain_engine(bert: tuple[Path, str, Any], engine: Make) -> None:
    path, head, model = bert
    scorer = engine(str(path), kind=head)
    start = scorer.tokenizer.start_ids
    assert start == [2]
    texts = ["she adds three", "she adds three to four", "so the answer is seven", "she"]
    for text in texts:
        ids = [*start, *scorer.tokenizer.encode(text)]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        want = logits if logits.dim() == 1 else logits[-1]
        found = scorer.submit(Score(ids)).result()
        assert found.logits == pytest.approx(want.tolist(), abs=1e-4)
        assert (found.fed, found.cached) == (len(ids), 0)
    assert scorer.backend == "plain"


def test_the_engine_is_chosen_once_and_taken_again_after_a_failure(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that an ailing model fails would leave it with the slow engine for good."""
    engine, ids = fresh(make("llama")), random_ids(9)
    want = engine.submit(Write(ids, 3)).result().ids

    def on_token(_: int) -> None:
        raise RuntimeError("the model falls over")

    monkeypatch.setattr(worker, "agrees", lambda *_: False)
    with pytest.raises(EngineError):
        engine.submit(Write(ids, 3), on_token).result()
    assert engine.submit(Write(ids, 3)).result().ids == want
    assert engine.backend == "slot"


def test_a_check_that_broke_off_is_made_again(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not agreed yet is not taken by the thread that comes after."""
    agrees, checks = worker.agrees, []

    def breaks_off(scheduler: Scheduler, model: PreTrainedModel) -> bool:
        checks.append(scheduler.backend.name)
        if len(checks) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return agrees(scheduler, model)

    monkeypatch.setattr(worker, "agrees", breaks_off)
    engine = fresh(PATH)
    with pytest.raises(EngineError, match="out of memory"):
        engine.submit(Write([7], 1)).result()
    assert_equals_generate(engine)
    assert checks == ["slot", "slot"]
