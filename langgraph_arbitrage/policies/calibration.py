"""The calibration table of a router, written by `arbitrage calibrate` to the router's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal

from langgraph_arbitrage.errors import CheckpointError, SettingsError

__all__ = ["FILE", "Calibration", "OperatingPoint", "parse_threshold_rule", "read_threshold"]

FILE = "calibration.json"
DEFAULT_LOSS = 0.01
"""Maximum loss of the default threshold, in accuracy or score."""


@dataclass(frozen=True)
class OperatingPoint:
    """Measurements at one threshold."""

    threshold: float
    """Threshold τ: a step is escalated if ŷ > τ."""
    escalation_rate: float
    """Fraction of steps that are escalated."""
    wasted: float | None
    """Fraction of escalations whose target step does not score higher (s_t ≤ s_d). None without
    PRM scores or escalations."""
    score: float | None
    """Mean PRM score of the committed steps; None if they were not scored."""
    accuracy: float | None
    """Fraction of correct answers; None if answers were not graded."""
    loss: float
    """Accuracy or mean step score of the target alone, minus that at this threshold."""
    loss_bound: float
    """Upper bound on `loss` at the table's confidence level."""


@dataclass(frozen=True)
class Calibration:
    """Operating points of a router, ordered by rising threshold and falling escalation rate."""

    table: tuple[OperatingPoint, ...]
    loss_of: Literal["accuracy", "score"]
    """Metric of the losses."""
    confidence: float
    """Confidence level of each `loss_bound`, in (0, 1)."""
    questions: int
    """Number of questions measured. None of them was used in training."""
    steps: int
    """Number of steps measured."""
    source: Literal["questions", "rows"]
    """`questions`: measured in runs of the loop. `rows`: measured on collected rows, whose prefixes
    come from another policy."""
    draft: str
    """Draft checkpoint."""
    target: str
    """Target checkpoint."""

    def threshold(self, rule: str, router: str) -> float:
        """Select the threshold for `rate:R` or `loss:E`.

        `rate:0.3` escalates about 30 % of the steps. `loss:0.01` is the cheapest threshold whose
        loss relative to the target alone is at most 0.01 at the table's confidence level.
        Thresholds are tested in rising order and the search stops at the first bound above the
        limit (fixed sequence testing: Angelopoulos et al., "Learn then Test", arXiv 2110.01052).

        Args:
            rule: `rate:R` or `loss:E`.
            router: Name of the router, for error messages.

        Raises:
            SettingsError: The rule is malformed, or no threshold satisfies it.
        """
        kind, value = parse_threshold_rule(rule)
        return self._for_rate(value) if kind == "rate" else self._for_loss(value, router)

    def _for_rate(self, rate: float) -> float:
        """Interpolate linearly between the operating points."""
        before: OperatingPoint | None = None
        for point in self.table:
            if point.escalation_rate <= rate:
                if before is None or before.escalation_rate == point.escalation_rate:
                    return point.threshold
                share = (before.escalation_rate - rate) / (
                    before.escalation_rate - point.escalation_rate
                )
                return before.threshold + share * (point.threshold - before.threshold)
            before = point
        return self.table[-1].threshold

    def _for_loss(self, loss: float, router: str) -> float:
        threshold: float | None = None
        for point in self.table:
            if point.loss_bound > loss:
                break
            threshold = point.threshold
        if threshold is None:
            raise SettingsError(
                f"no threshold of {router} has a {self.loss_of} loss of at most {loss:g} at "
                f"{self.confidence:.0%} confidence: calibration on {self.questions} questions "
                f"bounds the loss by {self.table[0].loss_bound:.3g} at best. Allow a larger loss, "
                "or calibrate on more questions"
            )
        return threshold

    @property
    def default(self) -> float:
        """The cheapest threshold whose loss bound is at most `DEFAULT_LOSS`.

        With too few questions, no bound may be that low. The default is then the cheapest
        threshold whose measured loss is at most `DEFAULT_LOSS`.
        """
        bounded = [point.threshold for point in self.table if point.loss_bound <= DEFAULT_LOSS]
        measured = [point.threshold for point in self.table if point.loss <= DEFAULT_LOSS]
        return max(bounded or measured, default=self.table[0].threshold)

    # --- files ---------------------------------------------------------------------------

    def save(self, router: str | Path) -> Path:
        """Write the table to the router's folder and return its path."""
        path = Path(router) / FILE
        plain = asdict(self) | {"table": [_rounded(asdict(row)) for row in self.table]}
        path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, router: str, revision: str | None = None) -> Calibration:
        """Load the table of a router.

        Args:
            router: A local folder or a Hub id.
            revision: Revision on the Hub.

        Raises:
            SettingsError: The router has no table.
            CheckpointError: The table cannot be read.
        """
        calibration = cls.find(router, revision)
        if calibration is None:
            raise SettingsError(
                f"{router} has no {FILE} to select a threshold from. Run "
                f"`arbitrage calibrate {router} QUESTIONS`, or set the threshold to a number"
            )
        return calibration

    @classmethod
    def find(cls, router: str, revision: str | None = None) -> Calibration | None:
        """Load the table of a router, or return None if the router has none.

        Args:
            router: A local folder or a Hub id.
            revision: Revision on the Hub.

        Raises:
            CheckpointError: The table cannot be read.
        """
        folder = Path(router)
        path = folder / FILE if folder.is_dir() else _from_hub(router, revision)
        if path is None or not path.is_file():
            return None
        return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, mtime_ns: int) -> Calibration:
    # The modification time is part of the cache key, so that a new table is read again.
    names = {f.name for f in fields(OperatingPoint)}
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        table = tuple(
            OperatingPoint(**{k: v for k, v in row.items() if k in names}) for row in plain["table"]
        )
        return Calibration(**{**plain, "table": table})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a valid calibration table: {error}. Run `arbitrage calibrate` again"
        ) from error


def _from_hub(router: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(hf_hub_download(router, FILE, revision=revision))
    except (EntryNotFoundError, HFValidationError):
        return None


def parse_threshold_rule(rule: str) -> tuple[Literal["rate", "loss"], float]:
    """Parse a threshold rule, `rate:0.3` or `loss:0.01`, into its kind and value.

    Raises:
        SettingsError: The rule is malformed or its value is outside [0, 1].
    """
    kind, _, text = rule.partition(":")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if kind not in ("rate", "loss") or not 0 <= value <= 1:
        raise SettingsError(
            f"invalid threshold {rule!r}: set a number, rate:R (fraction of steps to escalate, "
            "such as rate:0.3) or loss:E (maximum loss relative to the target alone, such as "
            "loss:0.01), with R and E in [0, 1]"
        )
    return ("rate" if kind == "rate" else "loss"), value


def read_threshold(text: str) -> float | str:
    """Parse a threshold from the command line: a number, `rate:R` or `loss:E`.

    Raises:
        SettingsError: The text is none of these.
    """
    try:
        return float(text)
    except ValueError:
        parse_threshold_rule(text)
        return text


def _rounded(row: dict[str, float | None]) -> dict[str, float | None]:
    # Thresholds stay unrounded: rounding could flip the comparison with an equal score.
    return {k: v if v is None or k == "threshold" else round(v, 6) for k, v in row.items()}
