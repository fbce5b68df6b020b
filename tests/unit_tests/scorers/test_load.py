"""A checkpoint's kind is recognised or set by name; what does not fit is told."""

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
def test_the_kind_is_found_in_the_checkpoint_or_before_its_name(path, kind) -> None:
    scorer = load_scorer(path())
    assert type(scorer) is kind
    assert scorer.role == "prm"
    assert scorer.model == path().split(":")[-1]


def test_a_surprise_scorer_is_found_by_its_config(tmp_path: Path) -> None:
    scorer = load_scorer(prms.surprise(tmp_path, draft="a", target="b"))
    assert isinstance(scorer, SurpriseScorer)
    assert (scorer.role, scorer.draft, scorer.target) == ("router", "a", "b")


@pytest.mark.parametrize("made", [prms.rlhflow, prms.math_shepherd])
def test_a_plain_causal_lm_is_refused_with_the_kinds_there_are(made: Callable[[], str]) -> None:
    path = made()
    with pytest.raises(CheckpointError, match=r"format of .* is not recognised") as refusal:
        load_scorer(path)
    told = str(refusal.value)
    assert all(kind in told for kind in KINDS)
    assert f"'rlhflow:{path}'" in told


def test_an_unknown_kind_and_a_path_that_is_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'reward' is no kind of scorer; the known kinds are"):
        load_scorer(prms.trl(), "reward")
    with pytest.raises(CheckpointError, match="no/such-prm is no folder here"):
        load_scorer("no/such-prm")
    with pytest.raises(CheckpointError, match="is not recognised"):
        load_scorer(str(tmp_path))


@pytest.mark.parametrize("labels", [1, 3, 4])
def test_a_prm_of_other_than_two_labels_is_refused_with_those_it_has(labels: int) -> None:
    with pytest.raises(CheckpointError, match=rf"has {labels} \(.*LABEL_0.*two \(0: the step is"):
        load_scorer(prms.trl(labels), role="prm")


def test_a_router_has_an_even_number_of_labels() -> None:
    for labels in (2, 4, 10):
        scorer = load_scorer(prms.trl(labels), role="router")
        assert isinstance(scorer, TokenScorer)
        assert scorer.tagged
    for labels in (1, 3):
        with pytest.raises(CheckpointError, match=rf"has {labels} \(.*router.*an even number"):
            load_scorer(prms.trl(labels), role="router")
    with pytest.raises(CheckpointError, match="a router of kind sequence-classification has two"):
        load_scorer(prms.trl(1, "sequence-classification"), role="router")


def test_a_prm_is_no_router_and_a_router_no_prm(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a PRM, no router.*Use RSD\('"):
        load_scorer(prms.qwen_prm(), role="router")
    with pytest.raises(CheckpointError, match=r"is a router, no PRM.*Use LearnedRouter\('"):
        load_scorer(prms.surprise(tmp_path), role="prm")


def test_a_router_of_several_classes_sums_the_upper_half(models: Models) -> None:
    scorer = load_scorer(prms.trl(4), role="router")
    call = models.scorer_call(scorer.request("How many?", [], "She has 3."))
    engine, request = call.engine, call.request
    reading = engine.submit(request).result()
    weights = np.exp(reading.logits)
    wanted = weights[2:].sum() / weights.sum()
    assert scorer.read([], reading).value == pytest.approx(wanted, abs=1e-6)


def test_what_a_router_was_saved_with_is_found_again(tmp_path: Path) -> None:
    path = Path(shutil.copytree(prms.trl(), tmp_path / "router"))
    saved = TokenScorer(str(path), role="router", draft="d", target="t", tagged=False)
    saved.save(path)
    assert load_scorer(str(path), role="router") == saved
    (path / "router.json").write_text('{"colour": "red"}')
    with pytest.raises(CheckpointError, match="cannot be read as a TokenScorer"):
        load_scorer(str(path))


def test_another_versions_features_are_refused(tmp_path: Path) -> None:
    path = prms.surprise(tmp_path)
    config = tmp_path / "surprise.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"features": FEATURES[:3]}))
    with pytest.raises(CheckpointError, match="was trained on the features mean, lowest"):
        load_scorer(path)
    (tmp_path / "surprise.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is no whole surprise scorer"):
        load_scorer(path)


@pytest.mark.parametrize(
    ("made", "kind", "told"),
    [
        (prms.trl, "value-head", r"has no weights v_head.summary.weight"),
        (prms.value_head, "process-reward", r"has no weights score.0.weight"),
        (lambda: make("gpt2"), "value-head", "GPT2ForTokenClassification cannot be replaced"),
    ],
)
def test_a_checkpoint_without_the_named_head_is_refused(
    made: Callable[[], str], kind: str, told: str
) -> None:
    engine = Engine(ModelSpec(made(), kind=kind))
    with pytest.raises(CheckpointError, match=f"cannot be loaded as {kind}: .*{told}"):
        engine.submit(ScoreRequest([1, 2, 3])).result()
    engine.close()


def test_weights_that_the_model_lacks_are_told_and_never_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(shutil.copytree(prms.value_head(), tmp_path / "spoiled"))
    weights = load_file(path / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    engine = Engine(ModelSpec(str(path), kind="value-head"))
    with pytest.raises(CheckpointError, match=r"no weights model.layers.1.mlp.up_proj.weight"):
        engine.submit(ScoreRequest([1, 2, 3])).result()
    engine.close()


def test_a_tokenizer_without_the_mark_is_refused(models: Models) -> None:
    scorer = load_scorer(f"qwen-prm:{make('qwen2', seed=4)}")
    with pytest.raises(CheckpointError, match="has no token <extra_0>"):
        scorer.request("How many?", [], "She has 3.")
