"""What is known of a router's thresholds: a table from `arbitrage calibrate`, beside the router."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal

from langgraph_arbitrage.errors import CheckpointError, SettingsError

__all__ = ["FILE", "Calibration", "Operation", "parse", "read_threshold"]

FILE = "calibration.json"
DEFAULT_LOSS = 0.01
"""What a threshold that nobody named may lose, in accuracy or score."""


@dataclass(frozen=True)
class Operation:
    """What happens at one threshold."""

    threshold: float
    """Escalate iff ŷ > this."""
    escalation_rate: float
    """Escalated steps ÷ steps."""
    wasted: float | None
    """Share of the escalations whose step of the target scores no better (s_t ≤ s_d)."""
    score: float | None
    """Mean PRM score of the steps that are taken."""
    accuracy: float | None
    """Share of right answers."""
    loss: float
    """What the target alone would gain: accuracy, or mean step score."""
    loss_bound: float
    """Upper bound on that loss with the stated confidence."""


@dataclass(frozen=True)
class Calibration:
    """A router's table, from cautious to bold: thresholds rise, escalation rates fall."""

    table: tuple[Operation, ...]
    loss_of: Literal["accuracy", "score"]
    """What a loss is measured in."""
    confidence: float
    """Of each bound."""
    questions: int
    """How many the table was measured on; none of them was used in training."""
    steps: int
    source: Literal["questions", "rows"]
    """Runs of the loop itself, or collected rows (whose prefixes another policy chose)."""
    draft: str
    target: str

    def threshold(self, wanted: str, router: str) -> float:
        """The threshold for `rate:R` or `loss:E`.

        `rate:0.3` escalates about 30 % of the steps. `loss:0.01` is the cheapest threshold whose
        loss against the target alone stays under 0.01 with the table's confidence: thresholds are
        tried from the most cautious one on, until the first whose bound is not under it (fixed
        sequence testing: Angelopoulos et al., "Learn then Test", arXiv 2110.01052).

        Args:
            wanted: What to find.
            router: The router's name, for messages.

        Raises:
            SettingsError: It is of another form, or no threshold does it.
        """
        kind, value = parse(wanted)
        return self._for_rate(value) if kind == "rate" else self._for_loss(value, router)

    def _for_rate(self, rate: float) -> float:
        """By straight lines between the table's entries."""
        before: Operation | None = None
        for here in self.table:
            if here.escalation_rate <= rate:
                if before is None or before.escalation_rate == here.escalation_rate:
                    return here.threshold
                share = (before.escalation_rate - rate) / (
                    before.escalation_rate - here.escalation_rate
                )
                return before.threshold + share * (here.threshold - before.threshold)
            before = here
        return self.table[-1].threshold

    def _for_loss(self, loss: float, router: str) -> float:
        found: float | None = None
        for here in self.table:
            if here.loss_bound > loss:
                break
            found = here.threshold
        if found is None:
            raise SettingsError(
                f"no threshold of {router} is known to lose at most {loss:g} in {self.loss_of} "
                f"with {self.confidence:.0%} confidence: it was calibrated on {self.questions} "
                f"questions, which bound the loss by {self.table[0].loss_bound:.3g} at best. Use "
                "a larger loss, or calibrate on more questions"
            )
        return found

    @property
    def default(self) -> float:
        """The cheapest threshold that is known to lose at most `DEFAULT_LOSS`, as `loss:0.01`.

        Where there were too few questions to know of any, the cheapest that lost no more in the
        calibration itself.
        """
        known = [row.threshold for row in self.table if row.loss_bound <= DEFAULT_LOSS]
        seen = [row.threshold for row in self.table if row.loss <= DEFAULT_LOSS]
        return max(known or seen, default=self.table[0].threshold)

    # --- files ---------------------------------------------------------------------------

    def save(self, router: str | Path) -> Path:
        """Write it beside a router."""
        path = Path(router) / FILE
        plain = asdict(self) | {"table": [_rounded(asdict(row)) for row in self.table]}
        path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, router: str, revision: str | None = None) -> Calibration:
        """Read the table of a router, a folder or a hub id.

        Raises:
            SettingsError: The router was not calibrated.
            CheckpointError: The table cannot be read.
        """
        found = cls.find(router, revision)
        if found is None:
            raise SettingsError(
                f"{router} has no {FILE}, by which a threshold is found: run "
                f"`arbitrage calibrate {router} QUESTIONS`, or give a number"
            )
        return found

    @classmethod
    def find(cls, router: str, revision: str | None = None) -> Calibration | None:
        """The table of a router, a folder or a hub id; None where it was not calibrated.

        Raises:
            CheckpointError: The table cannot be read.
        """
        folder = Path(router)
        path = folder / FILE if folder.is_dir() else _from_hub(router, revision)
        if path is None or not path.is_file():
            return None
        return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> Calibration:
    names = {f.name for f in fields(Operation)}
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        table = tuple(
            Operation(**{k: v for k, v in row.items() if k in names}) for row in plain["table"]
        )
        return Calibration(**{**plain, "table": table})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): run `arbitrage calibrate` again"
        ) from error


def _from_hub(router: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(hf_hub_download(router, FILE, revision=revision))
    except (EntryNotFoundError, HFValidationError):
        return None


def parse(wanted: str) -> tuple[Literal["rate", "loss"], float]:
    """A threshold that is to be found, as `rate:0.3` or `loss:0.01`.

    Raises:
        SettingsError: It is of another form.
    """
    kind, _, text = wanted.partition(":")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if kind not in ("rate", "loss") or not 0 <= value <= 1:
        raise SettingsError(
            f"threshold {wanted!r} is neither a number nor of the form rate:0.3 (share of the "
            "steps to escalate) or loss:0.01 (most that may be lost against the target alone)"
        )
    return ("rate" if kind == "rate" else "loss"), value


def read_threshold(text: str) -> float | str:
    """A threshold from a command line: a number, or `rate:R` or `loss:E`.

    Raises:
        SettingsError: It has another form.
    """
    try:
        return float(text)
    except ValueError:
        parse(text)
        return text


def _rounded(row: dict[str, float | None]) -> dict[str, float | None]:
    # Thresholds in full: a score that equals one must not fall on its other side.
    return {k: v if v is None or k == "threshold" else round(v, 6) for k, v in row.items()}
