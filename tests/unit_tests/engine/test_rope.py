"""Rotary embeddings whose frequencies depend on the length of a sequence."""

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_arbitrage.engine import Engine, GenerateRequest
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
SWITCH = 64
LONGROPE: dict[str, Any] = {
    "endless": True,
    "max_position_embeddings": 1024,
    "original_max_position_embeddings": SWITCH,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": SWITCH,
    },
}
DYNAMIC: dict[str, Any] = {
    "endless": True,
    "max_position_embeddings": SWITCH,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
CHUNKED: dict[str, Any] = {
    "endless": True,
    "head_dim": 16,
    "num_key_value_heads": 2,
    "intermediate_size_mlp": 128,
    "num_hidden_layers": 4,
    "num_local_experts": 2,
    "attention_chunk_size": 32,
    "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
    "no_rope_layers": [1, 1, 1, 0],
}


@pytest.fixture(scope="module")
def longrope() -> str:
    return make("phi3", **LONGROPE)


@pytest.mark.parametrize("length", [10, SWITCH - 5, SWITCH, SWITCH + 1, 300])
def test_longrope_generates_what_generate_does(length: int, longrope: str, engine: Make) -> None:
    """Below the switch, across it, and with a prompt that several forwards would compute."""
    ids = random_ids(length)
    output = engine(longrope).submit(GenerateRequest(ids, max_tokens=40)).result()
    assert output.ids == generate(longrope, ids, 40)


def test_sequences_on_both_sides_of_the_switch_do_not_change_each_other(
    longrope: str, engine: Make
) -> None:
    prompts = [random_ids(n) for n in (8, 90, 40, 200, SWITCH - 3)]
    model = engine(longrope)
    handles = [model.submit(GenerateRequest(ids, max_tokens=24)) for ids in prompts]
    for ids, handle in zip(prompts, handles, strict=True):
        assert handle.result().ids == generate(longrope, ids, 24)
    assert model.backend == "slot"


def test_a_cached_prefix_is_reused_on_its_own_side_of_the_switch_only(
    longrope: str, engine: Make
) -> None:
    model, ids = engine(longrope), random_ids(SWITCH - 10)
    model.submit(GenerateRequest(ids, max_tokens=1)).result()
    longer = [*ids, *random_ids(30)]
    output = model.submit(GenerateRequest(longer, max_tokens=12)).result()
    assert output.ids == generate(longrope, longer, 12)
    again = model.submit(GenerateRequest(longer, max_tokens=12)).result()
    assert again.ids == output.ids
    assert again.cached_tokens > SWITCH


def test_drafts_are_verified_up_to_the_switch(longrope: str, engine: Make) -> None:
    ids = random_ids(SWITCH - 10)
    alone = generate(longrope, ids, 30)
    request = GenerateRequest(ids, max_tokens=30, draft_tokens=alone)
    output = engine(longrope).submit(request).result()
    assert output.ids == alone
    assert 0 < output.accepted_draft_tokens <= 10


def test_dynamic_scaling_runs_alone_and_forgets_longer_sequences(engine: Make) -> None:
    path = make("llama", **DYNAMIC)
    model = engine(path)
    short, long = random_ids(20), random_ids(150)
    want = generate(path, short, 20)
    for ids in (short, long, short):
        output = model.submit(GenerateRequest(ids, max_tokens=20)).result()
        assert output.ids == (want if ids == short else generate(path, long, 20))
    assert model.backend == "plain"


@pytest.mark.parametrize("length", [10, 30, 33, 100])
def test_chunked_attention_generates_what_generate_does(length: int, engine: Make) -> None:
    """Llama 4 attends within chunks, here of 32 tokens. It runs on transformers' own cache."""
    path = make("llama4_text", **CHUNKED)
    model, ids, other = engine(path), random_ids(length), random_ids(70)
    handles = [model.submit(GenerateRequest(i, max_tokens=20)) for i in (ids, other)]
    for given, handle in zip((ids, other), handles, strict=True):
        assert handle.result().ids == generate(path, given, 20)
    assert model.backend == "plain"
