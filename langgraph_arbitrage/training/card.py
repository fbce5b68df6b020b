"""The model card of a trained checkpoint, and the record of its training data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.models.identifiers import public_name

__all__ = ["FILE", "TrainingRecord", "write_card"]

FILE = "training.json"

METRIC_LABELS = {
    "n": "held-out steps",
    "positives": "share of class 1",
    "rho": "Spearman's ρ with Δ",
    "auc": "ROC-AUC",
    "accuracy_0": "accuracy on class 0",
    "accuracy_1": "accuracy on class 1",
    "balanced_accuracy": "balanced accuracy",
    "ece": "calibration error (ECE, 10 bins)",
}


@dataclass(frozen=True)
class TrainingRecord:
    """The data, options and metrics of a trained router or PRM, stored as `training.json`."""

    role: Literal["router", "prm"]
    head: str
    base: str
    """The base model: the frozen LM of a surprise head, or the model that was fine-tuned."""
    draft: str | None
    target: str | None
    """The draft and the target that wrote the training steps. A router fits this pair only."""
    prm: str | None
    """The PRM that scored the steps, or `checker`."""
    rows: int
    """Number of training rows before balancing."""
    too_long: int
    """Number of rows left out because they exceed the base model's context length."""
    config: dict[str, Any]
    metrics: dict[str, float]
    """Metrics on the held-out questions."""
    questions: list[str] = field(default_factory=list)
    """Ids of all questions, both training and held-out ones."""

    def save(self, folder: Path) -> None:
        """Write `training.json`; undefined metrics become null."""
        record = asdict(self)
        record["metrics"] = {
            k: None if math.isnan(v) else round(v, 4) for k, v in self.metrics.items()
        }
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def formatted_metrics(self) -> list[tuple[str, str]]:
        """Return the labels and formatted values of the metrics."""
        names = [k for k in METRIC_LABELS if k in self.metrics]
        return [(METRIC_LABELS[k], _formatted(k, self.metrics[k])) for k in names]

    @staticmethod
    def question_ids(checkpoint: Path) -> set[str]:
        """Read the ids of the questions that a checkpoint's training used.

        The result is empty if the checkpoint has no `training.json`.

        Raises:
            DataError: The file cannot be read.
        """
        path = checkpoint / FILE
        if not path.is_file():
            return set()
        try:
            ids = set(json.loads(path.read_text(encoding="utf-8"))["questions"])
        except (ValueError, KeyError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        return ids


def write_card(folder: Path, record: TrainingRecord) -> None:
    """Write a checkpoint's model card, `README.md`."""
    router = record.role == "router"
    pair = f"`{record.draft}` / `{record.target}`"
    title = f"Router for {pair}" if router else f"Process reward model on `{record.base}`"
    description = (
        "Given a question, the steps so far and a step of the draft, this model estimates the "
        f"probability that the target would write a better step. It fits the pair {pair} only."
        if router
        else "Given a question and the steps so far, this model estimates the probability that the "
        "next step is right."
    )
    models = "" if (record.draft or "").startswith("embedded:") else _pair_arguments(record)
    name = public_name(str(folder))
    scorer = f'router="{name}", threshold="rate:0.3"' if router else f'router=RSD("{name}")'
    names = "ChatArbitrage" if router else "RSD, ChatArbitrage"
    use = f"from langgraph_arbitrage import {names}\n\nllm = ChatArbitrage({models}{scorer})"
    data = (
        f"{record.rows:,} training steps, written by {pair} and scored by `{record.prm}`. Training "
        f"and held-out steps come from {len(record.questions):,} questions. No question is in both "
        "sets."
    )
    classes = (
        "Class 1: the target's step is better."
        if router
        else "Class 1: the step is right. Class 0: the step is wrong."
    )
    metrics = [f"| {label} | {value} |" for label, value in record.formatted_metrics()]
    options = [f"| {k} | {v} |" for k, v in record.config.items() if v is not None]
    lines = [
        "---",
        "library_name: langgraph_arbitrage",
        f"tags: [arbitrage, {record.role}, {record.head}]",
        "---",
        "",
        f"# {title}",
        "",
        description,
        "",
        "## Usage",
        "",
        "```python",
        use,
        "```",
        "",
        "## Training data",
        "",
        data,
        "",
        "## Metrics on held-out questions",
        "",
        classes,
        "",
        "| metric | value |",
        "|---|---|",
        *metrics,
        "",
        "## Training",
        "",
        f"`arbitrage train-{record.role} --head {record.head}` on `{record.base}`",
        "",
        "| option | value |",
        "|---|---|",
        *options,
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _formatted(key: str, value: float) -> str:
    return f"{value:,.0f}" if key == "n" else "–" if math.isnan(value) else f"{value:.3f}"


def _pair_arguments(record: TrainingRecord) -> str:
    return f'draft="{record.draft or "…"}", target="{record.target or "…"}", '
