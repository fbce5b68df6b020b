"""What stands beside a trained checkpoint: a model card, and what it was trained on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from langgraph_arbitrage.errors import DataError

__all__ = ["FILE", "TrainingRecord", "write_card"]

FILE = "training.json"

FIGURES = {
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
    """What a router or a PRM was made of; `training.json` beside it."""

    role: Literal["router", "prm"]
    head: str
    base: str
    """The model that reads the steps, or that was fine-tuned."""
    draft: str | None
    target: str | None
    """The pair whose steps it was trained on; a router knows no other."""
    prm: str | None
    """Who scored the steps."""
    rows: int
    """In training, before balancing."""
    too_long: int
    """Rows that the base cannot read, left out."""
    config: dict[str, Any]
    metrics: dict[str, float]
    """On held-out questions."""
    questions: list[str] = field(default_factory=list)
    """Hashes of the questions seen, in training and in the held-out figures."""

    def save(self, folder: Path) -> None:
        """Write it; figures that are not defined become null."""
        plain = asdict(self)
        plain["metrics"] = {
            k: None if math.isnan(v) else round(v, 4) for k, v in self.metrics.items()
        }
        text = json.dumps(plain, indent=1, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def figures(self) -> list[tuple[str, str]]:
        """The figures as one reads them."""
        known = [k for k in FIGURES if k in self.metrics]
        return [(FIGURES[k], _shown(k, self.metrics[k])) for k in known]

    @staticmethod
    def questions_of(checkpoint: Path) -> set[str]:
        """Hashes of the questions that a checkpoint has seen; none where it does not say.

        Raises:
            DataError: Its record cannot be read.
        """
        path = checkpoint / FILE
        if not path.is_file():
            return set()
        try:
            questions = set(json.loads(path.read_text(encoding="utf-8"))["questions"])
        except (ValueError, KeyError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        return questions


def write_card(folder: Path, record: TrainingRecord) -> None:
    """Write README.md: what it is, for which pair, how good, how it was made, how it is used."""
    router = record.role == "router"
    pair = f"`{record.draft}` / `{record.target}`"
    title = f"Router for {pair}" if router else f"Process reward model on `{record.base}`"
    about = (
        "Reads a question, the steps so far and a step of the draft, and says how probable it is "
        f"that the target would write a better one. For the pair {pair} only: another pair has "
        "other strengths."
        if router
        else "Reads a question and the steps so far, and says how probable it is that the next "
        "step is right."
    )
    models = "" if (record.draft or "").startswith("embedded:") else _pair_arguments(record)
    judge = (
        f'router="{folder.name}", threshold="rate:0.3"'
        if router
        else f'router=RSD("{folder.name}")'
    )
    names = "ChatArbitrage" if router else "RSD, ChatArbitrage"
    use = f"from langgraph_arbitrage import {names}\n\nllm = ChatArbitrage({models}{judge})"
    data = (
        f"{record.rows:,} steps of {len(record.questions):,} questions (those held out included), "
        f"written by {pair}, scored by `{record.prm}`. The held-out questions are other ones than "
        "those trained on."
    )
    classes = (
        "Class 1: the target's step is better."
        if router
        else "Class 1: the step is right, class 0: it is wrong."
    )
    figures = [f"| {text} | {figure} |" for text, figure in record.figures()]
    options = [f"| {k} | {v} |" for k, v in record.config.items() if v is not None]
    lines = [
        "---",
        "library_name: langgraph_arbitrage",
        f"tags: [arbitrage, {record.role}, {record.head}]",
        "---",
        "",
        f"# {title}",
        "",
        about,
        "",
        "## Use",
        "",
        "```python",
        use,
        "```",
        "",
        "## Data",
        "",
        data,
        "",
        "## Figures on held-out questions",
        "",
        classes,
        "",
        "| | |",
        "|---|---|",
        *figures,
        "",
        "## Made with",
        "",
        f"`arbitrage train-{record.role} --head {record.head}` on `{record.base}`",
        "",
        "| option | value |",
        "|---|---|",
        *options,
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _shown(key: str, value: float) -> str:
    return f"{value:,.0f}" if key == "n" else "–" if math.isnan(value) else f"{value:.3f}"


def _pair_arguments(record: TrainingRecord) -> str:
    return f'draft="{record.draft or "…"}", target="{record.target or "…"}", '
