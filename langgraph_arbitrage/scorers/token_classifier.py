"""A classifier over the reasoning, read at a step's last token: the paper's router, TRL's PRMs.

Source: the paper's section on router training; `PRMTrainer` of TRL for the two labels of a PRM.
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
"""What the paper puts before each step: who wrote it."""


@dataclass(frozen=True)
class TokenScorer(StepScorer):
    """Problem, newline, steps with their separators; label probabilities at the last token.

    The value is the probability of the upper half of the labels: of label 1 where there are two.
    """

    tagged: bool = False
    """Whether each step is headed by who wrote it; the step that is judged counts as the
    draft's."""

    @property
    def kind(self) -> Literal["token-classification", "sequence-classification"]:
        """A head at each token."""
        return "token-classification"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """The paper's text, one piece a step."""
        past = (self._piece(each.writer, each.text) for each in history)
        return ScorerRequest(
            self.model, (f"{question}\n", *past, self._piece("draft", step)), self.kind
        )

    def _piece(self, writer: Writer, text: str) -> str:
        tag = TAGS[writer] if self.tagged else ""
        # The last step of an answer lacks the separator at which heads were trained.
        return tag + (text if text.endswith("\n") else text + SEPARATOR)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Softmax over the labels, summed over the upper half; sigmoid of a single label."""
        if len(output.logits) == 1:
            return StepScore(softmax([0.0, output.logits[0]])[1])
        spread = softmax(output.logits)
        return StepScore(math.fsum(spread[len(spread) // 2 :]))

    # --- files ---------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the fields beside the model."""
        plain = {k: v for k, v in asdict(self).items() if k != "model"}
        (folder / CONFIG).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Read what `save` wrote; a public checkpoint has no such file.

        Without it a router is taken for one with tagged history, the paper's default.

        Raises:
            CheckpointError: The file cannot be read, or the labels do not fit.
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
            "two (1: the target's step is better), or an even number of classes of the advantage"
            if self.role == "router"
            else f"two (0: the step is wrong, 1: it is right){', or one' * single}"
        )
        told = f" ({', '.join(map(str, names[:6]))})" if names else ""
        raise CheckpointError(
            f"the labels of {self.model} do not fit: it has {count}{told}, and a {self.role} of "
            f"kind {self.kind} has {allowed}"
        )


@dataclass(frozen=True)
class SequenceScorer(TokenScorer):
    """The same from a head for whole sequences, which sits on their last token."""

    @property
    def kind(self) -> Literal["token-classification", "sequence-classification"]:
        """A head at the last token."""
        return "sequence-classification"
