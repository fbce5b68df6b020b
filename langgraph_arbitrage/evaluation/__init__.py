"""Evaluate policies at several thresholds on questions with reference answers; write a report.

Names are imported on first use, so importing this package loads neither torch, sympy nor
matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_arbitrage.evaluation.comparison import Comparison, compare
    from langgraph_arbitrage.evaluation.configs import EvaluateConfig
    from langgraph_arbitrage.evaluation.dataset import Dataset, load_dataset
    from langgraph_arbitrage.evaluation.grading import Grader, grade
    from langgraph_arbitrage.evaluation.points import Lineup
    from langgraph_arbitrage.evaluation.results import load_results, results_of
    from langgraph_arbitrage.evaluation.sweep import Sweep

__all__ = [
    "Comparison",
    "Dataset",
    "EvaluateConfig",
    "Grader",
    "Lineup",
    "Sweep",
    "compare",
    "grade",
    "load_dataset",
    "load_results",
    "results_of",
]

_MODULES = {
    **dict.fromkeys(["Comparison", "compare"], "comparison"),
    "EvaluateConfig": "configs",
    **dict.fromkeys(["Dataset", "load_dataset"], "dataset"),
    **dict.fromkeys(["Grader", "grade"], "grading"),
    "Lineup": "points",
    **dict.fromkeys(["load_results", "results_of"], "results"),
    "Sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
