"""Our own scorer: how surprising a step is to a small causal LM, judged by a small network.

The LM reads the question, the steps so far and the step: one short forward over a cached prefix.
Nine features of the step's token log-probabilities go through one hidden layer. On the embedded
pair this tells right steps from wrong ones, and steps worth escalating from others, far better
than a token head on the same LM does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.models.identifiers import local_path
from langgraph_arbitrage.policies.base import PastStep, ScorerRequest
from langgraph_arbitrage.scorers.base import Role, StepScore, StepScorer

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["CONFIG", "FEATURES", "SurpriseHead", "SurpriseScorer", "surprise_features"]

CONFIG = "surprise.json"
WEIGHTS = "surprise.safetensors"
SURE = 1e-6  # nats; a token more certain than this counts as so certain, for the logarithms

FEATURES = (
    "mean",  # mean log-probability of the step's tokens, in nats
    "lowest",  # the lowest of them
    "log_lowest",  # log of minus the lowest: spreads out steps that are nearly sure
    "two_lowest",  # sum of the two lowest
    "past_lowest",  # the lowest over the steps before, as each was judged; 0 at the first
    "log_past_lowest",  # log of minus that
    "most_entropy",  # highest entropy of a token's distribution, in nats
    "entropy_there",  # entropy of the distribution that the lowest token was drawn from
    "position",  # where the lowest token stands, from 0 to 1
)
"""What is read off a step, in this order."""


def surprise_features(history: Sequence[PastStep], output: ScoreOutput) -> list[float]:
    """The features of a step. A step without text is as sure as can be.

    Args:
        history: The steps before; the memory of each begins with its lowest log-probability.
        output: The LM's log-probabilities and entropies over the step's tokens.
    """
    logprobs = output.logprobs or [0.0]
    entropies = output.entropies or [0.0]
    at = min(range(len(logprobs)), key=logprobs.__getitem__)
    lowest = logprobs[at]
    past = min((step.policy_state[0] for step in history if step.policy_state), default=0.0)
    return [
        sum(logprobs) / len(logprobs),
        lowest,
        math.log(max(-lowest, SURE)),
        sum(sorted(logprobs)[:2]),
        past,
        math.log(max(-past, SURE)),
        max(entropies),
        entropies[at],
        at / len(logprobs),
    ]


@dataclass(frozen=True)
class SurpriseHead:
    """The network: standardised features [F] → GELU units [H] → one probability."""

    weights: dict[str, np.ndarray[Any, np.dtype[np.float32]]]
    """`mean` and `deviation` [F], `w1` [H, F], `b1` [H], `w2` [H], `b2` [1]."""

    def __call__(self, features: Sequence[float]) -> float:
        """The probability of class 1."""
        w = self.weights
        x = (np.asarray(features, np.float32) - w["mean"]) / w["deviation"]
        z = w["w1"] @ x + w["b1"]
        units = z * np.array(
            [0.5 * (1 + math.erf(v)) for v in (z / math.sqrt(2)).tolist()], np.float32
        )
        logit = float(w["w2"] @ units + w["b2"][0])
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))


@dataclass(frozen=True)
class SurpriseScorer(StepScorer):
    """Surprise features of a causal LM over the step, with a trained head.

    On disk: `surprise.json` with these fields and `surprise.safetensors` with the head, beside
    the name of the LM, whose own weights are not copied.
    """

    base: str
    """The causal LM: a hub id, a local folder, or `embedded:scorer`."""
    before: str
    """Text before the question, such as the chat template's."""
    after: str
    """Text between the question and the first step."""
    head: SurpriseHead | None = field(default=None, compare=False, repr=False)
    """None while it is being trained: then every step scores 0.5."""

    @property
    def base_model(self) -> str:
        """The causal LM, where it lies here."""
        return local_path(self.base)

    @property
    def kind(self) -> Literal["causal-lm"]:
        """Its own language head."""
        return "causal-lm"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Question, steps so far, step; the step's tokens are scored."""
        start = f"{self.before}{question}{self.after}"
        pieces = (start, *(past.text for past in history), step)
        return ScorerRequest(self.base_model, pieces, self.kind, scored=1)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """The head's probability; the lowest log-probability is noted for the steps after."""
        features = surprise_features(history, output)
        return StepScore(0.5 if self.head is None else self.head(features), (features[1],))

    # --- files ---------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write config and head."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = {k: v for k, v in asdict(self).items() if k not in ("model", "head")}
        text = json.dumps({**plain, "features": FEATURES}, indent=1, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        if self.head is not None:
            save_file(self.head.weights, folder / WEIGHTS)

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Read what `save` wrote.

        Args:
            model: The name that it goes by.
            folder: Where its files are.
            role: Not looked at: the files say it.

        Raises:
            CheckpointError: It is not complete, or of another version's features.
        """
        try:
            plain = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            features = tuple(plain.pop("features"))
            weights = folder / WEIGHTS
            head = _head(weights, weights.stat().st_mtime_ns)
            scorer = cls(model=model, head=head, **plain)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{model} is no whole surprise scorer: {error}") from error
        if features != FEATURES:
            raise CheckpointError(
                f"{model} was trained on the features {', '.join(features)}; this version has "
                f"{', '.join(FEATURES)}. Train it again"
            )
        return scorer


@lru_cache(maxsize=16)
def _head(path: Path, changed: int) -> SurpriseHead:
    return SurpriseHead(load_file(path))
