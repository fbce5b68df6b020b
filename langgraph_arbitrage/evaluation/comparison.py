"""Two runs side by side: what became better, what became worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation.points import title_of
from langgraph_arbitrage.evaluation.statistics import Bootstrap, Estimate

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Change", "Comparison", "compare"]

Verdict = Literal["better", "worse", "same", "unknown"]
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A point in both runs."""

    before: str
    after: str
    """Its titles; thresholds may differ."""
    accuracies: tuple[float, float]
    accuracy: Estimate
    """After minus before."""
    seconds: tuple[float, float]
    slowdown: Estimate
    """Mean seconds after over before."""
    escalations: tuple[float | None, float | None]
    accuracy_verdict: Verdict
    seconds_verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    changes: tuple[Change, ...]
    common: int
    """Questions of both; 0 where the runs have other questions, and intervals are unpaired."""
    notes: tuple[str, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def worse(self) -> list[Change]:
        """Changes for the worse."""
        return [c for c in self.changes if "worse" in (c.accuracy_verdict, c.seconds_verdict)]

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "questions in common": self.common,
            "notes": list(self.notes),
            "only before": list(self.only_before),
            "only after": list(self.only_after),
            "changes": [
                {
                    "before": c.before,
                    "after": c.after,
                    "accuracy": [*c.accuracies],
                    "accuracy difference": c.accuracy.plain,
                    "accuracy verdict": c.accuracy_verdict,
                    "seconds": [*c.seconds],
                    "seconds ratio": c.slowdown.plain,
                    "seconds verdict": c.seconds_verdict,
                    "escalation": [*c.escalations],
                }
                for c in self.changes
            ],
        }


def compare(before: Results, after: Results, slack: float = 0.05) -> Comparison:
    """Compare the points that both runs have, on the questions that both have.

    An accuracy is worse where all of the interval of its difference is below 0; seconds are worse
    where all of the interval of their ratio is above 1 + slack. Better, likewise.

    Args:
        before: Results of one run.
        after: Those of the other.
        slack: Share by which seconds may differ and still count as the same: machines have moods.

    Raises:
        DataError: The runs have no policy in common.
    """
    pairs, only_before, only_after = _matched(before["points"], after["points"])
    if not pairs:
        raise DataError(
            "the runs have no policy in common: one has "
            f"{_kinds(before['points'])}, the other {_kinds(after['points'])}"
        )
    ids = [q["id"] for q in after["questions"]]
    known = {q["id"]: i for i, q in enumerate(before["questions"])}
    both = [(known[key], i) for i, key in enumerate(ids) if key in known]
    notes = _notes(before, after, len(both))
    timed = before["machine"]["processor"] == after["machine"]["processor"]
    timed &= before["machine"]["cores"] == after["machine"]["cores"]
    timed &= before["about"]["concurrency"] == after["about"]["concurrency"]
    measure = _Paired(both, after) if both else _Apart(before, after)
    changes = [_change(b, a, measure, slack, timed=timed) for b, a in pairs]
    return Comparison(tuple(changes), len(both), notes, only_before, only_after)


def _kinds(points: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(p["kind"] for p in points))


def _notes(before: Results, after: Results, common: int) -> tuple[str, ...]:
    notes = []
    if not common:
        notes.append("other questions: intervals are unpaired, and so much wider")
    elif common < len(before["questions"]) or common < len(after["questions"]):
        notes.append(
            f"only the {common:,} questions that both have ({len(before['questions']):,} before, "
            f"{len(after['questions']):,} after)"
        )
    for name in ("draft", "target", "router", "prm"):
        one, other = before["about"].get(name), after["about"].get(name)
        if one != other:
            notes.append(f"another {name}: {_shown(one)} before, {_shown(other)} after")
    if before["machine"] != after["machine"]:
        said = [
            f"{name} {before['machine'].get(name)} → {after['machine'].get(name)}"
            for name in after["machine"]
            if before["machine"].get(name) != after["machine"].get(name)
        ]
        notes.append("another machine or version: " + ", ".join(said))
    many = before["about"]["concurrency"], after["about"]["concurrency"]
    if many[0] != many[1]:
        notes.append(f"{many[0]} questions at a time before, {many[1]} after")
    return tuple(notes)


def _shown(model: Any) -> str:
    return " ".join(map(str, model)) if isinstance(model, list) else str(model)


def _matched(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Any, Any]], tuple[str, ...], tuple[str, ...]]:
    """Points of the same name; else defaults; else of one policy the next in escalation."""
    left, right = list(before), list(after)
    pairs = []

    def take(same: Any) -> None:
        for b in list(left):
            options = [a for a in right if a["kind"] == b["kind"] and same(b, a)]
            if options:
                a = min(options, key=lambda a: _distance(a, b))
                pairs.append((b, a))
                left.remove(b)
                right.remove(a)

    take(lambda b, a: b["key"] == a["key"])
    take(lambda b, a: b["default"] and a["default"])
    take(lambda b, a: True)
    order = [p["key"] for p in after]
    pairs.sort(key=lambda pair: order.index(pair[1]["key"]))
    return pairs, tuple(p["title"] for p in left), tuple(p["title"] for p in right)


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    rates = [float(p["escalation by steps"] or 0) for p in (one, other)]
    return abs(rates[0] - rates[1])


class _Paired:
    """Differences on the questions that both runs have."""

    def __init__(self, both: Sequence[tuple[int, int]], after: Results) -> None:
        self._both = both
        self._boot = Bootstrap(len(both), confidence=after["confidence"])

    def values(self, before: Any, after: Any, name: str) -> tuple[list[float], list[float]]:
        one, other = before["each"][name], after["each"][name]
        return [one[i] for i, _ in self._both], [other[j] for _, j in self._both]

    def difference(self, one: list[float], other: list[float]) -> Estimate:
        return self._boot.difference(other, one)

    def ratio(self, one: list[float], other: list[float]) -> Estimate:
        return self._boot.ratio(other, one)


class _Apart:
    """Differences of runs on other questions."""

    def __init__(self, before: Results, after: Results) -> None:
        level = after["confidence"]
        self._one = Bootstrap(len(before["questions"]), confidence=level)
        self._other = Bootstrap(len(after["questions"]), confidence=level, seed=1)

    def values(self, before: Any, after: Any, name: str) -> tuple[list[float], list[float]]:
        return before["each"][name], after["each"][name]

    def _means(self, one: list[float], other: list[float]) -> tuple[float, Any, float, Any]:
        (a,), many = self._one.means([one])
        (b,), others = self._other.means([other])
        return float(a), many[:, 0], float(b), others[:, 0]

    def difference(self, one: list[float], other: list[float]) -> Estimate:
        a, many, b, others = self._means(one, other)
        return self._one.estimate(b - a, others - many)

    def ratio(self, one: list[float], other: list[float]) -> Estimate:
        a, many, b, others = self._means(one, other)
        return self._one.estimate(b / a, others / many) if a else Estimate(None, None, None)


def _change(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    measure: _Paired | _Apart,
    slack: float,
    *,
    timed: bool,
) -> Change:
    right, seconds = (measure.values(before, after, name) for name in ("right", "seconds"))
    accuracy, slowdown = measure.difference(*right), measure.ratio(*seconds)
    return Change(
        title_of(before["kind"], before["threshold"]),
        title_of(after["kind"], after["threshold"]),
        (sum(right[0]) / len(right[0]), sum(right[1]) / len(right[1])),
        accuracy,
        (sum(seconds[0]) / len(seconds[0]), sum(seconds[1]) / len(seconds[1])),
        slowdown,
        (before["escalation by steps"], after["escalation by steps"]),
        _verdict(accuracy, 0.0, 0.0, more_is_better=True),
        _verdict(slowdown, 1 / (1 + slack), 1 + slack, more_is_better=False)
        if timed
        else "unknown",
    )


def _verdict(change: Estimate, low: float, high: float, *, more_is_better: bool) -> Verdict:
    if change.low is not None and change.low > high:
        return "better" if more_is_better else "worse"
    if change.high is not None and change.high < low:
        return "worse" if more_is_better else "better"
    return "same"


def comparison_table(found: Comparison) -> Table:
    """For the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from langgraph_arbitrage.evaluation.tables import interval, percent

    style = {"better": "green", "worse": "bold red", "same": "", "unknown": "dim"}
    table = Table(
        box=SIMPLE_HEAD,
        caption="difference of accuracies in points and ratio of mean seconds, after against "
        "before, with intervals; worse in red and marked ▼, better ▲",
        caption_justify="left",
    )
    table.add_column("")
    for head in ("accuracy", "difference", "mean s", "ratio", "escalated"):
        table.add_column(head, justify="right")
    mark = {"better": " ▲", "worse": " ▼", "same": "  ", "unknown": " ?"}
    for c in found.changes:
        title = c.after if c.after == c.before else f"{c.before} → {c.after}"
        gap, ratio = interval(c.accuracy.plain, 100, 1), interval(c.slowdown.plain)
        table.add_row(
            title,
            f"{percent(c.accuracies[0])} → {percent(c.accuracies[1])}",
            f"[{style[c.accuracy_verdict]}]{gap}{mark[c.accuracy_verdict]}[/]"
            if style[c.accuracy_verdict]
            else gap + "  ",
            f"{c.seconds[0]:.3f} → {c.seconds[1]:.3f}",
            f"[{style[c.seconds_verdict]}]{ratio}{mark[c.seconds_verdict]}[/]"
            if style[c.seconds_verdict]
            else ratio + "  ",
            f"{percent(c.escalations[0], 0)} → {percent(c.escalations[1], 0)}",
        )
    return table
