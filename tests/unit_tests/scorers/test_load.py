"""Loading scorers: detection of the kind, and errors for unsuitable checkpoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prms
from langgraph_arbitrage import Models
from langgraph_arbitrage.engine import Engine, ModelSpec, ScoreRequest
from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.scorers import (
    KINDS,
    MathShepherdScorer,
    QwenScorer,
    RLHFlowScorer,
    SequenceScorer,
    SurpriseScorer,
    TokenScorer,
    ValueHeadScorer,
    load_scorer,
)
from langgraph_arbitrage.scorers.surprise import FEATURES
from tiny import make


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (prms.trl, TokenScorer),
        (lambda: prms.trl(head="sequence-classification"), SequenceScorer),
        (prms.value_head, ValueHeadScorer),
        (lambda: prms.value_head(architecture="Qwen2ForCausalLM"), ValueHeadScorer),
        (prms.qwen_prm, QwenScorer),
        (lambda: f"rlhflow:{prms.rlhflow()}", RLHFlowScorer),
        (lambda: f"math-shepherd:{prms.math_shepherd()}", MathShepherdScorer),
        (lambda: f"token-classification:{prms.trl()}", TokenScorer),
    ],
)
def test_the_kind_is_detected_from_the_checkpoint_or_given_as_a_prefix(path, kind) -> None:
    scorer = load_scorer(path())
    assert type(scorer) is kind
    assert scorer.role == "prm"
    assert scorer.model == path().split(":")[-1]


def test_a_surprise_scorer_is_detected_by_its_config(tmp_path: Path) -> None:
    scorer = load_scorer(prms.surprise(tmp_path, draft="a", target="b"))
    assert isinstance(scorer, SurpriseScorer)
    assert (scorer.role, scorer.draft, scorer.target) == ("router", "a", "b")


@pytest.mark.parametrize("checkpoint", [prms.rlhflow, prms.math_shepherd])
def test_a_plain_causal_lm_is_rejected_with_the_supported_kinds(
    checkpoint: Callable[[], str],
) -> None:
    path = checkpoint()
    with pytest.raises(CheckpointError, match=r"scorer kind of .* cannot be detected") as raised:
        load_scorer(path)
    message = str(raised.value)
    assert all(kind in message for kind in KINDS)
    assert f"'rlhflow:{path}'" in message


def test_an_unknown_kind_and_a_missing_path_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'reward' is not a valid scorer kind"):
        load_scorer(prms.trl(), "reward")
    with pytest.raises(CheckpointError, match="no/such-prm is not a local folder"):
        load_scorer("no/such-prm")
    with pytest.raises(CheckpointError, match="cannot be detected"):
        load_scorer(str(tmp_path))


@pytest.mark.parametrize("labels", [1, 3, 4])
def test_a_prm_without_two_labels_is_rejected_with_its_labels(labels: int) -> None:
    with pytest.raises(CheckpointError, match=rf"has {labels} labels? \(LABEL_0.*2 \(0: inc"):
        load_scorer(prms.trl(labels), role="prm")


def test_a_router_has_an_even_number_of_labels() -> None:
    for labels in (2, 4, 10):
        scorer = load_scorer(prms.trl(labels), role="router")
        assert isinstance(scorer, TokenScorer)
        assert scorer.tagged
    for labels in (1, 3):
        with pytest.raises(CheckpointError, match=rf"has {labels} labels? \(.*router.*even number"):
            load_scorer(prms.trl(labels), role="router")
    with pytest.raises(
        CheckpointError, match="a router of kind sequence-classification must have 2"
    ):
        load_scorer(prms.trl(1, "sequence-classification"), role="router")


def test_a_prm_is_rejected_as_a_router_and_a_router_as_a_prm(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a PRM, not a router.*Use RSD\('"):
        load_scorer(prms.qwen_prm(), role="router")
    with pytest.raises(CheckpointError, match=r"is a router, not a PRM.*Use LearnedRouter\('"):
        load_scorer(prms.surprise(tmp_path), role="prm")


def test_a_router_of_several_classes_sums_the_upper_half(models: Models) -> None:
    scorer = load_scorer(prms.trl(4), role="router")
    call = models.scorer_call(scorer.request("How many?", [], "She has 3."), "How many?")
    engine, request = call.engine, call.request
    output = engine.submit(request).result()
    weights = np.exp(output.logits)
    expected = weights[2:].sum() / weights.sum()
    assert scorer.read([], output).value == pytest.approx(expected, abs=1e-6)


def test_a_saved_router_is_loaded_unchanged(tmp_path: Path) -> None:
    path = Path(shutil.copytree(prms.trl(), tmp_path / "router"))
    saved = TokenScorer(str(path), role="router", draft="d", target="t", tagged=False)
    saved.save(path)
    assert load_scorer(str(path), role="router") == saved
    (path / "router.json").write_text('{"colour": "red"}')
    with pytest.raises(CheckpointError, match="cannot be read as a TokenScorer"):
        load_scorer(str(path))


def test_features_of_another_version_are_rejected(tmp_path: Path) -> None:
    path = prms.surprise(tmp_path)
    config = tmp_path / "surprise.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"features": FEATURES[:3]}))
    with pytest.raises(CheckpointError, match="was trained on the features mean, lowest"):
        load_scorer(path)
    (tmp_path / "surprise.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is not a valid surprise scorer"):
        load_scorer(path)


@pytest.mark.parametrize(
    ("checkpoint", "kind", "message"),
    [
        (prms.trl, "value-head", r"has no weights v_head.summary.weight"),
        (prms.value_head, "process-reward", r"has no weights score.0.weight"),
        (lambda: make("gpt2"), "value-head", "GPT2ForTokenClassification has no module `score`"),
    ],
)
def test_a_checkpoint_without_the_required_head_is_rejected(
    checkpoint: Callable[[], str], kind: str, message: str
) -> None:
    engine = Engine(ModelSpec(checkpoint(), kind=kind))
    with pytest.raises(CheckpointError, match=f"cannot be loaded as {kind}: .*{message}"):
        engine.submit(ScoreRequest([1, 2, 3])).result()
    engine.close()


def test_missing_weights_are_an_error_and_never_initialized(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(shutil.copytree(prms.value_head(), tmp_path / "incomplete"))
    weights = load_file(path / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    engine = Engine(ModelSpec(str(path), kind="value-head"))
    with pytest.raises(CheckpointError, match=r"no weights model.layers.1.mlp.up_proj.weight"):
        engine.submit(ScoreRequest([1, 2, 3])).result()
    engine.close()


def test_a_tokenizer_without_the_marker_is_rejected(models: Models) -> None:
    scorer = load_scorer(f"qwen-prm:{make('qwen2', seed=4)}")
    with pytest.raises(CheckpointError, match="has no <extra_0> token"):
        scorer.request("How many?", [], "She has 3.")
