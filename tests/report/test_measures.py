"""Evaluations with units and directions of their own: in comparisons, tables, plots, and beside published scores."""

from __future__ import annotations

import copy
import io
import re
from html import unescape
from statistics import fmean
from typing import Any, get_args

import numpy as np
import pytest
from rich.console import Console

from tutelage.base.errors import UserError
from tutelage.compare.comparisons import compare, with_comparisons
from tutelage.compare.metrics import UNITS, evaluations_of, main_evaluations
from tutelage.compare.statistics import paired_t
from tutelage.compare.summary import read_summary
from tutelage.evaluation.baselines import NEAR, published, relevant
from tutelage.evaluation.benchmarks.results import Unit
from tutelage.report import plots, report
from tutelage.report.headline import headline
from tutelage.report.plot_scores import apart
from tutelage.report.table_scores import evaluations_table, published_table
from tutelage.report.tables import comparisons_table, described_table, models_table

KINDS = {
    "reading": ("eye_tracking", "percent", "higher", 0.4),
    "aoa-2023": ("deviation", "months", "lower", 3.1),
    "wug-past": ("correlation", "correlation", "higher", 0.2),
    "glue:cola": ("mcc", "mcc", "higher", 0.1),
    "glue:mrpc": ("f1", "f1", "higher", 0.8),
    "calibration": ("error", "share", "lower", 0.12),
}


def measured(name: str, shift: float) -> dict[str, Any]:
    key, unit, better, middle = KINDS.get(name, ("accuracy", "accuracy", "higher", 0.6))
    values = {key: {"value": middle + shift, "unit": unit, "better": better, "n": 50}}
    if name == "reading":
        values["self_paced"] = {"value": 0.1 + shift, "unit": "percent", "better": "higher", "n": 50}
    return {"convention": "2025", "headline": key, "values": values}


def with_measures(full: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Give every model all of these; students are better by something that varies from seed to seed."""
    generator = np.random.default_rng(3)
    for model_name, model in full["models"].items():
        for seed, run in model["seeds"].items():
            run["measures"] = {}
            for name in names:
                good = -1 if KINDS.get(name, ("", "", "higher"))[2] == "lower" else 1
                gain = good * 0.02 * (model_name == "student") + generator.normal(0, 0.002) + 0.001 * int(seed)
                run["measures"][name] = measured(name, gain)
    full["resolved_recipe"]["evaluate"] = ["test", *names, "blimp", "blimp-supplement"]
    return full


@pytest.fixture
def many(full: dict[str, Any]) -> dict[str, Any]:
    """Twenty evaluations beside two suites."""
    names = [*KINDS, *(f"glue:task-{i}" for i in range(12))]
    return with_measures(full, names)


def by_metric(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["metric"]: entry for entry in entries}


def test_headlines_are_compared_with_their_units_and_directions(many: dict[str, Any]) -> None:
    found = by_metric(compare(many["models"], "student", "control"))
    assert "reading.self_paced" not in found
    for name, (key, unit, better, _) in KINDS.items():
        entry = found[f"{name}.{key}"]
        values = [[many["models"][m]["seeds"][s]["measures"][name]["values"][key]["value"] for s in "012"]
                  for m in ("student", "control")]  # fmt: skip
        reference = paired_t([a - b for a, b in zip(*values, strict=True)])
        assert (entry["unit"], entry["better"], entry["n"]) == (unit, better, 3)
        assert entry["mean"] == pytest.approx(reference.mean)
        assert entry["interval"] == pytest.approx(reference.interval)
        assert entry["verdict"] == "shown: student better"
        assert (entry["mean"] < 0) == (better == "lower")
        worse = by_metric(compare(many["models"], "control", "student"))[f"{name}.{key}"]
        assert worse["verdict"] == "shown: student better"


def test_every_value_on_request(many: dict[str, Any]) -> None:
    assert "reading.self_paced" in by_metric(compare(many["models"], "student", "control", every=True))
    [one] = compare(many["models"], "student", "control", ["reading.self_paced"])
    assert one["unit"] == "percent"
    with pytest.raises(UserError, match=r"'reading\.self_pace'; did you mean 'reading\.self_paced'"):
        compare(many["models"], "student", "control", ["reading.self_pace"])


def test_what_cannot_be_told_is_left_out_and_named(many: dict[str, Any]) -> None:
    lost = many["models"]["control"]["seeds"]["1"]["measures"]["reading"]["values"]["eye_tracking"]
    lost |= {"value": None, "note": "the fit failed"}
    entry = by_metric(compare(many["models"], "student", "control"))["reading.eye_tracking"]
    assert [pair[0] for pair in entry["pairs"]] == [0, 2]
    assert entry["note"] == "seeds without a partner left out: 1"
    assert "reading.eye_tracking: the fit failed (control)." in evaluations_table(read_summary(many)).note


@pytest.mark.parametrize("change", [{"convention": "2026"}, {"unit": "correlation"}, {"better": "lower"}])
def test_other_rules_are_not_compared(many: dict[str, Any], change: dict[str, str]) -> None:
    for run in many["models"]["control"]["seeds"].values():
        one = run["measures"]["reading"]
        (one if "convention" in change else one["values"]["eye_tracking"]).update(change)
    entry = by_metric(compare(many["models"], "student", "control"))["reading.eye_tracking"]
    assert (entry["verdict"], entry["interval"]) == ("not comparable", None)
    table = evaluations_table(read_summary(many))
    row = next(i for i, cells in enumerate(table.rows) if cells[0] == "reading")
    assert not {column for at, column in table.bold if at == row}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"headline": "gone"}, "headline 'gone' is not among values"),
        ({"values": {"a.b": {"value": 1.0, "unit": "percent"}}, "headline": "a.b"}, "has a dot"),
        ({"values": {"a": {"value": 1.0, "unit": "furlongs"}}, "headline": "a"}, r"values\.a\.unit"),
        ({"values": {"a": {"value": float("nan"), "unit": "percent"}}, "headline": "a"}, "value = nan"),
        ({"extra": 1}, "extra"),
    ],
)
def test_summaries_refuse_measures_that_mean_nothing(
    full: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    full["models"]["student"]["seeds"]["0"]["measures"] = {"reading": measured("reading", 0) | change}
    with pytest.raises(UserError, match=message):
        read_summary(full)


def test_a_name_is_a_suite_or_a_measure(full: dict[str, Any]) -> None:
    full["models"]["student"]["seeds"]["0"]["measures"] = {"blimp": measured("reading", 0)}
    with pytest.raises(UserError, match="'blimp' stands in suites and in measures"):
        read_summary(full)


def test_every_unit_is_shown() -> None:
    assert set(get_args(Unit)) <= UNITS.keys()


def test_twenty_evaluations_stay_readable(many: dict[str, Any]) -> None:
    summary = read_summary(with_comparisons(many))
    assert len(evaluations_of(summary)) == 20
    main = models_table(summary)
    assert main_evaluations(summary) == ["reading", "aoa-2023", "wug-past"]
    assert [column for column in main.header if column not in ("model", "role", "params", "seeds")] == [
        "test loss", "perplexity", "bits/byte", "reading %", "aoa-2023 months", "wug-past", "words seen", "time",
    ]  # fmt: skip
    table = evaluations_table(summary)
    assert table.header[3:] == tuple(summary.models)
    assert [row[:2] for row in table.rows][:4] == [
        ("reading", "eye tracking (%)"), ("reading", "self paced (%)"), ("aoa-2023", "deviation (months) ↓"),
        ("wug-past", "correlation"),
    ]  # fmt: skip
    brief = {cells[0] for cells in comparisons_table(summary, brief=True).rows}
    assert brief == {"student − control"}
    wide = described_table(summary)
    assert wide.header[0] == "measure"
    assert len(wide.rows) > 20


def test_the_best_of_a_row_is_bold_and_right(many: dict[str, Any]) -> None:
    del many["models"]["control"]["seeds"]["0"]["measures"]["glue:cola"]
    summary = read_summary(many)
    table = evaluations_table(summary)
    names = list(summary.models)
    student = table.header.index("student")
    for i, row in enumerate(table.rows):
        bold = {column for at, column in table.bold if at == i}
        if row[0] in KINDS and row[1].startswith(KINDS[row[0]][0].replace("_", " ")):
            assert bold == {student}, row
            key, unit, _, _ = KINDS[row[0]]
            values = [run["measures"][row[0]]["values"][key]["value"]
                      for run in many["models"]["student"]["seeds"].values()]  # fmt: skip
            shown = UNITS[unit]
            assert float(row[student].split(" ± ")[0]) == round(fmean(values) * shown.scale, shown.digits)
    assert table.rows[0][3 + names.index("ensemble(teacher-llama, teacher-gpt2)")] != "–"


def test_pages_say_the_same_as_the_table(many: dict[str, Any]) -> None:
    summary = with_comparisons(many)
    table = evaluations_table(read_summary(summary))
    page, markdown = report.html_report(summary), report.markdown_report(summary)
    bold = [table.rows[row][column] for row, column in sorted(table.bold)]
    found = [unescape(cell) for cell in re.findall(r'<td class="best">([^<]*)</td>', page)]
    assert sorted(found) == sorted(bold)
    for cell in bold:
        assert f"**{cell}**" in markdown
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.terminal_table(summary))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.count("eye tracking (%)") >= 2, "columns that do not fit go to a table below"
    assert "student − teacher-gpt2" in text, "no column is cropped away"
    assert "more stand in the report" in text or "wug-past correlation" in text


def test_the_first_sentences_stay_short(many: dict[str, Any]) -> None:
    answer = headline(read_summary(with_comparisons(many)))
    assert answer.sentence.startswith("Yes: on held-out loss")
    assert len(answer.details) < 1500
    assert re.search(r"Of 16 more measures, \d+ showed the student better, \d+ the control", answer.details)


def test_units_are_right_in_sentences(many: dict[str, Any]) -> None:
    for run in (run for model in many["models"].values() for run in model["seeds"].values()):
        run.pop("test")
        run["suites"] = {}
        run["measures"] = {"aoa-2023": run["measures"]["aoa-2023"]}
    sentence = headline(read_summary(with_comparisons(many))).sentence
    assert re.match(r"Yes: on aoa-2023 deviation student beat control, .* by 0\.\d\d months \(95 % interval", sentence)


def test_a_panel_for_every_evaluation(many: dict[str, Any]) -> None:
    [plot] = [plot for plot in plots.draw(many) if plot.name == "evaluations"]
    titles = [axes.get_title(loc="left") for axes in plot.figure.axes if axes.get_visible()]
    assert titles == evaluations_of(read_summary(many))
    labels = [axes.get_xlabel() for axes in plot.figure.axes]
    assert "deviation (months), lower is better" in labels
    assert "eye tracking (%), higher is better" in labels


def test_chance_follows_the_number_of_options(full: dict[str, Any]) -> None:
    for model in full["models"].values():
        for run in model["seeds"].values():
            run["suites"]["blimp"]["chance"] = 0.25
    [plot] = [plot for plot in plots.draw(full) if plot.name == "scores-blimp"]
    [chance] = [text for axes in plot.figure.axes for text in axes.texts if text.get_text() == "chance"]
    assert chance.xy[1] == 25


def test_published_scores_are_set_beside_and_never_counted(full: dict[str, Any]) -> None:
    summary = with_comparisons(full)
    table = published_table(read_summary(summary))
    assert {row[2] for row in table.rows} == {"2024", "2025", "2026"}
    assert "blimp-filtered %" in table.header
    assert "part of no comparison" in table.note
    page = report.html_report(summary)
    for system in published():
        assert system.name in unescape(page)
    names = {system.name for system in published()}
    assert not names & summary["models"].keys()
    assert not names & {name for entry in summary["comparisons"] for name in (entry["a"], entry["b"])}
    [plot] = [plot for plot in plots.draw(full) if plot.name == "scores-blimp"]
    texts = " ".join(text.get_text() for text in plot.figure.axes[0].texts)
    assert "BabyLlama-2, run 1, 10M, 2024: 73.2" in texts


def test_runs_without_those_benchmarks_show_nothing_published(full: dict[str, Any]) -> None:
    bare = copy.deepcopy(full)
    for model in bare["models"].values():
        for run in model["seeds"].values():
            run["suites"] = {}
    assert not published_table(read_summary(bare)).rows
    assert "Published by others" not in report.html_report(bare)
    assert relevant(["starter-pairs"]) == []


def test_every_published_number_has_a_source() -> None:
    systems = published()
    assert len({(s.name, s.words, s.year) for s in systems}) == len(systems)
    for system in systems:
        assert system.scores
        assert system.source
        assert system.url.startswith("https://")
        assert system.words in ("10M", "100M")
    keys = {key for system in systems for key in system.scores}
    assert set(NEAR.values()) <= keys | {"ewok", "entity-tracking"}
    run_1 = next(s for s in systems if s.name == "BabyLlama-2, run 1")
    four = [run_1.scores[key] for key in ("blimp-filtered", "blimp-supplement", "ewok", "glue")]
    assert fmean(four) == pytest.approx(run_1.scores["macro"], abs=0.1)


@pytest.mark.parametrize("heights", [[1.0, 1.1, 1.2, 5.0], [0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 3.0, 3.1]])
def test_labels_move_apart_no_further_than_needed(heights: list[float]) -> None:
    placed = apart(heights, 0.5)
    gaps = np.diff(placed)
    assert all(gaps >= 0.5 - 1e-9)
    assert fmean(placed) == pytest.approx(fmean(heights))
    if min(np.diff(heights), default=1) >= 0.5:
        assert placed == heights
