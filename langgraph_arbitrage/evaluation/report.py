"""The report: one HTML file with plots, tables and a reader of answers, all of it inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from langgraph_arbitrage.evaluation.curves import RATES
from langgraph_arbitrage.evaluation.plots import PLOTS, inline_svg
from langgraph_arbitrage.evaluation.points import KINDS
from langgraph_arbitrage.evaluation.tables import headlines, interval, percent
from langgraph_arbitrage.evaluation.traces import packed

__all__ = ["REPORT", "save_report"]

REPORT = "report.html"

EQUAL = (
    "By straight lines between a policy's points: a coin tossed for each question between two "
    "thresholds reaches every point between them. Intervals: bootstrap over the questions, the "
    "same ones for both sides; …: at that end of the samples the policy never comes so far. The "
    "thresholds are the best ones on these very questions, which flatters every policy a little."
)

READER = (
    "Blue: the draft wrote the step; orange, doubly lined: the target. Struck out: the draft's "
    "step that it replaced. s_d and s_t are what the PRM finds of the draft's and of the target's "
    "step; wasted: s_t ≤ s_d. Arrow keys walk through the list."
)

Results = Mapping[str, Any]
Cell = str | tuple[str, float | None]
"""A cell's HTML, and what it is sorted by."""


def save_report(
    results: Results, answers: Sequence[Mapping[str, Any]], folder: Path, traces: int
) -> Path:
    """Write it.

    Args:
        results: Of the sweep.
        answers: The lines of its file, for the reader.
        folder: Where to.
        traces: Questions whose answers can be read in it.
    """
    path = folder / REPORT
    path.write_text(_page(results, answers, traces), encoding="utf-8")
    return path


def _page(results: Results, answers: Sequence[Mapping[str, Any]], traces: int) -> str:
    about, n = results["about"], len(results["questions"])
    data = packed(results, answers, traces)
    chosen = results["operating points"]
    first = next((k for k in KINDS if k in chosen and k not in ("draft", "target")), None)
    data["one"] = chosen.get(first or "target", "")
    rsd = [p["key"] for p in results["points"] if p["kind"] == "rsd" != first]
    defaults = [p["key"] for p in results["points"] if p["default"]]
    data["two"] = next((key for key in rsd if key in defaults), chosen.get("target", ""))
    shown = len(data["questions"])
    part = f"Answers to all {n:,} questions"
    if shown < n:
        part = f"Answers to {shown:,} of the {n:,} questions, those on which the points differ most"
    subtitle = f"{n:,} questions · draft {about['draft'][0]} · target {about['target'][0]}"
    page = {
        "title": escape(f"Arbitrage on {about['dataset']}"),
        "subtitle": escape(f"{subtitle} · {results['made']}"),
        "headlines": "".join(f'<p class="lead">{escape(t)}</p>' for t in headlines(results)),
        "confidence": percent(results["confidence"], 0),
        "kinds": _legend(results),
        "traces": escape(f"{part}. {READER}"),
        "plots": "".join(_plot(results, name, title) for name, title in PLOTS.items()),
        "points": _points(results),
        "equal": _equal(results),
        "paired": _paired(results),
        "about": _about(results),
        "css": _file("report.css"),
        "js": _file("report.js"),
        # No text may end the script that it stands in.
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    html = _file("report.html")
    before, *rest = html.split("{{")
    out = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        out += [page[name], after]
    return "".join(out)


def _file(name: str) -> str:
    folder = files("langgraph_arbitrage.evaluation.page")
    return folder.joinpath(name).read_text(encoding="utf-8").strip()


def _plot(results: Results, name: str, title: str) -> str:
    svg = inline_svg(results, name)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="scroll">{svg}</div></figure>'
    )


def _legend(results: Results) -> str:
    kinds = dict.fromkeys(p["kind"] for p in results["points"])
    items = "".join(
        f"<dt>{escape(KINDS[kind].title)}</dt><dd>{escape(KINDS[kind].text)}</dd>" for kind in kinds
    )
    return f"<details><summary>What the policies are</summary><dl>{items}</dl></details>"


def _table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Cell]]],
    *,
    sortable: bool = False,
) -> str:
    """A table; each row has a class, maybe empty."""
    top = "".join(f"<th scope=col>{escape(head)}</th>" for head in heads)
    body = "".join(
        f'<tr class="{name}">' + "".join(_td(cell) for cell in cells) + "</tr>"
        for name, cells in rows
    )
    name = "sortable" if sortable else ""
    return (
        f'<div class="table" tabindex="0"><table class="{name}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _td(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{cell}</td>"
    html, value = cell
    return f'<td data-v="{-1 if value is None else value:.6g}">{html}</td>'


def _points(results: Results) -> str:
    chosen = set(results["operating points"].values())
    learned = any(p["accuracy, learned"] is not None for p in results["points"])
    heads = ["policy", "accuracy", *(["learned"] if learned else []), "escalated", "by tokens",
             "wasted", "mean s", "median", "95th", "draft", "target", "discarded"]  # fmt: skip

    def cells(p: Mapping[str, Any]) -> list[Cell]:
        s, tokens = p["seconds"], p["tokens"]
        shares: list[Cell] = [
            (percent(p[name], 0), p[name])
            for name in ("escalation by steps", "escalation by tokens", "wasted")
        ]
        own: list[Cell] = [(percent(p["accuracy, learned"]), p["accuracy, learned"])]
        return [
            escape(p["title"]) + (" <small>default</small>" if p["default"] else ""),
            (_ranged(p["accuracy"], 100, 1, " %"), p["accuracy"][0]),
            *(own if learned else []),
            *shares,
            (_ranged(s["mean"], 1, 3), s["mean"][0]),
            (f"{s['median']:.3f}", s["median"]),
            (f"{s['p95']:.3f}", s["p95"]),
            *((f"{tokens[w]:.1f}", tokens[w]) for w in ("draft", "target", "discarded")),
        ]

    note = (
        "Bold: each policy's operating point, its quickest one within "
        f"{100 * results['within']:g} points of the target's accuracy, else its most accurate one. "
        "Escalated: share of the steps, and of the answer's tokens, that the target wrote. Wasted: "
        "escalations whose step of the target the PRM finds no better. Tokens: a question. "
    )
    if learned:
        note += "Learned: without problems that hold a step which no model here has learned. "
    if any(p["kind"] == "assisted" for p in results["points"]):
        note += (
            "Token speculation: draft tokens are those that the target confirmed, discarded ones "
            "those that it did not; it is measured one question at a time. "
        )
    return (
        _table(
            heads,
            (("chosen" if p["key"] in chosen else "", cells(p)) for p in results["points"]),
            sortable=True,
        )
        + f'<p class="note">{escape(note)}A click on a head sorts.</p>'
    )


def _ranged(values: Sequence[float | None], scale: float, digits: int, unit: str = "") -> str:
    value, low, high = (None if v is None else f"{scale * v:.{digits}f}" for v in values)
    return f"{value}{unit} <small>{low or '…'} – {high or '…'}</small>"


def _equal(results: Results) -> str:
    ups = results["speed-up at equal accuracy"]
    out = []
    if ups:
        losses = list(ups[0]["at"])
        heads = ["times as fast as the target alone", *(_less(float(loss)) for loss in losses)]
        rows = [
            (
                "",
                [
                    escape(KINDS[u["kind"]].title),
                    *(escape(interval(u["at"][x], unit=" ×")) for x in losses),
                ],
            )
            for u in ups
        ]
        out += [_table(heads, rows), f'<p class="note">{EQUAL}</p>']
    rates = results["accuracy at equal escalation"]
    if rates:
        heads = ["accuracy at so many escalated steps", *(f"{rate:.0%}" for rate in RATES)]
        rows = [
            ("", [escape(KINDS[r["kind"]].title), *(percent(v) for v in r["accuracy"].values())])
            for r in rates
        ]
        out += ["<h3>At equal escalation</h3>", _table(heads, rows)]
        first = KINDS[rates[0]["kind"]].title
        heads = [f"{first} minus this, in points", *(f"{rate:.0%}" for rate in RATES)]
        rows = [
            (
                "",
                [
                    escape(KINDS[r["kind"]].title),
                    *(
                        "–" if v[0] is None else escape(interval(v, 100, 1))
                        for v in r["first minus this"].values()
                    ),
                ],
            )
            for r in rates[1:]
        ]
        if rows:
            out += ["<br>", _table(heads, rows)]
    return "".join(out) or "<p>There is no target alone, and no policy with two points.</p>"


def _less(loss: float) -> str:
    if not loss:
        return "at its accuracy"
    return f"{100 * loss:g} point{'s' * (loss != 0.01)} below"


def _paired(results: Results) -> str:
    titles = {p["key"]: p["title"] for p in results["points"]}
    rows: list[tuple[str, Sequence[Cell]]] = [
        (
            "",
            [
                f"{escape(titles[row['one']])} against {escape(titles[row['other']])}",
                (_ranged(row["accuracy"], 100, 1), row["accuracy"][0]),
                f"{row['only one right']} / {row['only other right']}",
                "–" if row["seconds"][0] is None
                else (_ranged(row["seconds"], 1, 2, " ×"), row["seconds"][0]),
            ],
        )
        for row in results["paired"]
    ]  # fmt: skip
    if not rows:
        return "<p>There is one policy only.</p>"
    heads = ["operating points", "accuracy, points", "only one / only other right", "times as fast"]
    return _table(heads, rows, sortable=True)


def _about(results: Results) -> str:
    shown = {**results["about"], **results["machine"], "unanswered": results["unanswered"]}
    shown.pop("format"), shown.pop("version")
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_said(value))}</dd>"
        for name, value in shown.items()
        if value not in (None, {}, 0)
    )
    out = [f"<dl>{items}</dl>"]
    late = sum(p["graded late"] for p in results["points"])
    if late:
        out.append(f"<p>{late} answers were not graded in time and count as wrong.</p>")
    errors = [(p["title"], e) for p in results["points"] for e in p["errors"]]
    if errors:
        some = "".join(f"<li>{escape(title)}: {escape(e)}</li>" for title, e in errors[:50])
        out.append(
            f"<details><summary>{len(errors)} answers failed and count as wrong</summary>"
            f"<ul>{some}</ul></details>"
        )
    if results["left out"]:
        some = "".join(
            f"<li>{escape(one['reason'])}: <code>{escape(one['reference'])}</code> "
            f"<span class=dim>{escape(one['question'][:160])}</span></li>"
            for one in results["left out"]
        )
        out.append(
            f"<details open><summary>{len(results['left out'])} questions were left out"
            f"</summary><ul>{some}</ul></details>"
        )
    return "".join(out)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(repr(v) if isinstance(v, str) and not v.strip() else str(v) for v in value)
    if isinstance(value, dict):
        return "; ".join(f"{name} {_said(v)}" for name, v in value.items())
    return str(value)
