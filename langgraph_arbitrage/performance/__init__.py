"""Measure a pair of models on this machine and forecast the speed-up of the loop.

- `device` measures memory bandwidth and compute rate,
- `costs` measures the models through the engine,
- `step_pairs` generates steps with both models after the same prefixes,
- `forecast` computes the times of the loop from the measured costs,
- `bench` runs all measurements for `arbitrage bench`,
- `report` holds the results.

Importing this package does not load torch.
"""

from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.performance.forecast import Forecast, ReadCost
from langgraph_arbitrage.performance.report import Bench, ForecastCheck, RoleReport

if TYPE_CHECKING:
    from langgraph_arbitrage.performance.bench import run_bench

__all__ = ["Bench", "Forecast", "ForecastCheck", "ReadCost", "RoleReport", "run_bench"]


def __getattr__(name: str) -> Any:
    if name == "run_bench":
        from langgraph_arbitrage.performance.bench import run_bench

        return run_bench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
