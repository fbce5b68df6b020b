"""Floors stand on what a model really moves and computes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.performance.device import measured_rates
from tiny import SLOT_KINDS, loaded, make


def bytes_of(kind: str, **overrides: int) -> tuple[int, int, int]:
    """Bytes of all weights, of tables that are only looked up, of a token's keys and values."""
    model = loaded(make(kind, **overrides))
    head = model.get_output_embeddings().weight
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    ids = torch.ones(1, 10, dtype=torch.long)
    cache = model(ids, use_cache=True).past_key_values
    rows = sum(table.nbytes for table in tables if table is not head)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return sum(p.nbytes for p in model.parameters()), rows, held // 10


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "gpt2"])
def test_a_token_moves_the_weights_and_the_cache(kind: str) -> None:
    model = loaded(make(kind))
    weights, tables, cached = bytes_of(kind)
    found = footprint(model)
    assert found.bytes(1, 1, 0) == weights - tables
    assert found.bytes(1, 1, 100) - found.bytes(1, 1, 0) == 100 * cached
    assert found.bytes(8, 1, 100) - found.bytes(8, 1, 0) == 800 * cached


def test_a_sliding_window_bounds_what_is_moved() -> None:
    found = footprint(loaded(make("mistral")))
    assert found.bytes(1, 1, 500) == found.bytes(1, 1, 32) > found.bytes(1, 1, 31)


def test_a_token_moves_the_experts_that_it_is_routed_to() -> None:
    model = loaded(make("qwen3_moe"))
    experts = sum(p.nbytes for n, p in model.named_parameters() if ".experts." in n)
    found = footprint(model)
    assert found.weights - found.bytes(1, 1, 0) == experts / 2  # 2 of 4
    assert found.weights - found.bytes(64, 1, 0) < experts / 1000


@pytest.mark.parametrize("kind", sorted(SLOT_KINDS.keys() - {"qwen3_moe"}))
def test_operations_are_those_that_torch_counts(kind: str) -> None:
    """There attention is counted whole, here by what is visible; it leaves grouped products out."""
    model = loaded(make(kind))
    ids = torch.randint(10, 300, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids)
    counted = counter.get_total_flops()
    assert footprint(model).work(1, 24, 0) == pytest.approx(counted, rel=0.25)


def test_a_product_of_matrices_does_not_beat_the_floor() -> None:
    rates = measured_rates("cpu", "float32", 2**22, seconds=0.02)
    assert rates.floor(0, 1e9) == 1e9 / rates.operations
    assert rates.floor(1e9, 0) == 1e9 / rates.bandwidth
    assert 1e8 < rates.bandwidth < 1e13
    assert 1e8 < rates.operations < 1e14
