"""Reports say what the summary says, whatever is missing in it or hostile about it."""

from __future__ import annotations

import copy
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from rich.console import Console

from tutelage.base.errors import UserError
from tutelage.compare.comparisons import with_comparisons
from tutelage.compare.cost import cost_of
from tutelage.compare.summary import read_summary
from tutelage.report import plots, report
from tutelage.report.headline import headline, verdicts_table
from tutelage.report.html import page as page_of
from tutelage.report.plot_style import MARKERS, styles_of
from tutelage.report.plot_teaching import describe_objectives, teaching_columns
from tutelage.report.plot_training import thin
from tutelage.report.tables import Table, comparisons_table, models_table

HOSTILE = "<script>alert(1)</script>|`x`_*[a](http://e.vil)$b$ [red]&amp;\"'"


class Tags(HTMLParser):
    """Collects the tags of a page and checks that they close."""

    VOID = ("meta", "br", "path", "use", "rect", "image")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def tags_of(page: str) -> set[str]:
    parser = Tags()
    parser.feed(page)
    assert not parser.open
    return parser.seen


def terminal(summary: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.terminal_table(summary))
    return console.export_text()


@pytest.fixture(scope="module")
def page(compared: dict[str, Any]) -> str:
    return report.html_report(compared)


def test_every_number_of_the_models_table_is_the_summarys(compared: dict[str, Any], page: str) -> None:
    table = models_table(read_summary(compared))
    for row in table.rows:
        cells = dict(zip(table.header, row, strict=True))
        runs = list(compared["models"][cells["model"]]["seeds"].values())
        measures = {
            "test loss": [run["test"]["loss"] for run in runs],
            "perplexity": [run["test"]["perplexity"] for run in runs],
            "bits/byte": [run["test"]["bits_per_byte"] for run in runs],
            "blimp %": [100 * run["suites"]["blimp"]["accuracy"] for run in runs],
        }
        for name, values in measures.items():
            mean, _, around = cells[name].partition(" ± ")
            digits = len(mean.partition(".")[2])
            assert float(mean) == round(fmean(values), digits)
            assert (float(around) == round(stdev(values), digits)) if len(values) > 1 else not around
        for cell in row:
            assert cell in unescape(page)


def test_every_number_of_the_comparisons_is_the_summarys(compared: dict[str, Any]) -> None:
    paired = [entry for entry in compared["comparisons"] if entry["pairs"] and not entry["metric"].endswith(".strict")]
    rows = comparisons_table(read_summary(compared)).rows
    assert len(rows) == len(paired) == 4
    for entry, row in zip(paired, rows, strict=True):
        scale, digits = (100, 2) if entry["unit"] == "accuracy" else (1, 4)
        numbers = [float(text.replace("−", "-")) for text in (row[2], *row[3].split(" to "))]
        assert numbers == [round(scale * value, digits) for value in (entry["mean"], *entry["interval"])]
        assert row[6].startswith(entry["verdict"])


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "@import" not in page
    assert "script" not in tags_of(page)
    assert len(page) < 2_000_000
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert target in ids


def test_the_same_summary_gives_the_same_page(compared: dict[str, Any], page: str) -> None:
    assert report.html_report(compared) == page


def test_all_plots_of_a_full_run_are_there(compared: dict[str, Any]) -> None:
    names = [plot.name for plot in plots.draw(compared)]
    assert names == [
        "held-out", "teaching", "validation-loss", "curve-differences", "training-loss", "scores-blimp",
        "scores-blimp-supplement",
        "differences-blimp-student-control", "differences-blimp-supplement-student-control", "cost",
    ]  # fmt: skip


def test_plots_of_the_teachers_weight_need_a_schedule_or_a_gate(compared: dict[str, Any]) -> None:
    value = copy.deepcopy(compared)
    for number, run in enumerate(value["models"]["student"]["seeds"].values()):
        run["curves"]["teacher_weight"] = [[i, 100 * i, max(0.0, 0.5 - 0.1 * i)] for i in range(1, 10)]
        run["curves"]["gate_weight"] = [[i, 100 * i, 0.85] for i in range(1, 5)]
        bins = [
            {"loss": 0.5 * i, "student": i, "entropy": i, "gate_weight": (i + number) / 12, "tokens": 10}
            for i in range(9)
        ]
        run["gate_report"] = [{"stage": 0, "bins": bins}]
    drawn = {plot.name: plot for plot in plots.draw(value)}
    weight, gate = drawn["teacher-weight"].figure, drawn["gate-by-difficulty"].figure
    assert [axes.get_ylabel() for axes in weight.axes] == ["teachers' weight", "gate's weight"]
    assert weight.axes[0].lines[0].get_ydata().tolist()[-1] == 0
    # Three seeds and their mean.
    assert len(gate.axes[0].lines) == 4
    assert gate.axes[0].lines[3].get_ydata().tolist()[0] == pytest.approx(1 / 12)
    assert "The gate's weight by difficulty" in unescape(report.html_report(value))


def test_hostile_names_stay_text(full: dict[str, Any]) -> None:
    text = json.dumps(full).replace('"student"', json.dumps(HOSTILE)).replace('"teacher-llama"', '"_$x"')
    hostile = json.loads(text)
    hostile["models"][HOSTILE]["role"] = "student"
    hostile["recipe"] = hostile["resolved_recipe"]["name"] = HOSTILE
    hostile = with_comparisons(hostile)
    page = report.html_report(hostile)
    assert "script" not in tags_of(page)
    assert "<script" not in page
    assert HOSTILE in unescape(page)
    markdown = report.markdown_report(hostile)
    assert "<script" not in markdown.partition("```")[0]
    assert not re.search(r"(?<!\\)\]\(http", markdown.partition("```")[0])
    for line in markdown.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 7, 8, 9, 11, 12)
    assert "[red]" in terminal(hostile)


def test_backticks_of_notes_are_code_and_the_rest_is_text() -> None:
    table = Table(title="a < b", header=("c & d",), rows=(("`e`",),), note='Set `<f>` or "g".')
    text = page_of("title", "made", [table])
    assert "Set <code>&lt;f&gt;</code> or &#34;g&#34;." in text
    assert '<td class="w">`e`</td>' in text
    assert "<h2>a &lt; b</h2>" in text


def without(summary: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**summary, "models": {k: v for k, v in summary["models"].items() if k not in names}, "differences": []}


def drop_from_runs(summary: dict[str, Any], *keys: str) -> dict[str, Any]:
    for model in summary["models"].values():
        for run in model["seeds"].values():
            for key in keys:
                run.pop(key, None)
    return summary


def variants(full: dict[str, Any], minimal: dict[str, Any]) -> dict[str, tuple[dict[str, Any], str]]:
    """Summaries that lack something, each with the beginning of its answer."""
    ensemble = "ensemble(teacher-llama, teacher-gpt2)"
    one_seed = copy.deepcopy(full)
    for name in ("student", "control"):
        one_seed["models"][name]["seeds"] = {"0": one_seed["models"][name]["seeds"]["0"]}
    untrained = copy.deepcopy(full)
    for model in untrained["models"].values():
        model["seeds"] = {}
    everyone = list(full["models"])
    return {
        "minimal": (minimal, "This run has no student"),
        "no models": ({**minimal, "models": {}}, "This run has no student"),
        "no suites": (drop_from_runs(copy.deepcopy(full), "suites"), "Yes: on held-out loss"),
        "no test": (drop_from_runs(copy.deepcopy(full), "test"), "Yes: on blimp accuracy"),
        "no curves": (drop_from_runs(copy.deepcopy(full), "curves", "val", "seconds"), "Yes"),
        "no flops": (drop_from_runs(copy.deepcopy(full), "flops", "teacher_flops"), "Yes"),
        "one seed": (one_seed, "Cannot tell: on held-out loss student came out 0."),
        "untrained": (untrained, "Cannot tell: no comparison"),
        "no control": (without(full, "control"), "Cannot tell"),
        "no student": (without(full, "student", "control"), "This run has no student"),
        "ensemble alone": (without(full, *(n for n in everyone if n != ensemble)), "This run has no student"),
        "teachers elsewhere": (without(full, "teacher-llama", "teacher-gpt2", ensemble), "Yes"),
    }


NAMES = list(variants({"models": {"student": {"seeds": {"0": {}}}, "control": {"seeds": {"0": {}}}}}, {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_lacks_something_still_reports(name: str, full: dict[str, Any], minimal: dict[str, Any]) -> None:
    summary, beginning = variants(full, minimal)[name]
    summary = with_comparisons(summary)
    answer = headline(read_summary(summary))
    assert answer.sentence.startswith(beginning)
    page = report.html_report(summary)
    tags_of(page)
    assert "nan" not in page.lower().replace("finance", "")
    assert report.markdown_report(summary).startswith("# ")
    assert "Models" in terminal(summary)


def test_not_shown_says_what_could_not_be_seen(full: dict[str, Any]) -> None:
    for seed, run in full["models"]["student"]["seeds"].items():
        run["test"]["loss"] = full["models"]["control"]["seeds"][seed]["test"]["loss"] + (-1) ** int(seed) * 0.01
    summary = with_comparisons(full)
    entry = summary["comparisons"][0]
    answer = headline(read_summary(summary))
    assert entry["verdict"] == "not shown"
    assert answer.sentence.startswith("Cannot tell")
    assert f"effects below about {entry['detectable']:.4f} nats per token mostly go unseen" in answer.details


def test_what_was_shown_is_green(compared: dict[str, Any], page: str) -> None:
    # Strict accuracy, which equals accuracy here, has no row of its own.
    shown = [entry for entry in compared["comparisons"]
             if entry["verdict"].startswith("shown:") and not entry["metric"].endswith(".strict")]  # fmt: skip
    table, verdicts = comparisons_table(read_summary(compared)), verdicts_table(read_summary(compared))
    assert shown
    assert verdicts.green == {(0, verdicts.header.index("better?"))}
    assert len(table.green) == page.count('class="shown"') - len(verdicts.green) == len(shown)
    assert {table.header[column] for _, column in table.green} == {"verdict"}
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(report.terminal_table(compared))
    assert "\x1b[32mshown: " in console.export_text(styles=True)


def test_a_worse_student_is_said_to_be_worse(full: dict[str, Any]) -> None:
    for run in full["models"]["student"]["seeds"].values():
        run["test"]["loss"] += 1
    answer = headline(read_summary(with_comparisons(full)))
    assert answer.sentence.startswith("No: on held-out loss student fell behind control")


def test_the_order_of_a_comparison_does_not_change_the_answer(compared: dict[str, Any]) -> None:
    turned = copy.deepcopy(compared)
    for entry in turned["comparisons"]:
        if entry["b"] == "control":
            entry["a"], entry["b"], entry["mean"] = entry["b"], entry["a"], -entry["mean"]
            entry["interval"] = [-entry["interval"][1], -entry["interval"][0]]
    assert headline(read_summary(turned)) == headline(read_summary(compared))


def test_costs_count_each_teacher_once(full: dict[str, Any]) -> None:
    models = read_summary(full).models
    student, control = cost_of(models, "student"), cost_of(models, "control")
    assert student.total_flops == pytest.approx(3.6e14 + 4.7e14 + 6e14 + 8e14)
    assert control.total_flops == pytest.approx(3.6e14)
    assert student.total_seconds == pytest.approx(1150 + 2 * 900)
    full["models"]["teacher-gpt2"]["teachers"] = ["teacher-llama[0]@step-10", "student"]
    circle = cost_of(read_summary(full).models, "student")
    assert circle.teachers_training_flops == pytest.approx(14e14)


def test_the_graph_puts_teachers_before_students_and_controls_beside(full: dict[str, Any]) -> None:
    full["models"]["pupil"] = {"role": "student", "teachers": ["student", "hub/outside"]}
    columns = teaching_columns(read_summary(full).models)
    assert columns[0] == ["teacher-llama", "teacher-gpt2", "hub/outside"]
    assert columns[1][:2] == ["student", "control"]
    assert columns[2] == ["pupil"]
    assert describe_objectives([{"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}}]) == [
        "next token × 0.5",
        "distill × 0.5",
        "T 2",
    ]
    fading = {
        "weight": 0.5,
        "temperature": {"start": 4, "end": 1},
        "schedule": "ratio_linear",
        "gate": {"kind": "skip_certain"},
    }
    assert describe_objectives([{"distill": fading}]) == ["distill × 0.5", "T 4–1, ratio linear, skip certain"]
    plots.draw(full)


def test_models_look_different_and_the_same_everywhere(full: dict[str, Any]) -> None:
    for i in range(20):
        full["models"][f"more-{i}"] = {"role": "model"}
    found = styles_of(read_summary(full))
    assert len({(style.colour, style.dashes) for style in found.values()}) == len(found) == 25
    assert {style.marker for style in found.values()} == set(MARKERS)
    assert found["student"] == styles_of(read_summary(without(full, "teacher-llama")))["student"]


def test_thinning_keeps_the_mean_and_the_end() -> None:
    points = [(i, 10 * i, float(i)) for i in range(1, 1001)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[-1][:2] == (1000, 10000)
    assert fmean(point[2] for point in thinned) == pytest.approx(500.5)
    assert thin(points[:50], 100) == points[:50]


def test_publishing_writes_a_complete_folder(compared: dict[str, Any], tmp_path: Path) -> None:
    summary = copy.deepcopy(compared)
    summary["models"]["student"]["seeds"]["0"]["suite_items"] = "/home/someone/items.npz"
    folder = report.publish(summary, tmp_path / "babyllama-1m")
    text = (folder / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert {f"plots/{file.name}" for file in (folder / "plots").iterdir()} == set(links)
    assert len(links) == 10
    published = read_summary(folder / "summary.json")
    assert "someone" not in (folder / "summary.json").read_text(encoding="utf-8")
    assert [entry.mean for entry in published.comparisons] == [entry["mean"] for entry in compared["comparisons"]]
    # What is published can be published again, and what it no longer shows goes; other files stay.
    (folder / "plots" / "mine.png").write_bytes(b"")
    fewer = drop_from_runs(published.as_json(), "curves")
    report.publish(fewer, folder)
    left = {file.name for file in (folder / "plots").iterdir()}
    assert "validation-loss.png" not in left
    assert {"mine.png", "cost.png"} <= left


def test_publishing_over_another_recipe_is_refused(
    compared: dict[str, Any], minimal: dict[str, Any], tmp_path: Path
) -> None:
    report.publish(minimal, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="'bare', not of 'babyllama-1m'"):
        report.publish(compared, tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="it is a file"):
        report.publish(minimal, tmp_path / "file")


def test_plots_are_saved_as_svg_files(compared: dict[str, Any], tmp_path: Path) -> None:
    import xml.etree.ElementTree as ElementTree

    for file in plots.save(plots.draw(compared)[:2], tmp_path, "svg"):
        assert ElementTree.parse(file).getroot().tag.endswith("svg")


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_terminals_keep_every_name_whole_and_end_on_one_answer(width: int, full: dict[str, Any]) -> None:
    for i in range(8):
        full["models"][f"student-{i}"] = full["models"]["student"] | {"like": "student"}
    summary = with_comparisons(full)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.terminal_table(summary))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    first = [line.split("  ")[0] for line in lines]
    assert {"student", "control", "student-7", "teacher-gpt2"} <= set(first)
    assert sum(line.startswith("Yes:") for line in lines) == 1
    # No column of single letters.
    assert not any(re.fullmatch(r"\S( +\S)* *", line) for line in lines)
