"""Train and calibrate routers and PRMs for your own pair of models.

The stages are: collect rows, train a router on the rows, calibrate the router's threshold. Each
stage has a config class and a function or class that uses it. README.md in this folder lists the
commands that made the embedded router.

Importing this package does not import torch: submodules are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_arbitrage.training.bounds import loss_bound
    from langgraph_arbitrage.training.calibrate import Calibrator, calibrate_rows, exclude_seen
    from langgraph_arbitrage.training.card import TrainingRecord
    from langgraph_arbitrage.training.collect import CollectionResult, Collector
    from langgraph_arbitrage.training.configs import (
        CalibrateConfig,
        CollectConfig,
        SurpriseConfig,
        TokenConfig,
    )
    from langgraph_arbitrage.training.examples import (
        Example,
        TrainingData,
        prm_examples,
        router_examples,
    )
    from langgraph_arbitrage.training.job import Job
    from langgraph_arbitrage.training.overview import summary
    from langgraph_arbitrage.training.questions import Question, load_questions, question_id
    from langgraph_arbitrage.training.rows import Row, RowFile, read_labelled_steps, read_rows
    from langgraph_arbitrage.training.step_grader import score_examples
    from langgraph_arbitrage.training.trainer import is_main_process, push_to_hub, train

__all__ = [
    "CalibrateConfig",
    "Calibrator",
    "CollectConfig",
    "CollectionResult",
    "Collector",
    "Example",
    "Job",
    "Question",
    "Row",
    "RowFile",
    "SurpriseConfig",
    "TokenConfig",
    "TrainingData",
    "TrainingRecord",
    "calibrate_rows",
    "exclude_seen",
    "is_main_process",
    "load_questions",
    "loss_bound",
    "prm_examples",
    "push_to_hub",
    "question_id",
    "read_labelled_steps",
    "read_rows",
    "router_examples",
    "score_examples",
    "summary",
    "train",
]

_MODULES = {
    "loss_bound": "bounds",
    **dict.fromkeys(["Calibrator", "calibrate_rows", "exclude_seen"], "calibrate"),
    "TrainingRecord": "card",
    **dict.fromkeys(["CollectionResult", "Collector"], "collect"),
    **dict.fromkeys(
        ["CalibrateConfig", "CollectConfig", "SurpriseConfig", "TokenConfig"], "configs"
    ),
    **dict.fromkeys(["Example", "TrainingData", "prm_examples", "router_examples"], "examples"),
    "Job": "job",
    **dict.fromkeys(["Question", "load_questions", "question_id"], "questions"),
    **dict.fromkeys(["Row", "RowFile", "read_labelled_steps", "read_rows"], "rows"),
    "summary": "overview",
    **dict.fromkeys(["is_main_process", "push_to_hub", "train"], "trainer"),
    "score_examples": "step_grader",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
