"""Token and sequence classifiers, read at a step's last token: the paper's router and TRL's PRMs.

Source: the paper's section on router training; TRL's `PRMTrainer` for the two labels of a PRM.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.policies.base import PastStep, ScorerRequest, Writer
from langgraph_arbitrage.scorers.base import Role, StepScore, StepScorer, softmax

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["CONFIG", "SequenceScorer", "TokenScorer"]

CONFIG = "router.json"
SEPARATOR = "\n\n"

TAGS: dict[Writer, str] = {"draft": "Model 0: ", "target": "Model 1: "}
"""Tags that the paper prepends to each step to identify its writer."""


@dataclass(frozen=True)
class TokenScorer(StepScorer):
    """Classifies the last token of the problem, a newline and the steps with their separators.

    The value is the total probability of the upper half of the labels. With two labels, it is the
    probability of label 1.
    """

    tagged: bool = False
    """Prepend `TAGS` to each step. The step to score is tagged as the draft's."""

    @property
    def kind(self) -> Literal["token-classification", "sequence-classification"]:
        """A classification head on every token."""
        return "token-classification"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build the paper's format, with one piece per step."""
        past = (self._piece(each.writer, each.text) for each in history)
        return ScorerRequest(
            self.model, (f"{question}\n", *past, self._piece("draft", step)), self.kind
        )

    def _piece(self, writer: Writer, text: str) -> str:
        tag = TAGS[writer] if self.tagged else ""
        # Heads were trained at the separator, which the last step of an answer lacks.
        return tag + (text if text.endswith("\n") else text + SEPARATOR)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Sum the softmax over the upper half of the labels; with one label, apply the sigmoid."""
        if len(output.logits) == 1:
            return StepScore(softmax([0.0, output.logits[0]])[1])
        probabilities = softmax(output.logits)  # [labels]
        return StepScore(math.fsum(probabilities[len(probabilities) // 2 :]))

    # --- files ---------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the fields to the model's folder."""
        plain = {k: v for k, v in asdict(self).items() if k != "model"}
        (folder / CONFIG).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Load the fields written by `save`, if present, and check the labels.

        Public checkpoints lack the file. A router without it uses tags, the paper's default.

        Raises:
            CheckpointError: A file cannot be read, or the labels do not match the role.
        """
        path = folder / CONFIG
        try:
            plain: dict[str, Any] = {"role": role, "tagged": role == "router"}
            if path.is_file():
                plain = json.loads(path.read_text(encoding="utf-8"))
            scorer = cls(model, **plain)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{model} cannot be read as a {cls.__name__}: {error}") from error
        scorer._check_labels(config)
        return scorer

    def _check_labels(self, config: dict[str, Any]) -> None:
        names = list((config.get("id2label") or {}).values())
        count = len(names) or int(config.get("num_labels") or 2)
        single = self.kind == "sequence-classification" and self.role == "prm"
        if (self.role == "prm" and count == 2) or (single and count == 1):
            return
        if self.role == "router" and count % 2 == 0:
            return
        allowed = (
            "2 (1: the target's step is better) or an even number of advantage classes"
            if self.role == "router"
            else f"2 (0: incorrect step, 1: correct step){', or 1' * single}"
        )
        listed = f" ({', '.join(map(str, names[:6]))})" if names else ""
        raise CheckpointError(
            f"{self.model} has {count} label{'s' * (count != 1)}{listed}, but a {self.role} "
            f"of kind {self.kind} must have {allowed}. Use another checkpoint or role"
        )


@dataclass(frozen=True)
class SequenceScorer(TokenScorer):
    """Scores the same text with a sequence classification head, applied to the last token."""

    @property
    def kind(self) -> Literal["token-classification", "sequence-classification"]:
        """A classification head on the last token."""
        return "sequence-classification"
