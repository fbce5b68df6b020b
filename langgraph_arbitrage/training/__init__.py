"""Rows, routers, PRMs and thresholds for one's own pair of models.

Collect rows, train a router on them, calibrate its threshold: a config and what works by it, as a
pair. README.md beside this file has the commands that made the embedded router.

Importing this package is cheap: what needs torch is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_arbitrage.training.bounds import loss_bound
    from langgraph_arbitrage.training.calibrate import Calibrator, calibrate_rows, unseen
    from langgraph_arbitrage.training.card import TrainingRecord
    from langgraph_arbitrage.training.collect import Collected, Collector
    from langgraph_arbitrage.training.configs import (
        CalibrateConfig,
        CollectConfig,
        SurpriseConfig,
        TokenConfig,
    )
    from langgraph_arbitrage.training.examples import (
        Example,
        Labelled,
        prm_examples,
        router_examples,
    )
    from langgraph_arbitrage.training.job import Job
    from langgraph_arbitrage.training.overview import summary
    from langgraph_arbitrage.training.questions import Question, load_questions, question_id
    from langgraph_arbitrage.training.rows import Row, RowFile, read_rows, read_verdicts
    from langgraph_arbitrage.training.trainer import first_process, push, train
    from langgraph_arbitrage.training.verdict import replay

__all__ = [
    "CalibrateConfig",
    "Calibrator",
    "CollectConfig",
    "Collected",
    "Collector",
    "Example",
    "Job",
    "Labelled",
    "Question",
    "Row",
    "RowFile",
    "SurpriseConfig",
    "TokenConfig",
    "TrainingRecord",
    "calibrate_rows",
    "first_process",
    "load_questions",
    "loss_bound",
    "prm_examples",
    "push",
    "question_id",
    "read_rows",
    "read_verdicts",
    "replay",
    "router_examples",
    "summary",
    "train",
    "unseen",
]

_HOMES = {
    "loss_bound": "bounds",
    **dict.fromkeys(["Calibrator", "calibrate_rows", "unseen"], "calibrate"),
    "TrainingRecord": "card",
    **dict.fromkeys(["Collected", "Collector"], "collect"),
    **dict.fromkeys(
        ["CalibrateConfig", "CollectConfig", "SurpriseConfig", "TokenConfig"], "configs"
    ),
    **dict.fromkeys(["Example", "Labelled", "prm_examples", "router_examples"], "examples"),
    "Job": "job",
    **dict.fromkeys(["Question", "load_questions", "question_id"], "questions"),
    **dict.fromkeys(["Row", "RowFile", "read_rows", "read_verdicts"], "rows"),
    "summary": "overview",
    **dict.fromkeys(["first_process", "push", "train"], "trainer"),
    "replay": "verdict",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
