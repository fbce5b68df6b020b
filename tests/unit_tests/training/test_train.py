"""`arbitrage train-router` and `train-prm`: they learn, resume, and document the result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer

from collected import learnable, row, written
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
from langgraph_arbitrage.engine.kv_cache import common_prefix
from langgraph_arbitrage.errors import ArbitrageError, DataError
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.policies import PastStep
from langgraph_arbitrage.scorers import SurpriseScorer, TokenScorer, load_scorer
from langgraph_arbitrage.training import (
    Job,
    SurpriseConfig,
    TokenConfig,
    TrainingRecord,
    prm_examples,
    push_to_hub,
    question_id,
    router_examples,
    score_examples,
    surprise,
    token,
    train,
)
from langgraph_arbitrage.training.examples import split
from langgraph_arbitrage.training.metrics import roc_auc
from tiny import make

HEADS = ["token", "surprise"]
QUICK = TokenConfig(lr=3e-3, batch=12, device_batch=12, epochs=4, held_out=0.25)


def job(output: Path, config: Any = QUICK, n: int = 24, base: str | None = None) -> Job:
    data = router_examples(learnable(n))
    base = base or make("llama", 7, num_hidden_layers=2)
    return Job(data, base=base, output=output, config=config, device="cpu")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token router trained on the learnable rows."""
    output = tmp_path_factory.mktemp("trained") / "router"
    train(job(output, n=40))
    return output


def test_a_token_router_learns_when_the_targets_step_is_better(router: Path) -> None:
    metrics = json.loads((router / "training.json").read_text())["metrics"]
    assert metrics["n"] == 20
    assert metrics["auc"] > 0.95
    assert metrics["rho"] > 0.6
    assert metrics["balanced_accuracy"] > 0.85


def test_cached_scoring_equals_a_plain_forward_pass(router: Path) -> None:
    question, steps = "Ann has 3 apples. How many?", ("She has 3.\n\n", "zqxj vw!\n\n", "So 3.\n\n")
    scorer = load_scorer(str(router))
    assert isinstance(scorer, TokenScorer)
    assert (scorer.role, scorer.tagged, scorer.draft, scorer.target) == ("router", True, "a", "b")
    encode = AutoTokenizer.from_pretrained(router).encode
    plain = AutoModelForTokenClassification.from_pretrained(router, dtype=torch.float32).eval()
    models = Models(ArbitrageSettings())
    history: list[PastStep] = []
    scored: list[int] = []
    ids = encode(f"{question}\n")
    for step, writer in zip(steps, ("draft", "target", "draft"), strict=True):
        call = models.scorer_call(scorer.request(question, history, step), question)
        engine, request = call.engine, call.request
        output = engine.submit(request).result()
        cached, scored = scored, ids + encode("Model 0: " + step)
        probability = plain(torch.tensor([scored])).logits[0, -1].softmax(-1)[1].item()
        assert scorer.read(history, output).value == pytest.approx(probability, abs=1e-5)
        new = len(scored) - common_prefix(cached, scored)
        assert (engine.backend, output.computed_tokens) == ("slot", new)
        history.append(PastStep(writer, step, 0))  # type: ignore[arg-type]
        ids += encode(("Model 1: " if writer == "target" else "Model 0: ") + step)
    models.close()


def test_training_rows_use_the_papers_text_and_label_only_the_last_token(tmp_path: Path) -> None:
    trainer = token.TokenTrainer(job(tmp_path), QUICK)
    example = router_examples([row("How many?", ["A.\n\n", "B.\n\n"], "C.\n\n", 0, 1, tags=[0, 1])])
    training_row = trainer._row(example.examples[0], 1)
    assert load_tokenizer(ModelSpec(job(tmp_path).base)).decode(training_row["input_ids"]) == (
        "How many?\nModel 0: A.\n\nModel 1: B.\n\nModel 0: C.\n\n"
    )
    assert set(training_row["labels"][:-1]) == {token.IGNORED}
    assert training_row["labels"][-1] == 1


@pytest.mark.parametrize("rank", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_an_interrupted_training_resumes_from_the_last_complete_checkpoint(
    rank: int | None, tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"checkpoint_every": 3, "epochs": 3, "lora_rank": rank})
    stopped, whole = (job(tmp_path / name, config) for name in ("stopped", "whole"))
    updates: list[int] = []

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, stop)
    (stopped.output / token.CHECKPOINTS / "checkpoint-7").mkdir()  # incomplete
    train(stopped, lambda done, total: updates.append(done))
    train(whole)
    assert updates[0] == 7  # the checkpoint holds 6 updates
    files = sorted(p.name for p in whole.output.iterdir())
    assert files == sorted(p.name for p in stopped.output.iterdir())
    resumed, expected = (load_file(j.output / "model.safetensors") for j in (stopped, whole))
    for name, weight in resumed.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "labels", "layers"),
    [
        ({"classes": 4, "ordinal": True, "balance": False}, 4, 2),
        ({"tags": False, "layers": 1, "lora_rank": 4, "lr": 2e-2}, 2, 1),
        pytest.param({"classes": 10}, 10, 2, marks=pytest.mark.slow),
        pytest.param({"layers": 1}, 2, 1, marks=pytest.mark.slow),
    ],
)
def test_every_ablation_trains_a_router_that_learns(
    changes: dict[str, Any], labels: int, layers: int, tmp_path: Path
) -> None:
    record = train(job(tmp_path / "router", QUICK.model_copy(update=changes)))
    assert record.metrics["auc"] > 0.8
    config = json.loads((tmp_path / "router" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForTokenClassification"]
    assert len(config.get("id2label", "01")) == labels
    assert config["num_hidden_layers"] == layers
    scorer = load_scorer(str(tmp_path / "router"))
    assert isinstance(scorer, TokenScorer)
    assert scorer.tagged is changes.get("tags", True)


@pytest.mark.parametrize(
    "base",
    [
        ("llama", "token-classification"),
        ("qwen3", "sequence-classification"),
        ("gpt2", "causal-lm"),
    ],
)
def test_a_base_may_have_any_architecture_and_head(base: tuple[str, str], tmp_path: Path) -> None:
    path = make(base[0], 8, head=base[1])
    one_epoch = QUICK.model_copy(update={"epochs": 1})
    train(job(tmp_path / "router", one_epoch, n=8, base=path))
    models = Models(ArbitrageSettings())
    data = router_examples(learnable(2))
    scorer = load_scorer(str(tmp_path / "router"))
    scored = asyncio.run(score_examples(models, scorer, data.examples))
    models.close()
    assert all(0 < s.score.value < 1 for s in scored)


def test_a_surprise_router_learns_and_loads_with_its_metadata(tmp_path: Path) -> None:
    surprise_job = job(tmp_path / "router", SurpriseConfig(held_out=0.25))
    record = train(surprise_job)
    assert record.metrics["auc"] > 0.95
    scorer = load_scorer(str(surprise_job.output))
    assert isinstance(scorer, SurpriseScorer)
    assert (scorer.role, scorer.draft, scorer.target, scorer.base) == (
        "router",
        "a",
        "b",
        surprise_job.base,
    )
    models = Models(ArbitrageSettings())
    scored = asyncio.run(score_examples(models, scorer, surprise_job.data.examples))
    models.close()
    labels = [e.label for e in surprise_job.data.examples]
    assert roc_auc([s.score.value for s in scored], labels) > 0.95


def test_an_interrupted_feature_computation_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surprise, "CHUNK", 4)
    stopped, whole = (job(tmp_path / n, SurpriseConfig(), n=12) for n in ("stopped", "whole"))

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, stop)
    with (stopped.output / surprise.FEATURES_FILE).open("a") as file:
        file.write('["incomplete')
    questions: list[int] = []
    resumed = train(stopped, lambda done, total: questions.append(done))
    assert questions == [12]
    assert resumed.metrics == pytest.approx(train(whole).metrics, abs=1e-3, nan_ok=True)
    assert sorted(p.name for p in stopped.output.iterdir()) == [
        *("README.md", "surprise.json", "surprise.safetensors", "training.json")
    ]


@pytest.mark.parametrize("head", HEADS)
def test_a_prm_learns_from_labelled_steps_and_from_collected_rows(
    head: str, tmp_path: Path
) -> None:
    labelled = [
        {
            "question": r["question"],
            "history": r["history"],
            "step": r["z_d"],
            "correct": not r["y"],
        }
        for r in learnable(40)
    ]
    data = prm_examples([*labelled, *learnable(4, seed=5)])
    assert len(data.examples) > len(labelled)
    config = QUICK if head == "token" else SurpriseConfig(held_out=0.25)
    base = make("llama", 7, num_hidden_layers=2)
    record = train(Job(data, base, tmp_path / "prm", config, "cpu"))
    assert record.metrics["auc"] > 0.9
    assert "rho" not in record.metrics
    scorer = load_scorer(str(tmp_path / "prm"))
    assert scorer.role == "prm"  # type: ignore[attr-defined]
    assert "RSD(" in (tmp_path / "prm" / "README.md").read_text()


def test_a_prm_ignores_target_steps_whose_score_is_a_mean() -> None:
    rows = learnable(2)
    assert len(prm_examples(rows).examples) == 2 * len(rows)
    assert len(prm_examples([{**r, "samples": 3} for r in rows]).examples) == len(rows)


def test_the_card_and_the_record_describe_data_pair_metrics_and_usage(router: Path) -> None:
    card = (router / "README.md").read_text()
    record = json.loads((router / "training.json").read_text())
    for text in ("Router for `a` / `b`", "scored by `checker`", "ROC-AUC", "threshold=", "| lr |"):
        assert text in card
    assert record["questions"] == sorted(question_id(r["question"]) for r in learnable(40)[::2])
    assert (record["draft"], record["target"], record["prm"]) == ("a", "b", "checker")
    assert record["config"] == QUICK.model_dump()
    assert TrainingRecord.question_ids(router) == set(record["questions"])


def test_no_question_is_on_both_sides_of_the_split() -> None:
    examples = router_examples(learnable(20)).examples
    training, held_out = split(examples, 0.25, seed=0)
    assert (len(training), len(held_out)) == (30, 10)
    assert not {e.question for e in training} & {e.question for e in held_out}
    assert split(examples, 0.25, seed=1)[1] != held_out


@pytest.mark.parametrize("head", HEADS)
def test_insufficient_data_is_rejected_and_leaves_no_folder(
    head: str, arbitrage: Callable[..., Any], tmp_path: Path
) -> None:
    rows = learnable(8)
    base = make("llama", 7, num_hidden_layers=2)
    cases = {
        "the rows have 1 questions": rows[:1],
        "have the label 0, but training needs both classes": [{**r, "y": 0} for r in rows],
        "several pairs": [*rows, {**rows[0], "draft": "c"}],
        "several margins": [*rows, {**rows[0], "margin": 0.1}],
        "holds no rows": [],
    }
    output = tmp_path / "router"
    for message, case in cases.items():
        path = written(tmp_path / "rows.jsonl", case)  # type: ignore[arg-type]
        argv = ["train-router", path, "--head", head, "--base", base, "-o", output]
        status, _, err = arbitrage(*argv)
        assert (status, message in err) == (2, True), err
        assert not output.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--head", "surprise", "--layers", "1"], "--layers is an option of token only"),
        (["--head", "token", "--units", "8"], "--units is an option of surprise only"),
        (["--head", "token", "--layers", "9"], "has 2 layers"),
        (["--head", "token", "--lr", "0"], "--lr 0.0: Input should be greater than 0"),
        (["--head", "token", "--base", "./no-such-base"], "./no-such-base"),
        (["--head", "surprise", "--base", "./no-such-base"], "./no-such-base"),
        (["--head", "token", "--classes", "4", "--margin", "9"], "needs both classes"),
        (["--head", "tokens"], "invalid choice: 'tokens'"),
    ],
)
def test_an_invalid_option_is_rejected(
    argv: list[str], message: str, arbitrage: Callable[..., Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "rows.jsonl", learnable(8))
    base = make("llama", 7, num_hidden_layers=2)
    output = tmp_path / "router"
    status, out, err = arbitrage("train-router", path, "--base", base, "-o", output, *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert not output.exists()


def test_an_output_folder_with_other_content_is_not_changed(router: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="already holds a finished router"):
        train(job(router))
    (tmp_path / "diary.txt").write_text("dear me")
    with pytest.raises(DataError, match=r"is not empty \(it holds diary\.txt\)"):
        train(job(tmp_path))
    unfinished = job(tmp_path / "unfinished")
    unfinished.claim()
    with pytest.raises(DataError, match="unfinished training with other rows or options"):
        train(job(tmp_path / "unfinished", QUICK.model_copy(update={"lr": 1.0})))
    unfinished.claim()  # the same job may resume


def test_uploads_happen_only_on_request_and_failures_are_reported(
    arbitrage: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[str] = []
    create = huggingface_hub.HfApi.create_repo

    def recording(self: Any, *args: Any, **kwargs: Any) -> Any:
        requested.append(args[0])
        return create(self, *args, **kwargs)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", recording)
    path = written(tmp_path / "rows.jsonl", learnable(8))
    base = make("llama", 7, num_hidden_layers=2)
    command = ["train-router", path, "--head", "surprise", "--base", base, "-o"]
    assert arbitrage(*command, tmp_path / "kept")[0] == 0
    assert requested == []
    status, out, err = arbitrage(*command, tmp_path / "pushed", "--push-to-hub", "me/router")
    assert (status, requested) == (2, ["me/router"])
    assert "ROC-AUC" in out
    assert "the upload to me/router on the hub failed" in err
    assert "hf auth login" in err
    assert load_scorer(str(tmp_path / "pushed"))


def test_rows_that_exceed_the_context_of_the_base_are_left_out(tmp_path: Path) -> None:
    long = row("How many " * 900, [], "So 3.\n\n", 0.1, 0.5)
    data = router_examples([*learnable(8), long])
    base = make("llama", 7, num_hidden_layers=2)
    record = train(Job(data, base, tmp_path / "router", SurpriseConfig(), "cpu"))
    assert record.too_long == 1
    with pytest.raises(
        DataError, match=r"all 1 rows are longer than the context length.*1024 tokens"
    ):
        train(Job(router_examples([long]), base, tmp_path / "other", SurpriseConfig(), "cpu"))


def test_a_failed_upload_raises_an_arbitrage_error(tmp_path: Path) -> None:
    with pytest.raises(ArbitrageError, match="the upload to no repo/of mine on the hub failed"):
        push_to_hub(job(tmp_path), "no repo/of mine")
