"""The points of a sweep: policies at thresholds, and how the thresholds are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from langgraph_arbitrage import embedded
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.evaluation.exact import ExactOracle
from langgraph_arbitrage.policies import Oracle, Policy
from langgraph_arbitrage.policies.named import POLICIES, SCORER_ROLES

__all__ = [
    "ASSISTED",
    "KINDS",
    "Kind",
    "Lineup",
    "Point",
    "explicit",
    "rates",
    "spread_thresholds",
    "title_of",
]

ASSISTED = "assisted"


@dataclass(frozen=True)
class Kind:
    """Title and description of a policy in tables and reports."""

    title: str
    text: str
    """Description of the policy."""


KINDS: dict[str, Kind] = {
    "router": Kind("router", "the learned router: escalates iff ŷ > τ"),
    "rsd": Kind("RSD", "reward-guided: escalates iff the PRM's score s_d < τ"),
    "judge": Kind("judge", "SpecReason: escalates iff the target's grade, from 0 to 9, is below τ"),
    "likelihood": Kind(
        "likelihood",
        "escalates iff a token is less probable than the target's τ most probable ones",
    ),
    "confidence": Kind("confidence", "escalates iff the draft's mean token probability is below τ"),
    "random": Kind("random", "escalates at random with probability τ"),
    "oracle": Kind("PRM oracle", "both models write every step; escalates iff the PRM's Δ > τ"),
    "exact": Kind(
        "exact oracle",
        "both models write every step; escalates iff only the target's step passes the checker",
    ),
    "draft": Kind("draft alone", "never escalates"),
    "target": Kind("target alone", "the target writes every step"),
    ASSISTED: Kind(
        "token speculation", "token-level speculative decoding (lossless) by transformers"
    ),
}
"""The policies and baselines that can be evaluated, in the order of the report."""

FIRST_RATE, LAST_RATE, BEND = 0.08, 0.7, 1.3
"""Escalation rates that the first and the last threshold should reach, and the exponent that spaces
the rates between them. An exponent above 1 places more rates at the low end."""


@dataclass(frozen=True)
class Point:
    """A policy at a threshold."""

    kind: str
    threshold: float | None = None
    default: bool = False
    """Whether the threshold is the policy's default."""

    @property
    def key(self) -> str:
        """Identifier of the point in results."""
        return self.kind if self.threshold is None else f"{self.kind}@{self.threshold:.6g}"

    @property
    def title(self) -> str:
        """Title of the point in tables."""
        return title_of(self.kind, self.threshold)


def title_of(kind: str, threshold: float | None) -> str:
    """Return the title of a point in tables.

    Example:
        >>> title_of("rsd", 0.5), title_of("target", None)
        ('RSD 0.5', 'target alone')
    """
    title = KINDS[kind].title
    return title if threshold is None else f"{title} {threshold:.4g}"


@dataclass(frozen=True)
class Lineup:
    """The models of a sweep: settings with draft and target, and optionally a router and a PRM."""

    settings: ArbitrageSettings
    router: str | None = None
    prm: str | None = None
    problems: Mapping[str, embedded.Problem] | None = None
    """Embedded problems by question; None unless all questions are embedded problems."""

    @classmethod
    def of(
        cls,
        settings: ArbitrageSettings,
        router: str | None = None,
        prm: str | None = None,
        problems: Mapping[str, embedded.Problem] | None = None,
    ) -> Lineup:
        """Create a lineup. The embedded pair defaults to the embedded router and PRM."""
        if (settings.draft, settings.target) == (embedded.DRAFT, embedded.TARGET):
            router, prm = router or "embedded:router", prm or "embedded:prm"
        return cls(settings, router, prm, problems)

    def kinds(self, policies: str | None) -> list[str]:
        """Parse a comma-separated list of policies.

        Args:
            policies: Names of the policies. Default: all policies whose requirements are met.

        Raises:
            SettingsError: A policy is unknown or lacks a requirement, such as a checkpoint.
        """
        if policies is None:
            return [kind for kind in KINDS if self._missing(kind) is None]
        names = [name.strip() for name in policies.split(",") if name.strip()]
        for name in names:
            if name not in KINDS:
                raise SettingsError(f"Unknown policy {name!r}. Available: {', '.join(KINDS)}")
            if missing := self._missing(name):
                raise SettingsError(f"policy {name!r} needs {missing}")
        if not names:
            raise SettingsError(f"the list of policies is empty. Available: {', '.join(KINDS)}")
        return [kind for kind in KINDS if kind in names]

    def _missing(self, kind: str) -> str | None:
        option = SCORER_ROLES.get(kind)
        if option and getattr(self, option) is None:
            return f"a checkpoint: --{option} CHECKPOINT"
        if kind == "exact" and self.problems is None:
            return "embedded problems: only they have an exact checker"
        return None

    def default(self, kind: str) -> Policy:
        """Return a policy at its default threshold.

        Raises:
            CheckpointError: The policy's checkpoint cannot be loaded.
        """
        if kind == "exact":
            return ExactOracle(self.problems or {})
        option = SCORER_ROLES.get(kind)
        if option is None:
            return POLICIES[kind]()
        return POLICIES[kind](getattr(self, option))  # type: ignore[call-arg]

    def policy(self, point: Point) -> Policy:
        """Return the policy of a point."""
        policy = self.default(point.kind)
        return policy if point.threshold is None else policy.with_threshold(point.threshold)

    def threshold(self, kind: str) -> float | None:
        """Return the default threshold of a policy; None if it has no threshold."""
        policy = self.default(kind)
        name = policy.threshold_field
        return None if name is None else float(getattr(policy, name))


def explicit(options: Iterable[str], kinds: Sequence[str]) -> dict[str, list[float]]:
    """Parse thresholds given on the command line.

    Args:
        options: Texts such as `rsd=0.3,0.5`. A policy may occur several times.
        kinds: Policies of the sweep.

    Returns:
        Thresholds by policy.

    Example:
        >>> explicit(["rsd=0.3,0.5"], ["rsd", "draft"])
        {'rsd': [0.3, 0.5]}

    Raises:
        SettingsError: A text has another form, or its policy is not part of the sweep.
    """
    thresholds: dict[str, list[float]] = {}
    for text in options:
        kind, _, numbers = text.partition("=")
        try:
            values = [float(number) for number in numbers.split(",") if number.strip()]
        except ValueError:
            values = []
        if not values:
            raise SettingsError(
                f"thresholds must have the form POLICY=X,Y,…, such as rsd=0.3,0.5; not {text!r}"
            )
        if kind not in kinds:
            raise SettingsError(
                f"{text!r}: {kind!r} is not a policy of this sweep. Its policies: "
                f"{', '.join(kinds)}"
            )
        thresholds.setdefault(kind, []).extend(values)
    return thresholds


def rates(points: int) -> list[float]:
    """Return the escalation rates that thresholds should reach.

    Args:
        points: Number of thresholds.

    Example:
        >>> [round(rate, 2) for rate in rates(4)]
        [0.08, 0.23, 0.45, 0.7]
    """
    if points == 1:
        return [(FIRST_RATE + LAST_RATE) / 2]
    spread = LAST_RATE - FIRST_RATE
    return [FIRST_RATE + spread * (i / (points - 1)) ** BEND for i in range(points)]


def spread_thresholds(policy: Policy, scores: Sequence[float], points: int) -> list[float]:
    """Choose thresholds whose escalation rates on sample scores are nearest to `rates`.

    Each threshold lies halfway between two adjacent scores. The thresholds of an oracle are at
    least 0, because with a negative threshold it would also choose target steps that score lower
    than the draft's step.

    Args:
        policy: The policy.
        scores: Sample scores of draft steps.
        points: Maximum number of thresholds.
    """
    ordered = sorted(set(scores))
    cuts = [(low + high) / 2 for low, high in pairwise(ordered)]
    if isinstance(policy, Oracle):
        cuts = [cut for cut in cuts if cut >= 0]
    if not cuts:
        return []
    measured = {cut: _rate(policy, cut, scores) for cut in cuts}
    nearest = {min(cuts, key=lambda cut: abs(measured[cut] - rate)) for rate in rates(points)}
    return sorted(float(f"{cut:.4g}") for cut in nearest)


def _rate(policy: Policy, threshold: float, scores: Sequence[float]) -> float:
    """Compute the fraction of the scores at which the policy escalates under a threshold."""
    policy = policy.with_threshold(threshold)
    return sum(policy.escalates(score) for score in scores) / len(scores)
