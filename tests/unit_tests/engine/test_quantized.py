"""Models that a quantization config shrinks at load."""

from collections.abc import Callable

import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.engine import Engine, Write
from tiny import random_ids

quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
WAYS = ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig")


@pytest.mark.parametrize("way", WAYS)
def test_a_quantized_model_runs_on_the_slot_engine_and_moves_fewer_bytes(
    way: str, fresh: Callable[..., Engine]
) -> None:
    from transformers import TorchAoConfig

    path, how = embedded.TARGET, TorchAoConfig(getattr(quantization, way)())
    whole, quantized = fresh(path), fresh(path, model_kwargs={"quantization_config": how})
    sizes = []
    for engine in (whole, quantized):
        engine.submit(Write(random_ids(20), 4)).result()
        assert engine.backend == "slot"
        size = engine.footprint
        assert size is not None
        sizes.append(size.weights)
    assert sizes[1] < 0.6 * sizes[0]
