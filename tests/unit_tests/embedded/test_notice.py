"""A process is warned once that the embedded models are a demo."""

import subprocess
import sys

import pytest

CODE = """
import warnings
from langgraph_arbitrage import ChatArbitrage, create_arbitrage_graph
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {use}
print(sum("demo" in str(w.message) for w in caught))
"""


@pytest.mark.parametrize(
    ("use", "warnings"),
    [
        ("create_arbitrage_graph(); create_arbitrage_graph(max_tokens=3)", 1),
        ("ChatArbitrage()._models; ChatArbitrage()._models", 1),
        ("create_arbitrage_graph(draft='a', target='b')", 0),
    ],
)
def test_the_demo_pair_is_announced_once(use: str, warnings: int) -> None:
    code = CODE.format(use=use)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == warnings
