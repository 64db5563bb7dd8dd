"""The summary refuses what it cannot mean, and says where."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.base.errors import UserError
from tutelage.compare.summary import base_name, read_summary


def test_what_is_read_is_what_is_written(compared: dict[str, Any]) -> None:
    once = read_summary(compared).as_json()
    assert once == compared
    assert read_summary(json.loads(json.dumps(once))).as_json() == once


def test_tuples_and_files_are_read_alike(minimal: dict[str, Any], tmp_path: Path) -> None:
    minimal["models"]["only"]["seeds"] = {"0": {"curves": {"val_loss": [(1, 10, 9.0), (2, 20, 8.0)]}}}
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(minimal))
    assert read_summary(file) == read_summary(minimal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"modles": {}}, "modles"),
        ({"models": {"only": {"role": "boss"}}}, r"models\.only\.role"),
        ({"models": {"only": {"role": "model", "seeds": {"first": {}}}}}, "'first' is not an integer"),
        ({"models": {"only": {"role": "model", "seeds": {"0": {"steps": 1.5}}}}}, r"seeds\.0\.steps"),
        ({"models": {"only": {"role": "model", "seeds": {"0": {"test": {"loss": float("nan")}}}}}}, "loss = nan"),
        ({"models": {"only": {"role": "model", "seeds": {"0": {"seconds": float("inf")}}}}}, "seconds = inf"),
        ({"machine": {"cpu": Path("x")}}, "not JSON"),
        ({"differences": [{"a": "only", "b": "gone", "keys": []}]}, "'gone'"),
    ],
)
def test_what_does_not_fit_is_named(minimal: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_summary({**minimal, **change})


def test_accuracies_are_shares_not_percentages(full: dict[str, Any]) -> None:
    full["models"]["student"]["seeds"]["0"]["suites"]["blimp"]["accuracy"] = 61.0
    with pytest.raises(UserError, match=r"suites\.blimp\.accuracy.*61"):
        read_summary(full)


@pytest.mark.parametrize("reference", ["big", "big[1]", "big@step-20", "big[12]@step-20", "big@final"])
def test_a_teacher_reference_names_its_model(reference: str) -> None:
    assert base_name(reference) == "big"


def test_the_documented_keys_are_the_real_ones() -> None:
    from tutelage.compare import summary, summary_pairs, summary_runs
    from tutelage.evaluation.benchmarks import results
    from tutelage.training import outcome

    page = (Path(__file__).parents[2] / "docs" / "summary-schema.md").read_text(encoding="utf-8")
    kinds = "Summary ModelSummary SeedRun Comparison ParadigmRow SuiteScores MeasuredScores"
    kinds += " Reached ReachedSeed Spent Mean CurveDifference CurvePoint Along"
    kinds += " SelectionSummary SelectedExample Difference"
    for kind in kinds.split():
        holder = next(part for part in (summary, summary_runs, summary_pairs, results) if hasattr(part, kind))
        for name, field in getattr(holder, kind).model_fields.items():
            assert f"`{field.alias or name}`" in page, f"{kind}.{name} is not documented"
    for record in (outcome.HeldOut, outcome.GateBin, outcome.GateStage, results.ParadigmScore, results.MeasuredValue):
        for field in dataclasses.fields(record):
            assert f"`{field.name}`" in page, f"{record.__name__}.{field.name} is not documented"
