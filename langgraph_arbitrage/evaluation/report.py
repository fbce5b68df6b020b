"""Write the report: a self-contained HTML file with plots, tables and an answer viewer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from langgraph_arbitrage.evaluation.curves import RATES
from langgraph_arbitrage.evaluation.plots import PLOTS, inline_svg, plots_of
from langgraph_arbitrage.evaluation.points import KINDS
from langgraph_arbitrage.evaluation.tables import headlines, interval, percent
from langgraph_arbitrage.evaluation.traces import packed

__all__ = ["REPORT", "save_report"]

REPORT = "report.html"

EQUAL = (
    "Values are interpolated linearly between a policy's points, since choosing one of two "
    "thresholds at random for each question reaches every point between them. Intervals come from "
    "a bootstrap over the questions, with the same samples for the policy and the target alone. An "
    "interval end is … if the policy does not reach the accuracy there. The best thresholds are "
    "chosen on the evaluated questions, so the speed-ups are slightly optimistic."
)

VIEWER = (
    "Blue: step written by the draft. Orange with a double line: step written by the target. "
    "Struck out: draft step that the target replaced. s_d and s_t: PRM scores of the draft's and "
    "the target's step. Wasted escalation: s_t ≤ s_d. The arrow keys move through the list."
)

Results = Mapping[str, Any]
Cell = str | tuple[str, float | None]
"""The HTML of a cell, optionally with its sort key."""


def save_report(
    results: Results, answers: Sequence[Mapping[str, Any]], folder: Path, traces: int
) -> Path:
    """Write the report and return its path.

    Args:
        results: Results of the sweep.
        answers: Answer records from the sweep's answers file.
        folder: Output folder.
        traces: Maximum number of questions in the answer viewer.
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
        part = f"Answers to the {shown:,} of {n:,} questions on which the points differ most"
    subtitle = f"{n:,} questions · draft {about['draft'][0]} · target {about['target'][0]}"
    page = {
        "title": escape(f"Arbitrage on {about['dataset']}"),
        "subtitle": escape(f"{subtitle} · {results['made']}"),
        "headlines": "".join(f'<p class="lead">{escape(t)}</p>' for t in headlines(results)),
        "confidence": percent(results["confidence"], 0),
        "kinds": _legend(results),
        "traces": escape(f"{part}. {VIEWER}"),
        "plots": "".join(_plot(results, name, PLOTS[name]) for name in plots_of(results)),
        "points": _points(results),
        "equal": _equal(results),
        "paired": _paired(results),
        "about": _about(results),
        "css": _file("report.css"),
        "js": _file("report.js"),
        # Escaped so that no text can close the script element.
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
    return f"<details><summary>Policies</summary><dl>{items}</dl></details>"


def _table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Cell]]],
    *,
    sortable: bool = False,
) -> str:
    """Render a table. Each row consists of a CSS class, which may be empty, and the cells."""
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
             "wasted", "at limit", "mean s", "median s", "p95 s", "draft", "target",
             "discarded"]  # fmt: skip

    def cells(p: Mapping[str, Any]) -> list[Cell]:
        s, tokens = p["seconds"], p["tokens"]
        rates: list[Cell] = [
            (percent(p[name], 0), p[name])
            for name in ("escalation by steps", "escalation by tokens", "wasted", "at limit")
        ]
        on_learned: list[Cell] = [(percent(p["accuracy, learned"]), p["accuracy, learned"])]
        return [
            escape(p["title"]) + (" <small>default</small>" if p["default"] else ""),
            (_ranged(p["accuracy"], 100, 1, " %"), p["accuracy"][0]),
            *(on_learned if learned else []),
            *rates,
            (_ranged(s["mean"], 1, 3), s["mean"][0]),
            (f"{s['median']:.3f}", s["median"]),
            (f"{s['p95']:.3f}", s["p95"]),
            *((f"{tokens[w]:.1f}", tokens[w]) for w in ("draft", "target", "discarded")),
        ]

    note = (
        "Bold: the operating point of each policy, which is its fastest point within "
        f"{100 * results['within']:g} percentage points of the target's accuracy, or else its most "
        "accurate point. Escalated: fraction of the steps, and of the tokens, written by the "
        "target. Wasted: fraction of the escalations whose target step does not score higher than "
        "the draft's step. At limit: fraction of the answers that a limit of tokens or steps cut "
        "off. Draft, target, discarded: tokens per question. "
    )
    if learned:
        note += "Learned: accuracy on the problems whose steps the models were trained on. "
    if any(p["kind"] == "assisted" for p in results["points"]):
        note += (
            "Token speculation: draft tokens were accepted by the target, discarded tokens were "
            "rejected; it answers one question at a time. "
        )
    return (
        _table(
            heads,
            (("chosen" if p["key"] in chosen else "", cells(p)) for p in results["points"]),
            sortable=True,
        )
        + f'<p class="note">{escape(note)}Click a column heading to sort.</p>'
    )


def _ranged(values: Sequence[float | None], scale: float, digits: int, unit: str = "") -> str:
    value, low, high = (None if v is None else f"{scale * v:.{digits}f}" for v in values)
    return f"{value}{unit} <small>{low or '…'} – {high or '…'}</small>"


def _equal(results: Results) -> str:
    ups = results["speed-up at equal accuracy"]
    out = []
    if ups:
        losses = list(ups[0]["at"])
        heads = ["speed-up over the target alone", *(_loss_head(float(loss)) for loss in losses)]
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
        heads = ["accuracy at an escalation rate of", *(f"{rate:.0%}" for rate in RATES)]
        rows = [
            ("", [escape(KINDS[r["kind"]].title), *(percent(v) for v in r["accuracy"].values())])
            for r in rates
        ]
        out += ["<h3>At equal escalation</h3>", _table(heads, rows)]
        first = KINDS[rates[0]["kind"]].title
        heads = [
            f"{first} minus policy, in percentage points",
            *(f"{rate:.0%}" for rate in RATES),
        ]
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
    if not out:
        return "<p>A comparison needs the target alone, or a policy with at least two points.</p>"
    return "".join(out)


def _loss_head(loss: float) -> str:
    if not loss:
        return "at its accuracy"
    return f"{100 * loss:g} point{'s' * (loss != 0.01)} below"


def _paired(results: Results) -> str:
    titles = {p["key"]: p["title"] for p in results["points"]}
    rows: list[tuple[str, Sequence[Cell]]] = [
        (
            "",
            [
                f"{escape(titles[row['one']])} vs. {escape(titles[row['other']])}",
                (_ranged(row["accuracy"], 100, 1), row["accuracy"][0]),
                f"{row['only one right']} / {row['only other right']}",
                "–" if row["seconds"][0] is None
                else (_ranged(row["seconds"], 1, 2, " ×"), row["seconds"][0]),
            ],
        )
        for row in results["paired"]
    ]  # fmt: skip
    if not rows:
        return "<p>A paired comparison needs at least two policies.</p>"
    heads = [
        "operating points",
        "accuracy difference, points",
        "only first / only second right",
        "speed-up",
    ]
    return _table(heads, rows, sortable=True)


def _about(results: Results) -> str:
    shown = {**results["about"], **results["machine"], "unanswered": results["unanswered"]}
    shown.pop("format"), shown.pop("version")
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_plain(value))}</dd>"
        for name, value in shown.items()
        if value not in (None, {}, 0)
    )
    out = [f"<dl>{items}</dl>"]
    late = sum(p["graded late"] for p in results["points"])
    if late:
        out.append(
            f"<p>Grading of {late} answers exceeded the time limit; they count as wrong.</p>"
        )
    errors = [(p["title"], e) for p in results["points"] for e in p["errors"]]
    if errors:
        items = "".join(f"<li>{escape(title)}: {escape(e)}</li>" for title, e in errors[:50])
        out.append(
            f"<details><summary>{len(errors)} answers failed and count as wrong</summary>"
            f"<ul>{items}</ul></details>"
        )
    if results["left out"]:
        items = "".join(
            f"<li>{escape(question['reason'])}: <code>{escape(question['reference'])}</code> "
            f"<span class=dim>{escape(question['question'][:160])}</span></li>"
            for question in results["left out"]
        )
        out.append(
            f"<details open><summary>{len(results['left out'])} questions were left out"
            f"</summary><ul>{items}</ul></details>"
        )
    return "".join(out)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(repr(v) if isinstance(v, str) and not v.strip() else str(v) for v in value)
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(v)}" for name, v in value.items())
    return str(value)
