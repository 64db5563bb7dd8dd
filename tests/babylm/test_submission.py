"""Submissions of BabyLM: complete ones in the published sizes pass the validator, faults are told with their place."""

import gzip
import json
import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tutelage.babylm.check import check_collated, validate_submission
from tutelage.babylm.format import FORMATS, schedule
from tutelage.babylm.older import SIZES_2024, SUB_TASKS_2023, write_2023, write_2024
from tutelage.babylm.write import (
    Fast,
    Submission,
    accuracies,
    collate,
    label_predictions,
    measured_predictions,
    measured_scores,
    options_of,
    suite_predictions,
    write_submission,
)
from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.suites.pairs import read_pairs
from tutelage.evaluation.suites.questions import Paradigm, Question
from tutelage.recipe.words import read_words


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """Hundreds of files are written here, and none needs to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


CHOICES = ("completion", "sentence", "probability", "example")


def questions(task, name: str, size: int) -> tuple[Question, ...]:
    """Made-up items with the shapes of the task's real ones."""

    def options(index: int) -> tuple[Item, ...]:
        prefix = f"{name} {index}:" if prefixed else ""
        return tuple(Item(f" option {number}" if prefix else f"Option {number}.", prefix) for number in range(count))

    count = 5 if "entity" in task.key else 2
    prefixed = task.shape in ("sentence", "example") or task.key in ("ewok", "entity_tracking")
    return tuple(Question(options(index)) for index in range(size))


def paradigms_of(task) -> tuple[Paradigm, ...]:
    names = {"": "eng_latn"} if task.shape == "example" else {name: name for name in task.sizes}
    return tuple(Paradigm(names[name], questions(task, name, size)) for name, size in task.sizes.items())


def drawn(paradigms, seed: int = 0) -> dict:
    draw = np.random.default_rng(seed)
    return {p.uid: draw.integers(len(p.questions[0].options), size=len(p.questions)) for p in paradigms}


def ids_of(task) -> list[str] | None:
    return [f"{task.key}-{index}" for index in range(task.sizes[""])] if task.shape == "example" else None


def reading(rows: list[dict]) -> MeasuredResult:
    values = {"eye_tracking": MeasuredValue(3.1, "percent"), "self_paced_reading": MeasuredValue(1.2, "percent")}
    return MeasuredResult("reading", "2025", "eye_tracking", values, {"reading": {"predictions": rows}})


def predicted(task, seed: int = 0):
    if task.shape == "reading":
        rows = [
            {"id": i, "pred": 3.5 + i, "prev_pred": None if i % 9 == 0 else 2.5} for i in range(task.sizes["reading"])
        ]
        return measured_predictions(reading(rows))
    paradigms = paradigms_of(task)
    found = suite_predictions(task, paradigms, drawn(paradigms, seed), ids_of(task))
    if task.shape == "probability":
        found = {name: {"predictions": [one | {"prob": 0.25} for one in value["predictions"]]}
                 for name, value in found.items()}  # fmt: skip
    return found


def scored(task, predictions) -> dict[str, float]:
    if task.shape == "reading":
        return measured_scores(task, reading([]))
    if task.shape == "probability":
        values = {"spearman": MeasuredValue(-0.2, "correlation")}
        return measured_scores(task, MeasuredResult(task.key, "2025", "spearman", values))
    return accuracies(task, paradigms_of(task), predictions)


def surprisals(revisions, words: int) -> dict:
    rows = [
        {"step": step, "word_count": read_words(step.removeprefix("chck_")), "target_word": f"word{i // 16}",
         "context_id": i % 16, "context": "A", "surprisal": 7.25}
        for step in revisions for i in range(words)
    ]  # fmt: skip
    return {"metadata": {"model_name": "tiny"}, "results": rows}


@cache
def complete(year: str, track: str = "strict-small", checkpoints: int | None = None) -> Submission:
    """What a random chooser says of a data set in the sizes of its year."""
    form, revisions = FORMATS[year], schedule(track)[:checkpoints]
    full = {task.key: predicted(task) for task in form.full}
    draw = random.Random(0)
    for task in form.glue:
        full[task.key] = label_predictions(
            task.key, [draw.randrange(task.classes) for _ in range(task.sizes[task.key])]
        )
    said = {task.key: predicted(task, 1) for task in form.fast}
    fast = {task.key: Fast(said[task.key], scored(task, said[task.key])) for task in form.fast}
    words = surprisals(revisions, form.words)
    return Submission("tiny", year, track, "causal", full, dict.fromkeys(revisions, fast), words, 0.125)


@pytest.fixture(scope="module", params=["2025", "2026"])
def whole(request) -> Submission:
    return complete(request.param)


@pytest.fixture(scope="module")
def written(whole, tmp_path_factory) -> Path:
    return write_submission(whole, tmp_path_factory.mktemp("results"))


def test_a_complete_submission_passes(whole, written) -> None:
    assert validate_submission(written, whole.year) == []
    assert validate_submission(written, whole.year, "strict-small") == []
    assert validate_submission(written.parent, whole.year) == []
    other = "2026" if whole.year == "2025" else "2025"
    assert validate_submission(written, other) != []


@pytest.mark.slow
def test_a_complete_submission_in_the_published_sizes_passes(published_sizes, tmp_path: Path) -> None:
    written = write_submission(complete.__wrapped__("2025"), tmp_path)
    assert validate_submission(written, "2025", "strict-small") == []
    assert len(json.loads(written.read_text())["blimp"]["principle_A_c_command"]["predictions"]) == 946


def test_options_of_the_data_are_held_against_it(whole, written) -> None:
    tasks = [task for task in FORMATS[whole.year].full if task.shape in CHOICES]
    options = {task.key: options_of(task, paradigms_of(task), ids_of(task)) for task in tasks}
    assert validate_submission(written, whole.year, options=options) == []
    options["comps"]["base"][7] = ["another", "sentence"]
    faults = validate_submission(written, whole.year, options=options)
    assert [fault.place for fault in faults] == ["comps.base[7].pred"]


def test_collated_file_is_as_published(whole, written) -> None:
    collated = json.loads(written.read_text())
    assert written.name == "all_full_preds_and_fast_scores_causal.json"
    assert tuple(collated) == FORMATS[whole.year].keys
    blimp = collated["blimp"]["principle_A_c_command"]["predictions"]
    assert blimp[3]["id"] == "principle_A_c_command_3"
    assert blimp[3]["pred"] in ("Option 0.", "Option 1.")
    assert len(blimp) == 946 // 20
    assert collated["comps"]["base"]["predictions"][0]["pred"] in ("base 0: option 0", "base 0: option 1")
    ewok = collated["ewok"]["social-relations"]["predictions"][1]["pred"]
    # 2026 compares contexts, so that the target alone would say nothing.
    assert ewok.startswith("social-relations 1: option" if whole.year == "2026" else " option")
    reading = collated["reading"]["reading"]["predictions"]
    assert reading[1] == {"id": 1, "pred": 4.5, "prev_pred": 2.5}
    assert math.isnan(reading[0]["prev_pred"])
    assert collated["glue"]["boolq"]["predictions"][5]["id"] == "boolq_5"
    fast = collated["fast_eval_results"]
    assert {len(values) for values in fast.values()} == {19}
    assert fast["reading"][0] == {"spr": pytest.approx(0.012), "rt": pytest.approx(0.031)}
    if whole.year == "2025":
        assert collated["wug_past"]["wug_past"]["predictions"][0].keys() == {"id", "pred", "prob"}
        assert collated["aoa"]["results"][0]["step"] == "chck_1M"
        assert "entity_tracking" in fast
    else:
        assert collated["aoa"] == {"aoa": 0.125}
        key = "global_piqa_parallel-4"
        assert collated["global_piqa_parallel"][key]["predictions"][0]["id"] == f"{key}_0"
        assert fast["global_piqa_parallel"][0].keys() == {"global_piqa_parallel"}
        assert "entity_tracking_filtered" in fast


def test_tree_is_as_published(whole, written) -> None:
    base = written.parent
    assert (base / "main/zero_shot/causal/blimp/supplement_filtered/predictions.json").is_file()
    assert (base / "chck_30M/zero_shot/causal/entity_tracking/entity_tracking_fast/predictions.json").is_file()
    assert (base / "chck_2M/zero_shot/causal/reading/predictions.json").is_file()
    assert (base / "main/finetune/wsc/predictions.json").is_file()
    assert (base / "main/zero_shot/causal/AoA_word/surprisal.json").is_file()
    assert (base / "main/zero_shot/causal/AoA_word/aoa_score.json").is_file() == (whole.year == "2026")


def broken(text: str, change) -> list[str]:
    collated = json.loads(text)
    change(collated)
    return [str(fault) for fault in check_collated(collated, FORMATS["2025"], "strict-small")]


@pytest.fixture(scope="module")
def good() -> str:
    return json.dumps(collate(complete("2025")))


FAULTS = {
    "a lost item": (
        lambda c: c["blimp"]["wh_island"]["predictions"].pop(),
        ["blimp.wh_island: has 47 predictions, the data file 48 lines"],
    ),
    "two items in another order": (
        lambda c: c["ewok"]["physical-dynamics"]["predictions"].insert(
            0, c["ewok"]["physical-dynamics"]["predictions"].pop(1)
        ),
        ["ewok.physical-dynamics[0].id: is 'physical-dynamics_1', its place asks for 'physical-dynamics_0'",
         "ewok.physical-dynamics[1].id: is 'physical-dynamics_0', its place asks for 'physical-dynamics_1'"],
    ),
    "a sub-task by its file's name": (
        lambda c: c["comps"].update(comps_base=c["comps"].pop("base")),
        ["comps.comps_base: is no sub-task of it", "comps.base: is missing"],
    ),
    "a sub-task in lower case": (
        lambda c: c["blimp"].update(principle_a_case_1=c["blimp"].pop("principle_A_case_1")),
        ["blimp.principle_a_case_1: is no sub-task of it; did you mean 'principle_A_case_1'?",
         "blimp.principle_A_case_1: is missing"],
    ),
    "a class as a text": (
        lambda c: c["glue"]["rte"]["predictions"][3].update(pred="1"),
        ["glue.rte[3].pred: is '1', not a class from 0 to 1"],
    ),
    "a class that does not exist": (
        lambda c: c["glue"]["wsc"]["predictions"][0].update(pred=2),
        ["glue.wsc[0].pred: is 2, not a class from 0 to 1"],
    ),
    "an empty text": (
        lambda c: c["entity_tracking"]["regular_2_ops"]["predictions"][9].update(pred=" "),
        ["entity_tracking.regular_2_ops[9].pred: is ' ', not the text of an option"],
    ),
    "no probability": (
        lambda c: c["wug_past"]["wug_past"]["predictions"][1].pop("prob"),
        ["wug_past[1]: is no object with the keys id, pred, prob"],
    ),
    "a probability beyond one": (
        lambda c: c["wug_adj"]["wug_adj"]["predictions"][1].update(prob=1.5),
        ["wug_adj[1].prob: is 1.5, not a probability"],
    ),
    "an infinite surprisal": (
        lambda c: c["reading"]["reading"]["predictions"][2].update(pred=math.inf),
        ["reading[2].pred: is inf, not a surprisal of at least 0"],
    ),
    "a task that is not there": (lambda c: c.pop("comps"), ["comps: is missing"]),
    "null in 2025": (lambda c: c.update(aoa=None), ["aoa: is missing"]),
    "a glue task that is not there": (lambda c: c["glue"].pop("qqp"), ["glue.qqp: is missing"]),
    "a misspelt task": (
        lambda c: c.update(blimp_suplement=c.pop("blimp_supplement")),
        ["blimp_suplement: BabyLM 2025 has no such key; did you mean 'blimp_supplement'?",
         "blimp_supplement: is missing"],
    ),
    "a checkpoint without surprisals": (
        lambda c: c["aoa"].update(results=[row for row in c["aoa"]["results"] if row["step"] != "chck_4M"]),
        ["aoa: has nothing for chck_4M"],
    ),
    "words in another order": (
        lambda c: c["aoa"]["results"].insert(400, c["aoa"]["results"].pop(401)),
        ["aoa: has its words for chck_2M in another order than for chck_1M"],
    ),
    "a wrong number of words": (
        lambda c: c["aoa"]["results"][0].update(word_count=10),
        ["aoa.results[0].word_count: is 10, the checkpoint is chck_1M"],
    ),
    "percent for a fraction": (
        lambda c: c["fast_eval_results"]["blimp"][2].update(wh_island=61.5),
        ["fast_eval_results.blimp.chck_3M.wh_island: is 61.5, not a fraction from 0 to 1"],
    ),
    "a task scored on fewer checkpoints": (
        lambda c: c["fast_eval_results"]["ewok"].pop(),
        ["fast_eval_results.ewok: has 18 entries, there are 19 checkpoints"],
    ),
    "a fast task without one sub-task": (
        lambda c: c["fast_eval_results"]["blimp_supplement"][0].pop("hypernym"),
        ["fast_eval_results.blimp_supplement.chck_1M: is no object with the keys hypernym, qa_congruence_easy, "
         "qa_congruence_tricky, subject_aux_inversion, turn_taking"],
    ),
    "no list": (lambda c: c["blimp"].update(causative=[]), ['blimp.causative: is no {"predictions": [...]}']),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_with_their_place(good: str, name: str) -> None:
    change, expected = FAULTS[name]
    assert broken(good, change) == expected


def test_many_faults_are_all_told(good: str) -> None:
    def change(collated) -> None:
        for name in ("a lost item", "a class as a text", "no list", "a probability beyond one"):
            FAULTS[name][0](collated)

    assert len(broken(good, change)) == 4


def test_what_is_no_submission_at_all(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    assert validate_submission(tmp_path / "list.json", "2026")[0].place == "the file"
    (tmp_path / "half.json").write_text('{"blimp": ')
    assert "cannot be read as JSON" in str(validate_submission(tmp_path / "half.json", "2026")[0])
    with pytest.raises(UserError, match="there is no"):
        validate_submission(tmp_path / "none.json", "2026")
    with pytest.raises(UserError, match="no format of year '2027'"):
        validate_submission(tmp_path / "list.json", "2027")


def test_files_that_differ_from_the_collated_one_are_told(whole, tmp_path: Path) -> None:
    written = write_submission(whole, tmp_path)
    place = written.parent / "main/zero_shot/causal/comps/comps/predictions.json"
    place.write_text(place.read_text().replace("option 1", "option 0"))
    (written.parent / "chck_5M/zero_shot/causal/blimp/blimp_fast/predictions.json").unlink()
    places = [fault.place for fault in validate_submission(written.parent, whole.year)]
    assert places == [
        "main/zero_shot/causal/comps/comps/predictions.json",
        "chck_5M/zero_shot/causal/blimp/blimp_fast/predictions.json",
    ]


def test_missing_tasks_are_null_in_2026_and_refused_in_2025(tmp_path: Path) -> None:
    for year in ("2025", "2026"):
        there = complete(year, checkpoints=3)
        there = replace(there, full={k: v for k, v in there.full.items() if k not in ("comps", "qqp")})
        if year == "2025":
            with pytest.raises(UserError, match=r"incomplete=True:\n  comps: is missing\n  glue.qqp: is missing\n"):
                write_submission(there, tmp_path / year)
            assert not list((tmp_path / year).iterdir())
            written = write_submission(there, tmp_path / year, incomplete=True)
        else:
            written = write_submission(there, tmp_path / year)
        collated = json.loads(written.read_text())
        assert ("comps" in collated, collated.get("comps")) == (year == "2026", None)
        faults = validate_submission(written, year)
        assert {f.place for f in faults if f.missing} >= {"comps", "glue.qqp"}
        assert all(fault.allowed == (year == "2026") for fault in faults)


def test_earlier_files_are_replaced_whole_and_others_left_alone(tmp_path: Path) -> None:
    there = complete("2026", checkpoints=0)
    small = replace(there, full={key: there.full[key] for key in ("reading", "wsc")}, surprisals=None)
    small = replace(small, age_of_acquisition=None)
    written = write_submission(small, tmp_path)
    content = written.read_bytes()
    broken = measured_predictions(reading([{"id": 0, "pred": 1.0, "prev_pred": None}]))
    with pytest.raises(UserError, match="has 1 predictions"):
        write_submission(replace(small, full={"reading": broken}), tmp_path)
    assert written.read_bytes() == content
    again = write_submission(replace(small, full={"wsc": there.full["wsc"]}), tmp_path)
    assert again == written
    assert again.read_bytes() != content
    assert not (tmp_path / "tiny/main/zero_shot").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    (tmp_path / "tiny/main/report.txt").write_text("by hand")
    with pytest.raises(UserError, match=r"holds main/report\.txt, which is no result file of ours"):
        write_submission(small, tmp_path)
    assert again.is_file()


def test_training_that_ended_early(tmp_path: Path) -> None:
    short = complete("2025", checkpoints=11)  # 20M words
    # The code of 2025 asserts that every checkpoint is there.
    with pytest.raises(UserError, match=r"left out with incomplete=True:\n  aoa: has nothing for chck_30M\n"):
        write_submission(short, tmp_path / "2025")
    written = write_submission(short, tmp_path / "2025", incomplete=True)
    faults = validate_submission(written, "2025")
    assert all(fault.missing and not fault.allowed for fault in faults)
    places = {fault.place for fault in faults}
    assert places == {"aoa", *(f"fast_eval_results.{task.key}" for task in FORMATS["2025"].fast)}
    assert [str(fault) for fault in faults][-1] == "fast_eval_results.reading: has 11 entries, there are 19 checkpoints"
    assert len(json.loads(written.read_text())["fast_eval_results"]["reading"]) == 11
    written = write_submission(complete("2026", checkpoints=11), tmp_path / "2026")
    collated = json.loads(written.read_text())
    # The published code collates surprisals of all checkpoints or none.
    assert collated["aoa_surprisals"] is None
    assert collated["fast_eval_results"]["reading"][10:12] == [
        {"spr": pytest.approx(0.012), "rt": pytest.approx(0.031)},
        None,
    ]
    faults = validate_submission(written, "2026")
    assert faults
    assert all(fault.missing and fault.allowed for fault in faults)


@pytest.mark.parametrize("year", ["2025", "2026"])
def test_what_the_years_take_as_it_is(year: str, tmp_path: Path) -> None:
    """Both years count surprisals of each checkpoint, and look at neither their values nor their order."""
    words = FORMATS[year].words
    said = surprisals(schedule("strict-small"), words)
    rows = said["results"]
    rows[5]["surprisal"] = rows[7]["surprisal"] = math.nan
    rows.insert(words, rows.pop(words + 1))
    faults = validate_submission(write_submission(replace(complete(year), surprisals=said), tmp_path), year)
    assert [fault.message for fault in faults] == [
        "has 2 surprisals for chck_1M that are NaN",
        "has its words for chck_2M in another order than for chck_1M",
    ]
    assert all(fault.allowed for fault in faults)
    rows[words]["target_word"] = "another"
    with pytest.raises(UserError, match="has other words for chck_2M than for chck_1M"):
        write_submission(replace(complete(year), surprisals=said), tmp_path)


ODD = (None, True, 10**400, -1, math.nan, math.inf, "", "\ud800", [], ["x"], {}, {"predictions": {"a": 1}}, [[]])


def test_odd_values_are_told_and_stop_nothing(good: str, tmp_path: Path) -> None:
    """Whatever stands at a place, there is a list of faults that can be printed."""
    small = json.loads(good)
    small["blimp"] = {"wh_island": {"predictions": small["blimp"]["wh_island"]["predictions"][:1]}}
    small["aoa"]["results"] = small["aoa"]["results"][:1]
    small = {key: small[key] for key in ("blimp", "reading", "wug_adj", "glue", "aoa", "fast_eval_results")}
    for key in ("reading", "wug_adj"):
        small[key][key]["predictions"] = small[key][key]["predictions"][:1]
    small["glue"] = {"rte": {"predictions": small["glue"]["rte"]["predictions"][:1]}}
    small["fast_eval_results"] = {"reading": small["fast_eval_results"]["reading"][:1]}

    def places(value, path=()):
        yield path
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from places(value[key], (*path, key))

    for *parents, last in filter(None, list(places(small))):
        for odd in ODD:
            spoilt = json.loads(json.dumps(small))
            at = spoilt
            for key in parents:
                at = at[key]
            at[last] = odd
            (tmp_path / "odd.json").write_text(json.dumps(spoilt))
            for fault in validate_submission(tmp_path / "odd.json", "2025"):
                assert len(str(fault).encode()) < 5000
    (tmp_path / "odd.json").write_text("[" * 200_000)
    assert "cannot be read as JSON" in str(validate_submission(tmp_path / "odd.json", "2025"))
    told = broken(good, lambda c: c["aoa"]["results"][3].update(step=["x"]))
    assert told[0] == "aoa.results[3].step: is ['x'], not the name of a checkpoint"
    told = broken(good, lambda c: c["fast_eval_results"]["reading"][0].update(rt=10**400))
    assert told == [f"fast_eval_results.reading.chck_1M.rt: is 1{79 * '0'}..., not a fraction from -1 to 1"]


def test_other_tracks_have_28_checkpoints(tmp_path: Path) -> None:
    written = write_submission(complete("2025", "interaction"), tmp_path)
    assert validate_submission(written, "2025") == []
    assert validate_submission(written, "2025", "strict-small") != []
    assert schedule("interaction") == schedule("strict")
    assert schedule("strict")[-1] == "chck_1000M"


def test_bad_submissions_are_refused(whole, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot name a submission"):
        write_submission(replace(whole, model="llama-0.5"), tmp_path)
    with pytest.raises(UserError, match="has no task 'blipm'; did you mean 'blimp'"):
        write_submission(replace(whole, full={**whole.full, "blipm": {}}), tmp_path)
    with pytest.raises(UserError, match="'chck_11M' is no checkpoint"):
        write_submission(replace(whole, fast={**whole.fast, "chck_11M": {}}), tmp_path)
    with pytest.raises(UserError, match="has no fast task 'comps'"):
        write_submission(replace(whole, fast={"chck_1M": {"comps": None}}), tmp_path)
    one = measured_predictions(reading([{"id": 0, "pred": 1.0, "prev_pred": None}]))
    with pytest.raises(UserError, match=r"reading: has 1 predictions, the data file 86 lines"):
        write_submission(replace(whole, full={**whole.full, "reading": one}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_gaps_between_checkpoints_are_refused_where_only_their_number_counts(tmp_path: Path) -> None:
    there = complete("2025", checkpoints=4)
    with pytest.raises(UserError, match="missing in between: chck_2M"):
        write_submission(replace(there, fast={k: v for k, v in there.fast.items() if k != "chck_2M"}), tmp_path)


def test_measured_words_get_the_names_of_result_files() -> None:
    task = next(task for task in FORMATS["2025"].full if task.key == "wug_past")
    rows = [{"id": "wug_past_tense_0", "pred": "A", "prob": 0.5}]
    values = {"spearman": MeasuredValue(None, "correlation", note="all the same")}
    result = MeasuredResult("wug-past", "2025", "spearman", values, {"wug_past_tense": {"predictions": rows}})
    expected = {"wug_past": {"predictions": [{"id": "wug_past_0", "pred": "A", "prob": 0.5}]}}
    assert measured_predictions(result) == expected
    assert math.isnan(measured_scores(task, result)["wug_past"])


def test_scores_that_do_not_fit_are_refused() -> None:
    task = FORMATS["2026"].full[0]
    paradigm = Paradigm("wh_island", (Question((Item("A"), Item("B"))),) * 2)
    with pytest.raises(UserError, match="not all questions of 'wh_island' have answers"):
        suite_predictions(task, [paradigm], {"wh_island": np.zeros(1, dtype=int)})
    piqa = next(task for task in FORMATS["2026"].full if task.shape == "example")
    with pytest.raises(UserError, match="need as many example_id, 1 were given"):
        suite_predictions(piqa, [paradigm], {"wh_island": np.zeros(2, dtype=int)}, ["one"])


def test_2024_is_one_gzipped_object(tmp_path: Path) -> None:
    predictions = {
        task: {name: [0 if task == "glue" else "A sentence."] * size for name, size in sizes.items()}
        for task, sizes in SIZES_2024.items()
    }
    path = write_2024("tiny", predictions, tmp_path)
    assert path.name == "tiny_textonly_predictions.json.gz"
    found = json.loads(gzip.decompress(path.read_bytes()))
    assert list(found) == ["glue", "blimp", "blimp_supplement", "ewok"]
    assert found["blimp"]["wh_island"]["predictions"][2] == {"id": "wh_island_2", "pred": " A sentence."}
    assert found["glue"]["mnli-mm"]["predictions"][4915] == {"id": "mnli-mm_4915", "pred": 0}
    del predictions["glue"]["qnli"]
    with pytest.raises(UserError, match=r"missing sub-tasks: glue.qnli; missing ones are left out"):
        write_2024("tiny", predictions, tmp_path)
    path = write_2024("tiny", predictions, tmp_path, incomplete=True)
    assert json.loads(gzip.decompress(path.read_bytes()))["glue"]["qnli"] == {}
    predictions["glue"]["rte"] = [1]
    with pytest.raises(UserError, match=r"glue.rte has 1 predictions, its data file 139 lines"):
        write_2024("tiny", predictions, tmp_path, incomplete=True)


def test_2023_is_a_line_for_each_sub_task(tmp_path: Path) -> None:
    predictions = {task: {name: [1, 0] for name in names} for task, names in SUB_TASKS_2023.items()}
    lines = [json.loads(line) for line in write_2023(predictions, tmp_path).read_text().splitlines()]
    assert len(lines) == 39
    said = [{"id": "cola_0", "pred": "1"}, {"id": "cola_1", "pred": "0"}]
    assert lines[0] == {"task": "glue", "sub_task": "cola", "predictions": said}
    with pytest.raises(UserError, match=r"unknown sub-tasks: glue.colla"):
        write_2023({"glue": {"colla": [1]}}, tmp_path, incomplete=True)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("year", ["2025", "2026"])
def test_real_files_have_the_published_sizes(real_data: Path, tmp_path: Path, published_sizes, year: str) -> None:
    """Everything of which the real files are here comes from them, the rest from made-up ones."""
    form, there = published_sizes[year], complete.__wrapped__(year)
    folders = {"blimp": "blimp_filtered", "blimp_supplement": "supplement_filtered"}
    fast_folders = {"blimp": "blimp_fast", "blimp_supplement": "supplement_fast"}
    full, options = dict(there.full), {}
    for key, folder in folders.items():
        task = next(task for task in form.full if task.key == key)
        paradigms = read_pairs(real_data / "eval" / folder)
        full[key] = suite_predictions(task, paradigms, drawn(paradigms))
        options[key] = options_of(task, paradigms)
    for task in form.glue:
        lines = (real_data / "glue" / f"{task.key}.valid.jsonl").read_text(encoding="utf-8").splitlines()
        full[task.key] = label_predictions(task.key, [json.loads(line)["label"] for line in lines])
    fast = {}
    for key, folder in fast_folders.items():
        task = next(task for task in form.fast if task.key == key)
        paradigms = read_pairs(real_data / "eval" / folder)
        found = suite_predictions(task, paradigms, drawn(paradigms))
        fast[key] = Fast(found, accuracies(task, paradigms, found))
    contexts = json.loads((real_data / "eval" / "aoa" / "cdi_childes.json").read_text(encoding="utf-8"))
    rows = [
        {"step": step, "word_count": read_words(step.removeprefix("chck_")), "target_word": word, "context_id": index,
         "context": context["context"], "surprisal": 5.0}
        for step in schedule("strict-small") for word, found in contexts.items() for index, context in enumerate(found)
    ]  # fmt: skip
    by_revision = {name: {**by_task, **fast} for name, by_task in there.fast.items()}
    there = replace(there, full=full, fast=by_revision, surprisals={"metadata": {}, "results": rows})
    written = write_submission(there, tmp_path)
    assert validate_submission(written, year, options=options) == []
    assert validate_submission(written.parent, year, options=options) == []
    # The gold texts of the real files are what the scorer would compare with.
    gold = [json.loads(line) for line in (real_data / "eval/blimp_filtered/wh_island.jsonl").read_text().splitlines()]
    said = json.loads(written.read_text())["blimp"]["wh_island"]["predictions"]
    right = np.mean([p["pred"].strip() == g["sentence_good"].strip() for p, g in zip(said, gold, strict=True)])
    task = next(task for task in form.full if task.key == "blimp")
    assert accuracies(task, read_pairs(real_data / "eval/blimp_filtered"), full["blimp"])["wh_island"] == right
