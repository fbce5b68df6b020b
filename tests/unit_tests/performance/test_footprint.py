"""The footprint of a model matches the bytes and operations of real forwards."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.performance.device import measured_rates
from tiny import SLOT_KINDS, loaded, make


def bytes_of(kind: str, **overrides: int) -> tuple[int, int, int]:
    """Bytes of all weights, of input embeddings, and of the keys and values of one token."""
    model = loaded(make(kind, **overrides))
    head = model.get_output_embeddings().weight
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    ids = torch.ones(1, 10, dtype=torch.long)
    cache = model(ids, use_cache=True).past_key_values
    embeddings = sum(table.nbytes for table in tables if table is not head)
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return sum(p.nbytes for p in model.parameters()), embeddings, cached // 10


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "gpt2"])
def test_a_token_moves_the_weights_and_the_cache(kind: str) -> None:
    model = loaded(make(kind))
    weights, embeddings, cached = bytes_of(kind)
    size = footprint(model)
    assert size.bytes(1, 1, 0) == weights - embeddings
    assert size.bytes(1, 1, 100) - size.bytes(1, 1, 0) == 100 * cached
    assert size.bytes(8, 1, 100) - size.bytes(8, 1, 0) == 800 * cached


def test_a_sliding_window_limits_the_bytes_read() -> None:
    size = footprint(loaded(make("mistral")))
    assert size.bytes(1, 1, 500) == size.bytes(1, 1, 32) > size.bytes(1, 1, 31)


def test_a_token_moves_the_experts_that_it_is_routed_to() -> None:
    model = loaded(make("qwen3_moe"))
    experts = sum(p.nbytes for n, p in model.named_parameters() if ".experts." in n)
    size = footprint(model)
    assert size.weights - size.bytes(1, 1, 0) == experts / 2  # 2 of 4
    assert size.weights - size.bytes(64, 1, 0) < experts / 1000


@pytest.mark.parametrize("kind", sorted(SLOT_KINDS.keys() - {"qwen3_moe"}))
def test_operations_match_the_count_of_torch(kind: str) -> None:
    """The counts differ: torch counts masked attention too, and does not count grouped products."""
    model = loaded(make(kind))
    ids = torch.randint(10, 300, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids)
    counted = counter.get_total_flops()
    assert footprint(model).work(1, 24, 0) == pytest.approx(counted, rel=0.25)


def test_measured_rates_are_plausible_and_give_the_floor() -> None:
    rates = measured_rates("cpu", "float32", 2**22, seconds=0.02)
    assert rates.floor(0, 1e9) == 1e9 / rates.operations
    assert rates.floor(1e9, 0) == 1e9 / rates.bandwidth
    assert 1e8 < rates.bandwidth < 1e13
    assert 1e8 < rates.operations < 1e14
