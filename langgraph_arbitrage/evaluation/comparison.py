"""Compare the results of two evaluation runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation.points import title_of
from langgraph_arbitrage.evaluation.statistics import Bootstrap, Estimate

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Change", "Comparison", "compare", "comparison_table"]

Verdict = Literal["better", "worse", "same", "unknown"]
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """The change of a point between two runs.

    Tuples hold the value in the first run, followed by the value in the second run.
    """

    before: str
    """Title of the point in the first run."""
    after: str
    """Title of the point in the second run. Its threshold may differ."""
    accuracies: tuple[float, float]
    accuracy: Estimate
    """Accuracy in the second run minus accuracy in the first run."""
    seconds: tuple[float, float]
    slowdown: Estimate
    """Mean seconds per question in the second run, divided by those in the first run."""
    escalations: tuple[float | None, float | None]
    accuracy_verdict: Verdict
    seconds_verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs."""

    changes: tuple[Change, ...]
    common: int
    """Number of questions that both runs contain. If it is 0, the intervals are unpaired, which
    makes them wider."""
    notes: tuple[str, ...]
    only_before: tuple[str, ...]
    """Titles of the points that only the first run contains."""
    only_after: tuple[str, ...]
    """Titles of the points that only the second run contains."""

    @property
    def worse(self) -> list[Change]:
        """Changes whose accuracy or latency became worse."""
        return [c for c in self.changes if "worse" in (c.accuracy_verdict, c.seconds_verdict)]

    @property
    def plain(self) -> dict[str, Any]:
        """The comparison as plain data for JSON."""
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
    """Compare the points of two runs on the questions that both runs contain.

    The accuracy became worse if the whole interval of its difference is below 0, and better if the
    whole interval is above 0. The latency became worse if the whole interval of the ratio of mean
    seconds is above 1 + slack, and better if the whole interval is below 1 / (1 + slack).

    Args:
        before: Results of the first run.
        after: Results of the second run.
        slack: Relative change of the mean seconds that counts as noise of the machine.

    Raises:
        DataError: The runs have no policy in common.
    """
    pairs, only_before, only_after = _matched(before["points"], after["points"])
    if not pairs:
        raise DataError(
            f"the runs have no policy in common: the first has {_kinds(before['points'])}, the "
            f"second {_kinds(after['points'])}"
        )
    ids = [q["id"] for q in after["questions"]]
    index = {q["id"]: i for i, q in enumerate(before["questions"])}
    both = [(index[key], i) for i, key in enumerate(ids) if key in index]
    notes = _notes(before, after, len(both))
    # Latencies are comparable only if hardware and load are identical.
    comparable = before["machine"]["processor"] == after["machine"]["processor"]
    comparable &= before["machine"]["cores"] == after["machine"]["cores"]
    comparable &= before["about"]["concurrency"] == after["about"]["concurrency"]
    measure = _Paired(both, after) if both else _Unpaired(before, after)
    changes = [_change(b, a, measure, slack, comparable=comparable) for b, a in pairs]
    return Comparison(tuple(changes), len(both), notes, only_before, only_after)


def _kinds(points: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(p["kind"] for p in points))


def _notes(before: Results, after: Results, common: int) -> tuple[str, ...]:
    notes = []
    if not common:
        notes.append("no common questions: the intervals are unpaired and therefore wider")
    elif common < len(before["questions"]) or common < len(after["questions"]):
        notes.append(
            f"compared on the {common:,} common questions ({len(before['questions']):,} before, "
            f"{len(after['questions']):,} after)"
        )
    for name in ("draft", "target", "router", "prm"):
        old, new = before["about"].get(name), after["about"].get(name)
        if old != new:
            notes.append(f"different {name}: {_shown(old)} before, {_shown(new)} after")
    if before["machine"] != after["machine"]:
        differences = [
            f"{name} {before['machine'].get(name)} → {after['machine'].get(name)}"
            for name in after["machine"]
            if before["machine"].get(name) != after["machine"].get(name)
        ]
        notes.append("different machine or version: " + ", ".join(differences))
    concurrency = before["about"]["concurrency"], after["about"]["concurrency"]
    if concurrency[0] != concurrency[1]:
        notes.append(f"different concurrency: {concurrency[0]} before, {concurrency[1]} after")
    return tuple(notes)


def _shown(model: Any) -> str:
    return " ".join(map(str, model)) if isinstance(model, list) else str(model)


def _matched(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Any, Any]], tuple[str, ...], tuple[str, ...]]:
    """Pair the points of two runs, and list the titles of the points without a partner.

    Only points of the same policy are paired: first points with the same key, then the default
    points, then the remaining points with the nearest escalation rates.
    """
    left, right = list(before), list(after)
    pairs = []

    def pair(matches: Any) -> None:
        for b in list(left):
            options = [a for a in right if a["kind"] == b["kind"] and matches(b, a)]
            if options:
                a = min(options, key=lambda a: _distance(a, b))
                pairs.append((b, a))
                left.remove(b)
                right.remove(a)

    pair(lambda b, a: b["key"] == a["key"])
    pair(lambda b, a: b["default"] and a["default"])
    pair(lambda b, a: True)
    order = [p["key"] for p in after]
    pairs.sort(key=lambda match: order.index(match[1]["key"]))
    return pairs, tuple(p["title"] for p in left), tuple(p["title"] for p in right)


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    rates = [float(p["escalation by steps"] or 0) for p in (one, other)]
    return abs(rates[0] - rates[1])


class _Paired:
    """Estimates of changes on the questions that both runs contain."""

    def __init__(self, both: Sequence[tuple[int, int]], after: Results) -> None:
        self._both = both
        self._boot = Bootstrap(len(both), confidence=after["confidence"])

    def values(self, before: Any, after: Any, name: str) -> tuple[list[float], list[float]]:
        old, new = before["each"][name], after["each"][name]
        return [old[i] for i, _ in self._both], [new[j] for _, j in self._both]

    def difference(self, old: list[float], new: list[float]) -> Estimate:
        return self._boot.difference(new, old)

    def ratio(self, old: list[float], new: list[float]) -> Estimate:
        return self._boot.ratio(new, old)


class _Unpaired:
    """Estimates of changes between runs without common questions."""

    def __init__(self, before: Results, after: Results) -> None:
        level = after["confidence"]
        self._old = Bootstrap(len(before["questions"]), confidence=level)
        self._new = Bootstrap(len(after["questions"]), confidence=level, seed=1)

    def values(self, before: Any, after: Any, name: str) -> tuple[list[float], list[float]]:
        return before["each"][name], after["each"][name]

    def _means(self, old: list[float], new: list[float]) -> tuple[float, Any, float, Any]:
        (a,), a_samples = self._old.means([old])
        (b,), b_samples = self._new.means([new])
        return float(a), a_samples[:, 0], float(b), b_samples[:, 0]

    def difference(self, old: list[float], new: list[float]) -> Estimate:
        a, a_samples, b, b_samples = self._means(old, new)
        return self._old.estimate(b - a, b_samples - a_samples)

    def ratio(self, old: list[float], new: list[float]) -> Estimate:
        a, a_samples, b, b_samples = self._means(old, new)
        return self._old.estimate(b / a, b_samples / a_samples) if a else Estimate(None, None, None)


def _change(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    measure: _Paired | _Unpaired,
    slack: float,
    *,
    comparable: bool,
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
        if comparable
        else "unknown",
    )


def _verdict(change: Estimate, low: float, high: float, *, more_is_better: bool) -> Verdict:
    if change.low is not None and change.low > high:
        return "better" if more_is_better else "worse"
    if change.high is not None and change.high < low:
        return "worse" if more_is_better else "better"
    return "same"


def comparison_table(comparison: Comparison) -> Table:
    """Render a comparison for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from langgraph_arbitrage.evaluation.tables import interval, percent

    style = {"better": "green", "worse": "bold red", "same": "", "unknown": "dim"}
    table = Table(
        box=SIMPLE_HEAD,
        caption="difference: accuracy after − before, in percentage points; ratio: mean seconds "
        "after / before; both with intervals; ▲ better, ▼ worse, ? not comparable",
        caption_justify="left",
    )
    table.add_column("")
    for head in ("accuracy", "difference", "mean s", "ratio", "escalated"):
        table.add_column(head, justify="right")
    mark = {"better": " ▲", "worse": " ▼", "same": "  ", "unknown": " ?"}
    for c in comparison.changes:
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
