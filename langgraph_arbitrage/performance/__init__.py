"""What a pair of models costs on a machine, what it could cost, and whether the loop pays.

`device` measures the machine, `costs` the models through the engine, `walk` what they do to each
other's steps; `forecast` is arithmetic on these, `bench` puts them together for `arbitrage bench`,
and `report` is what comes of it. Only `bench`, with what it measures by, needs torch.
"""

from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.performance.forecast import Forecast, ReadCost
from langgraph_arbitrage.performance.report import Bench, Checked, RoleReport

if TYPE_CHECKING:
    from langgraph_arbitrage.performance.bench import run_bench

__all__ = ["Bench", "Checked", "Forecast", "ReadCost", "RoleReport", "run_bench"]


def __getattr__(name: str) -> Any:
    if name == "run_bench":
        from langgraph_arbitrage.performance.bench import run_bench

        return run_bench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
