"""The surprise scorer: a small network on a small causal LM's log-probabilities of the step.

The LM reads the question, the committed steps and the step in one forward with a cached prefix. A
network with one hidden layer scores nine features of the step's token log-probabilities. On the
embedded pair, it is much more accurate than a token classification head on the same LM, both as a
PRM and as a router.
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
MIN_SURPRISE = 1e-6  # nats; lower bound on -log p, so that its logarithm is finite

FEATURES = (
    "mean",  # mean log-probability of the step's tokens, in nats
    "lowest",  # lowest log-probability of the step's tokens, in nats
    "log_lowest",  # log(-lowest), which separates values near 0
    "two_lowest",  # sum of the two lowest log-probabilities
    "past_lowest",  # `lowest` over the previous steps; 0 for the first step
    "log_past_lowest",  # log(-past_lowest)
    "most_entropy",  # highest entropy of a next-token distribution, in nats
    "entropy_there",  # entropy of the distribution at the token with the lowest log-probability
    "position",  # relative position of that token, in [0, 1)
)
"""Names of the features, in the order of the head's input."""


def surprise_features(history: Sequence[PastStep], output: ScoreOutput) -> list[float]:
    """Compute the features [F] of a step. An empty step counts as one token of probability 1.

    Args:
        history: Previous steps. The first number of each `policy_state` is the step's `lowest`.
        output: The LM's log-probabilities and entropies of the step's tokens, in nats.
    """
    logprobs = output.logprobs or [0.0]
    entropies = output.entropies or [0.0]
    at = min(range(len(logprobs)), key=logprobs.__getitem__)
    lowest = logprobs[at]
    past = min((step.policy_state[0] for step in history if step.policy_state), default=0.0)
    return [
        sum(logprobs) / len(logprobs),
        lowest,
        math.log(max(-lowest, MIN_SURPRISE)),
        sum(sorted(logprobs)[:2]),
        past,
        math.log(max(-past, MIN_SURPRISE)),
        max(entropies),
        entropies[at],
        at / len(logprobs),
    ]


@dataclass(frozen=True)
class SurpriseHead:
    """The network: standardized features [F] → GELU units [H] → probability."""

    weights: dict[str, np.ndarray[Any, np.dtype[np.float32]]]
    """`mean` and `deviation` [F], `w1` [H, F], `b1` [H], `w2` [H], `b2` [1]."""

    def __call__(self, features: Sequence[float]) -> float:
        """Compute the probability of class 1 from features [F]."""
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
    """Scores surprise features of a causal LM with a trained head.

    The checkpoint consists of `surprise.json` with these fields and `surprise.safetensors` with
    the head. It refers to the LM by name and does not contain its weights.
    """

    base: str
    """Checkpoint of the causal LM: a Hub id, a local folder or `embedded:scorer`."""
    before: str
    """Text before the question, such as the start of a chat template's user turn."""
    after: str
    """Text between the question and the first step."""
    head: SurpriseHead | None = field(default=None, compare=False, repr=False)
    """The trained head. None during training: every step then scores 0.5."""

    @property
    def base_model(self) -> str:
        """The causal LM, with an embedded name resolved to its local folder."""
        return local_path(self.base)

    @property
    def kind(self) -> Literal["causal-lm"]:
        """The LM's own language head."""
        return "causal-lm"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build a request for the log-probabilities of the step's tokens."""
        start = f"{self.before}{question}{self.after}"
        pieces = (start, *(past.text for past in history), step)
        return ScorerRequest(self.base_model, pieces, self.kind, scored=1)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Apply the head and store the step's lowest log-probability for later steps."""
        features = surprise_features(history, output)
        return StepScore(0.5 if self.head is None else self.head(features), (features[1],))

    # --- files ---------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the configuration and the head to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = {k: v for k, v in asdict(self).items() if k not in ("model", "head")}
        text = json.dumps({**plain, "features": FEATURES}, indent=1, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        if self.head is not None:
            save_file(self.head.weights, folder / WEIGHTS)

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Load a scorer written by `save`.

        Args:
            model: Checkpoint: a local folder or a Hub id.
            folder: Folder with the checkpoint's files.
            role: Ignored: the files specify the role.

        Raises:
            CheckpointError: A file is missing or invalid, or the features differ from `FEATURES`.
        """
        try:
            plain = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            features = tuple(plain.pop("features"))
            weights = folder / WEIGHTS
            head = _head(weights, weights.stat().st_mtime_ns)
            scorer = cls(model=model, head=head, **plain)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{model} is not a valid surprise scorer: {error}") from error
        if features != FEATURES:
            raise CheckpointError(
                f"{model} was trained on the features {', '.join(features)}, but this version "
                f"computes {', '.join(FEATURES)}. Train the scorer again"
            )
        return scorer


@lru_cache(maxsize=16)
def _head(path: Path, mtime_ns: int) -> SurpriseHead:
    # The modification time is part of the cache key, so that a new head is read again.
    return SurpriseHead(load_file(path))
