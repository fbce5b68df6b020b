"""Plots of accuracy against latency and acceptance rate, and of the policies' scores.

Policies differ in colour, marker and line style, so the plots are readable in black and white too.
The colours are from the colour-blind-safe palette of Okabe and Ito.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.errors import MissingExtraError
from langgraph_arbitrage.evaluation.points import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "inline_svg", "plots_of", "save_plots"]

INK = "#1b1b1f"
STYLES: dict[str, tuple[str, str, Any]] = {
    "router": ("#0072B2", "o", "-"),
    "rsd": ("#D55E00", "s", "--"),
    "judge": ("#CC79A7", "v", "-."),
    "likelihood": ("#5D3A9B", "h", (0, (6, 2))),
    "confidence": ("#009E73", "^", (0, (4, 1, 1, 1, 1, 1))),
    "random": ("#808080", "X", ":"),
    "oracle": ("#56B4E9", "D", (0, (1, 1))),
    "exact": ("#E69F00", "*", "-"),
    "draft": (INK, "<", "-"),
    "target": (INK, ">", "-"),
    "assisted": (INK, "P", "-"),
}
"""Colour, marker and line style of each policy."""

PLOTS = {
    "accuracy-latency": "Accuracy vs. mean seconds per question",
    "accuracy-acceptance": "Accuracy vs. acceptance rate",
    "score-distributions": "Scores of the draft's steps by policy",
}
"""Titles of the plots by file name without suffix."""

Results = Mapping[str, Any]


def plots_of(results: Results) -> list[str]:
    """Return the names of the plots for which there is data."""
    return [name for name in PLOTS if name != "score-distributions" or results["draft scores"]]


def save_plots(results: Results, folder: Path) -> list[Path]:
    """Write the plots as PNG and SVG and return their paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    paths = []
    for name in plots_of(results):
        figure = _figure(results, name)
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            path.write_bytes(_render(figure, name, suffix, background="white"))
            paths.append(path)
    return paths


def inline_svg(results: Results, name: str) -> str:
    """Render a plot as SVG for an HTML page.

    The plot scales to the available width and uses the page's text colour.
    """
    svg = _render(_figure(results, name), name, "svg", background="none").decode()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1
    )
    return re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)


def _render(figure: Figure, name: str, suffix: str, background: str) -> bytes:
    import matplotlib as mpl

    out = io.BytesIO()
    # Write text as SVG text elements, and the same bytes for the same data.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(out, format=suffix, dpi=160, facecolor=background, metadata=metadata)
    return out.getvalue()


def _figure(results: Results, name: str) -> Figure:
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plots need matplotlib: pip install 'langgraph-arbitrage[eval]'")
    import matplotlib as mpl

    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = {
        **dict.fromkeys(colours, INK),
        "font.size": 10,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        if name == "score-distributions":
            return _draw_scores(results["draft scores"])
        return _draw(results, by_seconds=name == "accuracy-latency")


def _draw_scores(scores: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the cumulative distribution of each policy's scores, one plot per policy."""
    from matplotlib.figure import Figure

    columns = min(3, len(scores))
    rows = -(-len(scores) // columns)
    figure = Figure(figsize=(7.2, 0.4 + 2.1 * rows), layout="constrained")
    for index, (kind, values) in enumerate(scores.items()):
        axes: Axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(KINDS[kind].title, fontsize=10)
        axes.ecdf(values, color=STYLES[kind][0], lw=1.6)
        axes.set_ylim(0, 1)
        axes.grid(visible=True, color="#888888", alpha=0.25, lw=0.6)
        axes.set_xlabel("score τ")
        if index % columns == 0:
            axes.set_ylabel("fraction of steps ≤ τ")
    return figure


def _draw(results: Results, *, by_seconds: bool) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.9), layout="constrained")
    axes: Axes = figure.add_subplot()
    points = results["points"]
    target = [p for p in points if p["kind"] == "target"]
    if target:
        axes.axhline(100 * target[0]["accuracy"][0], color=INK, lw=0.8, ls=(0, (6, 4)), alpha=0.6)
    for kind in KINDS:
        own = [p for p in points if p["kind"] == kind]
        curve = [(x, p) for p in own if (x := _x_value(p, by_seconds=by_seconds)) is not None]
        if curve:
            _draw_curve(axes, kind, sorted(curve, key=lambda pair: pair[0]))
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=True, color="#888888", alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    if by_seconds:
        _use_log_scale(axes, [p["seconds"]["mean"][0] for p in points])
        concurrency = results["about"]["concurrency"]
        load = "" if concurrency == 1 else f", {concurrency} concurrent questions"
        axes.set_xlabel(f"mean seconds per question{load}")
    else:
        axes.set_xlim(-3, 103)
        axes.set_xlabel("acceptance rate, % of steps")
    figure.legend(loc="outside lower center", ncols=4, handlelength=3, columnspacing=1.6)
    return figure


def _use_log_scale(axes: Axes, seconds: Sequence[float]) -> None:
    """Make the x axis logarithmic, so that equal distances are equal speed-ups."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if min(seconds) <= 0:
        return
    axes.set_xscale("log")
    subs = (1, 1.5, 2, 3, 5, 7) if max(seconds) < 20 * min(seconds) else (1, 3)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(0.85 * min(seconds), 1.18 * max(seconds))


def _x_value(point: Mapping[str, Any], *, by_seconds: bool) -> float | None:
    if by_seconds:
        return float(point["seconds"]["mean"][0])
    rate = point["escalation by steps"]
    return None if rate is None else 100 * (1 - rate)


def _draw_curve(axes: Axes, kind: str, curve: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    """Draw the points of a policy with error bars and a line between them."""
    colour, marker, line = STYLES[kind]
    x = [value for value, _ in curve]
    y, low, high = zip(*(_percent(p["accuracy"]) for _, p in curve), strict=True)
    bars = [
        [a - b for a, b in zip(y, low, strict=True)],
        [b - a for a, b in zip(y, high, strict=True)],
    ]
    axes.errorbar(x, y, bars, fmt="none", ecolor=colour, alpha=0.3, lw=1)
    is_curve = len(curve) > 1
    size = {"exact": 11, "draft": 9, "target": 9, "assisted": 9}.get(kind, 6)
    axes.plot(
        x,
        y,
        color=colour,
        marker=marker,
        ms=size,
        ls=line if is_curve else "",
        lw=1.6,
        mec="white" if kind not in ("random",) else colour,
        mew=0.6,
        label=KINDS[kind].title,
    )
    for value, point in curve:
        if point["default"] and is_curve:  # a ring marks the default threshold
            axes.plot(value, 100 * point["accuracy"][0], marker="o", ms=13, mfc="none", mec=colour)


def _percent(values: Iterable[float]) -> list[float]:
    return [100 * value for value in values]
