"""How all plots look: colours, ink that follows the page's theme, and how a figure becomes SVG or PNG.

Figures are built with matplotlib's objects, never through pyplot's global state. In SVG the ink is replaced by CSS
variables of the page, so one drawing serves a light and a dark theme; text stays text, which keeps files small.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from tutelage.base.progress import human
from tutelage.compare.summary import Summary

INK = "#1f2328"
FAINT = "#6e7781"
GRID = "#d8dee4"
PAPER = "#fefefd"
THEMED = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--paper)"}
"""Drawn colours and the CSS variables that stand for them in a page."""

# Variations on Okabe and Ito's palette (safe for the common kinds of colour blindness), held at a lightness that keeps
# a contrast of 3 to 1 on white and on near-black alike.
COLOURS = ("#2f7fc1", "#d55e00", "#009e73", "#b8619b", "#7f6fd0", "#9a7410", "#4f8f9f", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 7.2
"""Inches; at 640 pixels on a page, text of 9 points is then about 11 pixels high."""

_SETTINGS = {
    "svg.fonttype": "none", "font.family": ["DejaVu Sans"], "font.size": 9,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.facecolor": "none", "axes.grid": True,
    "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6, "figure.facecolor": PAPER, "text.color": INK,
    "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "legend.frameon": False, "legend.fontsize": 8, "lines.solid_capstyle": "round",
    # A model may be called a$b$c; that is a name, not a formula.
    "text.parse_math": False,
}  # fmt: skip


class SeriesStyle(NamedTuple):
    """How a model appears in every plot."""

    colour: str
    marker: str
    dashes: str


def styles_of(summary: Summary) -> dict[str, SeriesStyle]:
    """Give each model its colour and marker; the student and its control come first, whatever the recipe's order."""
    order = {"student": 0, "control": 1, "teacher": 2, "ensemble": 3, "model": 4}
    names = sorted(summary.models, key=lambda name: order[summary.models[name].role])
    count, dashes = len(COLOURS), ("-", "--", ":", "-.")
    return {
        name: SeriesStyle(COLOURS[i % count], MARKERS[i % count], dashes[i // count % 4])
        for i, name in enumerate(names)
    }


@dataclass(frozen=True, slots=True)
class FigurePlan:
    """A plot that a summary may have; `draw` returns None where there is nothing to show."""

    name: str
    title: str
    caption: str
    draw: Callable[[Summary], Any | None]


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the style while figures are built and saved."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # Names may hold letters that the measuring font lacks; browsers have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Any, Any]:
    """Return a figure of the page's width and its axes (an array where there are several)."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Between panels, so that the last number below one does not run into the first of the next.
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=0.08))
    return figure, figure.subplots(rows, columns, **grid)


def new_panels(count: int, columns: int, height: Callable[[int], float]) -> tuple[Any, Any]:
    """Return a figure and its axes in rows; those beyond `count` are hidden. `height` is that of so many rows."""
    rows = -(-count // columns)
    figure, grid = new_figure(height(rows), rows, min(columns, count), squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def draw_line(
    axes: Any, x: Any, y: Any, style: SeriesStyle, name: str | None = None, marks: float | None = 3.5, **more: Any
) -> None:
    """Draw a model's line; `marks` is the size of its markers, if it has any."""
    shown = {} if marks is None else {"marker": style.marker, "markersize": marks}
    shown |= {"markeredgecolor": PAPER, "markeredgewidth": 0.4, "linewidth": 1.7} | more
    axes.plot(x, y, linestyle=style.dashes, color=style.colour, label=name, **shown)


def draw_band(axes: Any, x: Sequence[float], values: Sequence[Sequence[float]], style: SeriesStyle) -> None:
    """Shade from the lowest to the highest of the values at each place."""
    low, high = [min(found) for found in values], [max(found) for found in values]
    axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)


def draw_seeds(axes: Any, row: int, values: Sequence[float], style: SeriesStyle, size: float) -> None:
    """Draw each seed's value as a point, and their mean as a bar."""
    axes.plot([fmean(values)] * 2, [row - 0.3, row + 0.3], color=style.colour, linewidth=0.6 + 0.25 * size)
    axes.plot(values, [row] * len(values), style.marker, color=style.colour, markersize=size, alpha=0.75)


def name_rows(axes: Any, names: Sequence[str], **style: Any) -> None:
    """Write names beside the rows of a plot, the first one on top."""
    axes.set_yticks(range(len(names)), names, **style)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def label(name: str, limit: int = 40) -> str:
    """A name as a plot shows it: one line, not too long, and never hidden for its leading underscore."""
    text = " ".join(name.split())
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return f"\u200b{text}" if text.startswith("_") else text


def human_axis(axis: Any) -> None:
    """Write an axis's counts shortly (10M, 2.5G)."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: human(value)))


def log_axis(axis: Any) -> None:
    """Write the ticks of a logarithmic axis at 1, 2 and 5, shortly."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    human_axis(axis)


def tokens_axis(axes: Any) -> None:
    """Finish the axis of training tokens."""
    axes.set_xlabel("training tokens")
    axes.set_xlim(left=0)
    human_axis(axes.xaxis)


def to_png(figure: Any, dpi: int = 140) -> bytes:
    """Render a figure as PNG on white."""
    with drawing():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Any, name: str) -> str:
    """Render a figure as an `<svg>` element for a page that defines the variables of `THEMED`.

    Ids are prefixed with `name`, so that several drawings can stand in one page; the same figure gives the same text.
    """
    import matplotlib

    with drawing(), matplotlib.rc_context({"svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name)
    text = re.sub(r'\bid="', f'id="{slug}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{slug}-", text)
    for size in ("height", "width"):
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    for colour, variable in THEMED.items():
        text = text.replace(colour, variable)
    return text.replace("'DejaVu Sans'", "var(--font)")
