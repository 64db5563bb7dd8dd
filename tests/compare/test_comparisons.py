"""Which pairs are compared, on what, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.compare.comparisons import compare, pairs_to_compare, paradigm_differences, with_comparisons
from tutelage.compare.statistics import paired_t
from tutelage.compare.summary import read_models


def by_metric(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["metric"]: entry for entry in entries}


def test_student_and_control_pair_by_seed(full: dict[str, Any]) -> None:
    models = full["models"]
    found = by_metric(compare(models, "student", "control"))
    assert list(found) == [
        "test.loss", "test.bits_per_byte", "blimp.accuracy", "blimp.strict",
        "blimp-supplement.accuracy", "blimp-supplement.strict",
    ]  # fmt: skip
    losses = [
        (int(s), models["student"]["seeds"][s]["test"]["loss"], models["control"]["seeds"][s]["test"]["loss"])
        for s in ("0", "1", "2")
    ]
    entry, reference = found["test.loss"], paired_t([a - b for _, a, b in losses])
    assert [tuple(pair) for pair in entry["pairs"]] == losses
    assert entry["mean"] == pytest.approx(reference.mean)
    assert entry["interval"] == pytest.approx(reference.interval)
    assert entry["detectable"] == pytest.approx(reference.half_width)
    assert (entry["n"], entry["better"], entry["unit"]) == (3, "lower", "nats")
    assert entry["verdict"] == "shown: student better"
    assert entry["permutation_p"] is None


def test_reversing_a_comparison_reverses_only_its_signs(full: dict[str, Any]) -> None:
    there, back = (by_metric(compare(full["models"], *pair))["test.loss"] for pair in
                   (("student", "control"), ("control", "student")))  # fmt: skip
    assert back["mean"] == pytest.approx(-there["mean"])
    assert back["p"] == pytest.approx(there["p"])
    assert back["verdict"] == there["verdict"]


def test_one_seed_is_never_a_test(full: dict[str, Any]) -> None:
    teacher = compare(full["models"], "student", "teacher-llama", ["test.loss"])[0]
    assert (teacher["interval"], teacher["p"], teacher["pairs"], teacher["n"]) == (None, None, [], 0)
    assert teacher["verdict"] == "too few seeds: not tested"
    teachers = compare(full["models"], "teacher-gpt2", "teacher-llama", ["test.loss"])[0]
    assert teachers["verdict"] == "one seed: not tested"
    assert teachers["n"] == 1


def test_six_seeds_add_the_permutation_test(full: dict[str, Any]) -> None:
    for name in ("student", "control"):
        seeds = full["models"][name]["seeds"]
        for seed in range(3, 7):
            run = seeds[str(seed)] = {"test": {"loss": seeds[str(seed % 3)]["test"]["loss"] + 0.001 * seed**2}}
            run["test"]["loss"] += 0.01 * (name == "control")
    entry = compare(full["models"], "student", "control", ["test.loss"])[0]
    assert entry["n"] == 7
    assert entry["permutation_p"] == pytest.approx(2 / 2**7)


def test_seeds_without_partner_are_named(full: dict[str, Any]) -> None:
    del full["models"]["control"]["seeds"]["1"]
    entry = compare(full["models"], "student", "control", ["test.loss"])[0]
    assert [pair[0] for pair in entry["pairs"]] == [0, 2]
    assert entry["note"] == "seeds without a partner left out: 1"


def test_other_conventions_are_not_compared(full: dict[str, Any]) -> None:
    for run in full["models"]["control"]["seeds"].values():
        run["suites"]["blimp"]["convention"] = "2023"
    entry = compare(full["models"], "student", "control", ["blimp.accuracy"])[0]
    assert entry["verdict"] == "not comparable"
    assert entry["interval"] is None
    assert paradigm_differences(read_models(full["models"]), "student", "control", "blimp") is None


def test_paradigms_have_intervals_and_correction(full: dict[str, Any]) -> None:
    entry = paradigm_differences(read_models(full["models"]), "student", "control", "blimp")
    assert entry is not None
    assert len(entry.rows) == 67
    seeds = full["models"]
    for row in entry.rows:
        differences = [
            seeds["student"]["seeds"][s]["suites"]["blimp"]["paradigms"][row.paradigm]["accuracy"]
            - seeds["control"]["seeds"][s]["suites"]["blimp"]["paradigms"][row.paradigm]["accuracy"]
            for s in ("0", "1", "2")
        ]
        assert row.mean == pytest.approx(np.mean(differences))
        assert row.p_holm >= row.p
    assert paradigm_differences(read_models(full["models"]), "student", "control", "nothing") is None


def with_margins(full: dict[str, Any], folder: Path) -> None:
    """Give student and control item margins, and the accuracies that follow from them."""
    for name, skill in (("student", 0.45), ("control", 0.3)):
        for seed, run in full["models"][name]["seeds"].items():
            generator = np.random.default_rng([int(seed), int(100 * skill)])
            paradigms = run["suites"]["blimp"]["paradigms"]
            margins = {uid: generator.normal(skill, 1, 120) for uid in paradigms}
            for uid, values in margins.items():
                paradigms[uid]["accuracy"] = paradigms[uid]["strict"] = float(np.mean(values > 0))
            accuracy = float(np.mean([entry["accuracy"] for entry in paradigms.values()]))
            run["suites"]["blimp"] |= {"accuracy": accuracy, "strict": accuracy}
            run["suite_items"] = f"{name}-{seed}.npz"
            np.savez(folder / run["suite_items"], **{f"blimp/{uid}": values for uid, values in margins.items()})


def test_item_margins_widen_the_interval(full: dict[str, Any], tmp_path: Path) -> None:
    with_margins(full, tmp_path)
    bare = compare(full["models"], "student", "control", ["blimp.accuracy"])[0]
    items = compare(full["models"], "student", "control", ["blimp.accuracy"], items_folder=tmp_path)[0]
    assert bare["method"] == "paired t"
    assert items["method"] == "bootstrap over seeds and items"
    assert items["mean"] == pytest.approx(bare["mean"])
    assert items["detectable"] > bare["detectable"]
    entry = paradigm_differences(read_models(full["models"]), "student", "control", "blimp", items_folder=tmp_path)
    assert entry is not None
    assert entry.method == "bootstrap over seeds and items"


def test_margins_that_contradict_the_scores_are_left_out(full: dict[str, Any], tmp_path: Path) -> None:
    with_margins(full, tmp_path)
    for run in full["models"]["student"]["seeds"].values():
        run["suites"]["blimp"]["accuracy"] = 0.9
    entry = compare(full["models"], "student", "control", ["blimp.accuracy"], items_folder=tmp_path)[0]
    assert entry["method"] == "paired t"
    assert "do not reproduce" in entry["note"]


def test_margins_of_another_suite_or_a_broken_file_are_refused(full: dict[str, Any], tmp_path: Path) -> None:
    with_margins(full, tmp_path)
    file = tmp_path / "student-0.npz"
    uids = full["models"]["student"]["seeds"]["0"]["suites"]["blimp"]["paradigms"]
    np.savez(file, **{f"blimp/{uid}": np.ones(7) for uid in uids})
    with pytest.raises(UserError, match="differ in number"):
        compare(full["models"], "student", "control", ["blimp.accuracy"], items_folder=tmp_path)
    file.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match=r"student-0\.npz"):
        compare(full["models"], "student", "control", ["blimp.accuracy"], items_folder=tmp_path)


def test_unknown_names_are_refused_with_the_nearest(full: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="did you mean 'student'"):
        compare(full["models"], "studnet", "control")
    with pytest.raises(UserError, match=r"did you mean 'test\.loss'"):
        compare(full["models"], "student", "control", ["test.los"])


def test_filling_in_is_complete_and_happens_once(full: dict[str, Any], compared: dict[str, Any]) -> None:
    assert pairs_to_compare(full["models"])[0] == ("student", "control")
    pairs = {(entry["a"], entry["b"]) for entry in compared["comparisons"]}
    assert pairs == set(pairs_to_compare(full["models"]))
    assert {entry["suite"] for entry in compared["paradigm_differences"]} == {"blimp", "blimp-supplement"}
    assert with_comparisons(compared) == compared
