"""Evaluation: questions with answers, policies and thresholds swept over them, and the report.

Importing this package is cheap: what needs torch, sympy or matplotlib is imported at its first use.
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

_HOMES = {
    **dict.fromkeys(["Comparison", "compare"], "comparison"),
    "EvaluateConfig": "configs",
    **dict.fromkeys(["Dataset", "load_dataset"], "dataset"),
    **dict.fromkeys(["Grader", "grade"], "grading"),
    "Lineup": "points",
    **dict.fromkeys(["load_results", "results_of"], "results"),
    "Sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
