"""Who taught whom: teachers on the left, what they taught on the right, how on the arrows between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tutelage.base.progress import human
from tutelage.compare.cost import mean_of, sources_of
from tutelage.compare.metrics import values_of
from tutelage.compare.summary import Models, ModelSummary, Summary
from tutelage.report.plot_style import FAINT, INK, PAPER, WIDTH, label, styles_of

_BOX_HEIGHT = 0.62


class Box(NamedTuple):
    """A model's place in inches: left edge, middle, width."""

    x: float
    y: float
    width: float


def teaching_graph(summary: Summary) -> Any | None:
    """Draw every model that teaches, is taught or is a control; None where nobody teaches."""
    from matplotlib.figure import Figure

    columns = teaching_columns(summary.models)
    if len(columns) < 2:
        return None
    lines = max(len(describe_objectives(model.objectives)) for model in summary.models.values())
    # Several stages need room for their objectives.
    height = 0.15 + (0.86 if lines <= 4 else 1.15) * max(len(column) for column in columns)
    boxes = _place(columns, height)
    depths = {name: depth for depth, column in enumerate(columns) for name in column}
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    for name, model in summary.models.items():
        if name in boxes and sources_of(model):
            _draw_sources(axes, boxes, depths, name, model)
    for name, box in boxes.items():
        _draw_box(axes, summary, name, box)
    return figure


def teaching_columns(models: Models) -> list[list[str]]:
    """Models by how many generations of teachers stand before them; a control stands beside its student."""
    depths: dict[str, int] = {}
    for name, model in models.items():
        if model.role != "control" and sources_of(model):
            _measure_depth(models, name, depths, ())
    for name, model in models.items():
        if model.role == "control" and not sources_of(model) and name not in depths:
            students = (other for other in models if models[other].role == "student" and other in depths)
            of = model.like if model.like in depths else next(students, None)
            if of is not None:
                depths[name] = depths[of]
    order = {"student": 0, "control": 1, "teacher": 2, "model": 2, "ensemble": 3}
    ranked = sorted(depths, key=lambda name: order[models[name].role] if name in models else 4)
    return [[name for name in ranked if depths[name] == depth] for depth in range(max(depths.values(), default=-1) + 1)]


def describe_objectives(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short lines that say what was learnt from whom: weight, temperature and reduction of each objective."""
    lines = []
    for i, stage in enumerate(stages[:3]):
        if len(stages) > 1:
            lines.append(f"stage {i + 1} of {len(stages)}")
        for name, setting in stage.items():
            lines += _describe_objective(name, setting)
    return lines


def _describe_objective(name: str, setting: Any) -> Iterable[str]:
    title = name.replace("_", " ")
    if not isinstance(setting, Mapping):
        return [f"{title} × {_number(setting)}"]
    details = []
    if "temperature" in setting:
        squared = setting.get("temperature_squared")
        value = setting["temperature"]
        ends = (value["start"], value["end"]) if isinstance(value, Mapping) else (value,)
        details.append(f"T {'–'.join(map(_number, ends))}" + (" (× T²)" if squared else ""))
    if "reduction" in setting:
        details.append(str(setting["reduction"]).replace("_", " "))
    for kind in filter(None, (setting.get("schedule"), setting.get("gate"))):
        details.append(str(kind["kind"] if isinstance(kind, Mapping) else kind).replace("_", " "))
    first = f"{title} × {_number(setting['weight'])}" if "weight" in setting else title
    return [first, ", ".join(details)] if details else [first]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _measure_depth(models: Models, name: str, depths: dict[str, int], path: tuple[str, ...]) -> int:
    if name in path or name not in models:
        depths.setdefault(name, 0)
    elif name not in depths:
        sources = sources_of(models[name])
        depths[name] = 1 + max((_measure_depth(models, s, depths, (*path, name)) for s in sources), default=-1)
    return depths[name]


def _place(columns: Sequence[Sequence[str]], height: float) -> dict[str, Box]:
    """Spread columns over the width and each column's boxes over the height."""
    gap = {2: 2.6, 3: 1.65}.get(len(columns), 0.6)
    width = (WIDTH - 0.2 - gap * (len(columns) - 1)) / len(columns)
    return {
        name: Box(0.1 + i * (width + gap), height - height * (j + 0.5) / len(column), width)
        for i, column in enumerate(columns)
        for j, name in enumerate(column)
    }


def _draw_sources(
    axes: Any, boxes: Mapping[str, Box], columns: Mapping[str, int], name: str, model: ModelSummary
) -> None:
    """Arrows of one model's teachers or members, which meet before they reach it."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    box = boxes[name]
    averaged = model.role == "ensemble"
    style = {"edgecolor": FAINT, "linewidth": 1.1, "linestyle": ":" if averaged else "-"}
    lines = [] if averaged else describe_objectives(model.objectives)
    # Where the arrows have met; from there on they carry the objective, if there is one.
    meeting = box.x - (1.55 if lines else 0.35)
    curve = [Path.CURVE4] * 3
    for source in sources_of(model):
        path = _route(boxes[source], box, meeting, skips=columns[name] - columns[source] > 1)
        codes = [Path.MOVETO, *curve] if len(path) == 4 else [Path.MOVETO, *curve, Path.LINETO, *curve]
        axes.add_patch(PathPatch(Path(path, codes), facecolor="none", **style))
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "facecolor": FAINT, **style}
    axes.annotate("", (box.x, box.y), (meeting, box.y), arrowprops=arrow)
    half, place = (len(lines) + 1) // 2, (meeting + box.x) / 2
    axes.text(place, box.y + 0.05, "\n".join(lines[:half]), ha="center", va="bottom", fontsize=8, color=INK)
    axes.text(place, box.y - 0.05, "\n".join(lines[half:]), ha="center", va="top", fontsize=8, color=INK)


def _route(start: Box, end: Box, meeting: float, skips: bool) -> list[tuple[float, float]]:
    """Points of an arrow; one that skips a column runs under it, lest its boxes seem to teach."""
    right = start.x + start.width
    if not skips:
        middle = (right + meeting) / 2
        return [(right, start.y), (middle, start.y), (middle, end.y), (meeting, end.y)]
    low, turn = 0.05, meeting - 0.09
    down = [(right, start.y), (right + 0.25, start.y), (right, low), (right + 0.3, low)]
    return [*down, (turn - 0.2, low), (turn + 0.1, low), (turn, end.y), (meeting, end.y)]


def _draw_box(axes: Any, summary: Summary, name: str, box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    model = summary.models.get(name)
    colour = styles_of(summary)[name].colour if model else FAINT
    dashes = "--" if model is not None and model.role == "control" else "-"
    edge: dict[str, Any] = {"edgecolor": colour, "linewidth": 1.6, "linestyle": dashes}
    frame = FancyBboxPatch((box.x, box.y - _BOX_HEIGHT / 2), box.width, _BOX_HEIGHT, facecolor=PAPER, **edge)
    frame.set_boxstyle("round,pad=0,rounding_size=0.07")
    axes.add_patch(frame)
    middle, centred = box.x + box.width / 2, {"ha": "center", "va": "center"}
    bold = {"fontsize": 9, "fontweight": "bold", "color": colour}
    axes.text(middle, box.y + 0.16, label(name, int(box.width * 11)), **centred, **bold)
    for line, offset in zip(_facts(model), (-0.01, -0.17), strict=False):
        axes.text(middle, box.y + offset, label(line, int(box.width * 15)), fontsize=8, color=INK, **centred)


def _facts(model: ModelSummary | None) -> list[str]:
    """Two lines on a model: what it is, and how well it does."""
    if model is None:
        return ["trained elsewhere"]
    size = human(model.parameters) if model.parameters else ""
    kind = {"ensemble": "average", "control": "no teacher"}.get(model.role, model.architecture or model.preset or "")
    loss = mean_of(values_of(model, "test.loss").values())
    first = ", ".join(part for part in (kind, size) if part) or model.role
    return [first, f"test loss {loss:.3f}" if loss is not None else ""]
