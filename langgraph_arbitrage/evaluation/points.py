"""What is measured: a policy at a threshold, and how thresholds are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from langgraph_arbitrage import embedded
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.evaluation.exact import ExactOracle
from langgraph_arbitrage.policies import Oracle, Policy
from langgraph_arbitrage.policies.named import POLICIES, SCORED

__all__ = ["ACCEPTS_ALL", "ASSISTED", "KINDS", "Kind", "Lineup", "Point", "explicit", "laid_out"]

ASSISTED = "assisted"


@dataclass(frozen=True)
class Kind:
    """A policy as results name it."""

    title: str
    text: str
    """What it is, for readers of the report."""


KINDS: dict[str, Kind] = {
    "router": Kind("router", "the learned router: escalates iff ŷ > τ"),
    "rsd": Kind("RSD", "reward-guided: escalates iff the PRM's s_d < τ"),
    "judge": Kind("judge", "SpecReason: the target itself grades each step below τ, from 0 to 9"),
    "confidence": Kind("confidence", "the draft's mean token probability is below τ"),
    "random": Kind("random", "blindly, with probability τ"),
    "oracle": Kind("PRM oracle", "both write every step, the PRM says Δ > τ"),
    "exact": Kind("exact oracle", "both write every step, the exact checker compares"),
    "draft": Kind("draft alone", "never escalates"),
    "target": Kind("target alone", "the target writes everything"),
    ASSISTED: Kind("token speculation", "transformers' assisted generation: lossless, by tokens"),
}
"""Everything that can be measured, in the order of the report."""

ACCEPTS_ALL = {"router": 1.0, "rsd": 0.0, "judge": 0.0, "confidence": 0.0, "oracle": 1.0}
"""The threshold of each kind at which nothing is escalated."""

FIRST_RATE, LAST_RATE, BEND = 0.08, 0.7, 1.3
"""Escalation rates of the first and the last threshold; between them they lie closer at first."""


@dataclass(frozen=True)
class Point:
    """A policy at a threshold."""

    kind: str
    threshold: float | None = None
    default: bool = False
    """Whether it is what a user gets who sets no threshold."""

    @property
    def key(self) -> str:
        """By which results name it."""
        return self.kind if self.threshold is None else f"{self.kind}@{self.threshold:.6g}"

    @property
    def title(self) -> str:
        """For tables."""
        return title_of(self.kind, self.threshold)


def title_of(kind: str, threshold: float | None) -> str:
    """A point's name for readers.

    Example:
        >>> title_of("rsd", 0.5), title_of("target", None)
        ('RSD 0.5', 'target alone')
    """
    title = KINDS[kind].title
    return title if threshold is None else f"{title} {threshold:.4g}"


@dataclass(frozen=True)
class Lineup:
    """The models that are evaluated, and what judges there are."""

    settings: ArbitrageSettings
    router: str | None = None
    prm: str | None = None
    problems: Mapping[str, embedded.Problem] | None = None
    """Embedded problems by their questions, where all questions are such."""

    @classmethod
    def of(
        cls,
        settings: ArbitrageSettings,
        router: str | None = None,
        prm: str | None = None,
        problems: Mapping[str, embedded.Problem] | None = None,
    ) -> Lineup:
        """With the embedded judges for the embedded pair, where none are named."""
        if (settings.draft, settings.target) == (embedded.DRAFT, embedded.TARGET):
            router, prm = router or "embedded:router", prm or "embedded:prm"
        return cls(settings, router, prm, problems)

    def kinds(self, wanted: str | None) -> list[str]:
        """The kinds that are named, with commas between; by default all that can be had.

        Raises:
            SettingsError: One is not known, or needs a checkpoint that is not there.
        """
        if wanted is None:
            return [kind for kind in KINDS if self._missing(kind) is None]
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        for name in names:
            if name not in KINDS:
                raise SettingsError(f"{name!r} is no policy; those known are {', '.join(KINDS)}")
            if missing := self._missing(name):
                raise SettingsError(f"{name} needs {missing}")
        if not names:
            raise SettingsError(f"no policy is named; those known are {', '.join(KINDS)}")
        return [kind for kind in KINDS if kind in names]

    def _missing(self, kind: str) -> str | None:
        option = SCORED.get(kind)
        if option and getattr(self, option) is None:
            return f"a checkpoint: --{option} CHECKPOINT"
        if kind == "exact" and self.problems is None:
            return "embedded problems, which alone have an exact checker"
        return None

    def default(self, kind: str) -> Policy:
        """The policy as it is without a threshold.

        Raises:
            CheckpointError: Its checkpoint cannot be used.
        """
        if kind == "exact":
            return ExactOracle(self.problems or {})
        option = SCORED.get(kind)
        if option is None:
            return POLICIES[kind]()
        return POLICIES[kind](getattr(self, option))  # type: ignore[call-arg]

    def policy(self, point: Point) -> Policy:
        """The policy of a point."""
        policy = self.default(point.kind)
        return policy if point.threshold is None else policy.with_threshold(point.threshold)

    def threshold(self, kind: str) -> float | None:
        """The threshold that a policy has by default; None where it has none."""
        policy = self.default(kind)
        name = policy.threshold_field
        return None if name is None else float(getattr(policy, name))


def explicit(given: Iterable[str], kinds: Sequence[str]) -> dict[str, list[float]]:
    """Thresholds that were named, by policy.

    Args:
        given: `rsd=0.3,0.5`, each policy once or more.
        kinds: The policies that are measured.

    Example:
        >>> explicit(["rsd=0.3,0.5"], ["rsd", "draft"])
        {'rsd': [0.3, 0.5]}

    Raises:
        SettingsError: It is of another form, or names another policy.
    """
    found: dict[str, list[float]] = {}
    for text in given:
        kind, _, numbers = text.partition("=")
        try:
            values = [float(number) for number in numbers.split(",") if number.strip()]
        except ValueError:
            values = []
        if not values:
            raise SettingsError(
                f"thresholds are given as POLICY=X,Y,…, such as rsd=0.3,0.5; not {text!r}"
            )
        if kind not in kinds:
            raise SettingsError(f"{text!r}: {kind!r} is none of the policies {', '.join(kinds)}")
        found.setdefault(kind, []).extend(values)
    return found


def rates(points: int) -> list[float]:
    """Escalation rates for so many thresholds.

    Example:
        >>> [round(rate, 2) for rate in rates(4)]
        [0.08, 0.23, 0.45, 0.7]
    """
    if points == 1:
        return [(FIRST_RATE + LAST_RATE) / 2]
    spread = LAST_RATE - FIRST_RATE
    return [FIRST_RATE + spread * (i / (points - 1)) ** BEND for i in range(points)]


def laid_out(policy: Policy, scores: Sequence[float], points: int) -> list[float]:
    """Thresholds that escalate from few to most of the steps with these scores.

    They lie halfway between two scores. An oracle's are at least 0: below that it would take the
    worse step.
    """
    ordered = sorted(set(scores))
    cuts = [(low + high) / 2 for low, high in pairwise(ordered)]
    if isinstance(policy, Oracle):
        cuts = [cut for cut in cuts if cut >= 0]
    if not cuts:
        return []
    shares = {cut: _rate(policy, cut, scores) for cut in cuts}
    nearest = {min(cuts, key=lambda cut: abs(shares[cut] - rate)) for rate in rates(points)}
    return sorted(float(f"{cut:.4g}") for cut in nearest)


def _rate(policy: Policy, threshold: float, scores: Sequence[float]) -> float:
    at = policy.with_threshold(threshold)
    return sum(at.escalates(score) for score in scores) / len(scores)
