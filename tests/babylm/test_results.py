"""Result files from the scores of a run: all of a tiny model's, on made-up data in the published form."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tutelage import api, starter
from tutelage.babylm.check import validate_submission
from tutelage.babylm.format import FORMATS, prediction_file, schedule
from tutelage.babylm.results import reasons
from tutelage.babylm.scores import task_results
from tutelage.babylm.write import text_of
from tutelage.base.errors import UserError
from tutelage.cli.main import app
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.named import file_name, find
from tutelage.evaluation.psychometrics.reading import EYE_TRACKING, SELF_PACED
from tutelage.evaluation.suites.suites import find_suite
from tutelage.recipe.load import recipe_from_text
from tutelage.recipe.words import SCHEDULES, write_words

RECIPE = """
name: entry
data: {{corpus: starter, tokenizer: {{vocab_size: 400}}, rows: {{length: 32}}}}
models:
  one:
    config: {{model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}
    words: 5000
    evaluations: 2
    checkpoints: babylm-strict-small
    optim: {{batch_rows: 4, lr: 2.0e-2, schedule: constant}}
evaluate: [{evaluate}]
evaluation:
  convention: "{year}"
  along: [{along}]
  finetune: {{epochs: 1, batch_rows: 8, max_length: 16, dropout: 0}}
"""
SCHEDULE = (100, 500, 1000, 2000, 5000)
"""Five checkpoints instead of nineteen, so that a few steps reach them all."""
PAIRS = [
    (row["sentence_good"], row["sentence_bad"])
    for file in sorted(starter.pairs_folder().iterdir(), key=lambda file: file.name)
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()[:3])
]
"""A few texts, so that scoring is quick: each distinct one is read once."""
KEYS = {
    "boolq": ("question", "passage"),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "multirc": ("question", "answer", "paragraph"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "wsc": ("text", "span1_text", "span2_text"),
}


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(index: int) -> tuple[str, str]:
    return PAIRS[index % len(PAIRS)]


def pairs(folder: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        rows = [dict(zip(("sentence_good", "sentence_bad"), pair(i), strict=True)) for i in range(size)]
        lines(folder / f"{name}.jsonl", rows)


def entities(folder: Path, sizes: dict[str, int]) -> None:
    """Items of 2026, and those with "nothing" that 2025 has besides."""
    splits: dict[str, list[dict[str, Any]]] = {}
    fewer = {key: size for task in FORMATS["2026"].full if "entity" in task.key for key, size in task.sizes.items()}
    for name, size in sizes.items():
        split, operations = name.removesuffix("_ops").rsplit("_", 1)
        for index in range(size):
            options = [
                *(pair(index + k)[0] for k in range(4)),
                pair(index + 4)[0] if index < fewer[name] else "nothing",
            ]
            row = {"input_prefix": "Box 1 has ", "options": options, "numops": int(operations)}
            splits.setdefault(split, []).append(row)
    for split, rows in splits.items():
        lines(folder / f"{split}.jsonl", rows)


def ewok(folder: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        rows = [
            {"Domain": name, "Context1": pair(i)[0], "Context2": pair(i)[1], "Target1": pair(i + 1)[0],
             "Target2": pair(i + 1)[1]}
            for i in range(size)
        ]  # fmt: skip
        lines(folder / f"{name}.jsonl", rows)


def comps(folder: Path, sizes: dict[str, int]) -> None:
    files = {"wugs_dist_before": "wugs_dist-before", "wugs_dist_in_between": "wugs_dist-in-between"}
    for name, size in sizes.items():
        rows = [
            {"prefix_acceptable": pair(i)[0], "prefix_unacceptable": pair(i)[1], "property_phrase": "runs home."}
            for i in range(size)
        ]
        lines(folder / f"comps_{files.get(name, name)}.jsonl", rows)


def sizes_of(year: str) -> dict[str, int]:
    """Items of each benchmark of a year that has one file."""
    return {task.key: size for task in FORMATS[year].full for size in task.sizes.values()}


def wugs(folder: Path) -> None:
    sizes = sizes_of("2025")
    for name, size in (("wug_adj_nominalization", sizes["wug_adj"]), ("wug_past_tense", sizes["wug_past"])):
        rows = [{"sentences": "\t".join(pair(i)), "ratio": (i % 10) / 10} for i in range(size)]
        lines(folder / name / f"{name}.jsonl", rows)


def piqa(folder: Path) -> None:
    for name, count in (("global_piqa_parallel", 4), ("global_piqa_nonparallel", 2)):
        rows = [
            {"prompt": "To rest,", **{f"solution{k}": pair(i + k)[0] for k in range(count)}, "label": i % count,
             "example_id": f"{name}-eng-{i}"}
            for i in range(sizes_of("2026")[name])
        ]  # fmt: skip
        lines(folder / name / "eng_latn.jsonl", rows)


def reading(folder: Path) -> None:
    draw, words = np.random.default_rng(0), re.findall(r"\w+", "The dog sleeps on the old mat in the warm sun")
    folder.mkdir(parents=True)
    with (folder / "reading_data.csv").open("w", newline="") as file:
        writer = None
        for index in range(sizes_of("2025")["reading"]):
            place = 1 + index % (len(words) - 1)
            times = {name: f"{draw.uniform(150, 400):.3f}" for name in (*EYE_TRACKING, SELF_PACED)}
            row = {"item": " ".join(words[:place]), "word": words[place], "prev_item": " ".join(words[: place - 1])}
            row |= {"prev_word": words[place - 1], "prev_length": len(words[place - 1]), "length": len(words[place])}
            row |= {"Subtlex_log10": f"{draw.uniform(3, 14):.3f}", "context_length": place, **times}
            writer = writer or csv.DictWriter(file, list(row))
            if index == 0:
                writer.writeheader()
            writer.writerow(row)


def acquisition(folder: Path) -> None:
    folder.mkdir(parents=True)
    words = ("dog", "cat", "book", "home", "sun")
    contexts = {word: [{"context": "Look at the"}] * (FORMATS["2026"].words // len(words)) for word in words}
    (folder / "cdi_childes.json").write_text(json.dumps(contexts))
    ages = range(16, 31)
    said = [[word, *(f"{1 / (1 + math.exp(18 + 2 * n - age)):.3f}" for age in ages)] for n, word in enumerate(words)]
    (folder / "cdi_human.csv").write_text("\n".join(",".join(map(str, row)) for row in [["word", *ages], *said]) + "\n")


def glue(folder: Path) -> None:
    for task in FORMATS["2026"].glue:
        for split, size in (("train", 16), ("valid", task.sizes[task.key])):
            rows = [{key: pair(i + n)[0] for n, key in enumerate(KEYS[task.key])} for i in range(size)]
            lines(
                folder / f"{task.key}.{split}.jsonl", [row | {"label": i % task.classes} for i, row in enumerate(rows)]
            )


@pytest.fixture(scope="module")
def data(tmp_path_factory, smaller_formats) -> Path:
    """All benchmarks of 2025 and 2026, in the published form; few texts differ, so that scoring is quick."""
    folder = tmp_path_factory.mktemp("data")
    full, fast = ({task.key: task.sizes for task in part} for part in (FORMATS["2025"].full, FORMATS["2025"].fast))
    for place, make, sizes in (
        ("blimp_filtered", pairs, full["blimp"]), ("blimp_fast", pairs, fast["blimp"]),
        ("supplement_filtered", pairs, full["blimp_supplement"]), ("supplement_fast", pairs, fast["blimp_supplement"]),
        ("ewok_filtered", ewok, full["ewok"]), ("ewok_fast", ewok, fast["ewok"]), ("comps", comps, full["comps"]),
        ("entity_tracking", entities, full["entity_tracking"]),
        ("entity_tracking_fast", entities, fast["entity_tracking"]),
    ):  # fmt: skip
        make(folder / "eval" / place, sizes)
    wugs(folder / "eval")
    piqa(folder / "eval")
    reading(folder / "eval/reading")
    acquisition(folder / "eval/aoa")
    glue(folder / "glue")
    return folder


pytestmark = pytest.mark.timeout(900)
one_year = pytest.mark.parametrize("entry", ["2026"], indirect=True)


def recipe(year: str, evaluate: str = "val", along: str = ""):
    return recipe_from_text(RECIPE.format(year=year, evaluate=evaluate, along=along))


def whole(year: str):
    form = FORMATS[year]
    full = [*(task.evaluation for task in form.full), "aoa", "glue"]
    return recipe(year, ", ".join(f'"{name}"' for name in full), ", ".join(f'"{t.evaluation}"' for t in form.fast))


@pytest.fixture(scope="module", autouse=True)
def surroundings(data: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_DATA", str(data))
        patch.setitem(SCHEDULES, "babylm-strict-small", SCHEDULE)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, surroundings) -> Path:
    runs = tmp_path_factory.mktemp("trained")
    api.train(recipe("2026"), runs=runs)
    return runs


@pytest.fixture(scope="module", params=["2025", "2026"])
def entry(request, trained: Path, tmp_path_factory) -> tuple[str, Path]:
    """A year, and runs in which everything of that year is measured: of 2025 by the verb, of 2026 by the recipe."""
    year, runs = request.param, tmp_path_factory.mktemp(request.param) / "runs"
    shutil.copytree(trained, runs)
    if year == "2026":
        api.evaluate(whole(year), runs=runs)
    else:
        api.submission_write(recipe(year), "one", runs.parent / "first", f"babylm-{year}-strict-small", (), runs, True)
    return year, runs


def write(year: str, runs: Path, folder: Path, **settings: Any):
    return api.submission_write(whole(year), "one", folder, f"babylm-{year}-strict-small", (), runs, **settings)


@pytest.fixture(scope="module")
def written(entry, tmp_path_factory):
    year, runs = entry
    return year, runs / "entry/one/seed-0/scores", write(year, runs, tmp_path_factory.mktemp("results"))


def test_a_complete_run_gives_a_complete_submission(written) -> None:
    year, _, results = written
    form, folder = FORMATS[year], results.path.parent
    assert results.missing == []
    assert all(line.done == line.asked for line in results.lines)
    assert folder.name == "one"
    assert validate_submission(folder, year, "strict-small") == []
    assert api.submission_check(folder, f"babylm-{year}-strict-small") == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(form.full) + len(form.glue) + 5 * len(form.fast) + 2 + form.optional


def tasks_of(year: str, shapes: tuple[str, ...]):
    """Tasks of the final model, then the fast ones at each checkpoint: the task, its place, and its scores' folder."""
    form = FORMATS[year]
    yield from ((task, "main", "") for task in (*form.full, *form.glue) if task.shape in shapes)
    for words, revision in zip(SCHEDULE, schedule("strict-small"), strict=True):
        yield from ((task, revision, f"words-{write_words(words)}") for task in form.fast if task.shape in shapes)


def test_f1_of_mrpc_and_qqp_stands_beside_their_plain_accuracy(written) -> None:
    said = {line.task: line.score for line in written[2].lines}
    assert all(
        re.search(r"^(mrpc|qqp|f1) \d+\.\d\d %, accuracy \d+\.\d\d %, rules of", said[task]) for task in ("mrpc", "qqp")
    )
    assert "accuracy" not in said["rte"].removeprefix("accuracy")


def test_suites_in_the_files_say_what_the_scores_say(written) -> None:
    year, scores, results = written
    collated, revisions, seen = json.loads(results.path.read_text()), schedule("strict-small"), set()
    for task, revision, place in tasks_of(year, ("completion", "sentence", "example")):
        said = json.loads((results.path.parent / prediction_file(revision, "causal", task)).read_text())
        score = json.loads((scores / place / f"{task.evaluation}.json").read_text())["score"]["paradigms"]
        predictions = [one["pred"] for value in said.values() for one in value["predictions"]]
        seen.add(tuple(predictions))
        suite = find_suite(task.evaluation, CONVENTIONS[year])
        with np.load(scores / place / f"{task.evaluation}.log_probs.npz") as log_probs:
            for paradigm in suite.paradigms:
                own, predictions = predictions[: len(paradigm.questions)], predictions[len(paradigm.questions) :]
                texts = [[text_of(task, option) for option in question.options] for question in paradigm.questions]
                shares = np.mean([one == options[0] for one, options in zip(own, texts, strict=True)])
                assert shares == pytest.approx(score[paradigm.uid]["accuracy"], abs=1e-12)
                said_NK = log_probs[f"{suite.name}/{paradigm.uid}"]
                for one, options, row in zip(own, texts, said_NK, strict=True):
                    assert row[options.index(one)] == row.max()
        assert not predictions
        if revision == "main":
            assert collated[task.key] == said
        elif task.shape != "example":
            found = collated["fast_eval_results"][task.key][revisions.index(revision)]
            assert found == {uid: value["accuracy"] for uid, value in score.items()}
    # Checkpoints do say different things.
    assert len(seen) > 15


def test_other_tasks_in_the_files_say_what_the_scores_say(written) -> None:
    year, scores, results = written
    collated, revisions = json.loads(results.path.read_text()), schedule("strict-small")
    for task, revision, place in tasks_of(year, ("probability", "reading", "label")):
        said = json.loads((results.path.parent / prediction_file(revision, "causal", task)).read_text())
        name = file_name(task.evaluation)
        if task.shape == "label" and not (scores / f"{name}.json").is_file():
            name = "glue"
        kept = json.loads((scores / place / f"{name}.predictions.json").read_text())
        values = json.loads((scores / place / f"{name}.json").read_text())["score"]["values"]
        key = {"wug_adj": "wug_adj_nominalization", "wug_past": "wug_past_tense"}.get(task.key, task.key)
        for one, other in zip(said[task.key]["predictions"], kept[key]["predictions"], strict=True):
            known = {key: math.nan if value is None else value for key, value in other.items()}
            assert json.dumps(one | {"id": 0}) == json.dumps(known | {"id": 0})
        if revision == "main":
            whole = collated["glue"] if task.shape == "label" else collated[task.key]
            assert json.dumps(whole[task.key]) == json.dumps(said[task.key])
            continue
        found = collated["fast_eval_results"][task.key][revisions.index(revision)]
        if task.shape == "reading":
            assert found["rt"] == pytest.approx(values["eye_tracking"]["value"] / 100)
            assert found["spr"] == pytest.approx(values["self_paced_reading"]["value"] / 100)
        else:
            assert found == {task.key: values["spearman"]["value"]}
    surprisals = collated[FORMATS[year].surprisals]["results"]
    assert surprisals == json.loads((scores / "aoa.predictions.json").read_text())["results"]
    assert [row["step"] for row in surprisals[:: FORMATS[year].words]] == list(revisions)
    if year == "2026":
        value = json.loads((scores / "aoa.json").read_text())["score"]["values"]["aoa"]["value"]
        assert collated["aoa"] == {"aoa": pytest.approx(value)}


@one_year
def test_reading_is_measured_as_published(written) -> None:
    """Without a space before the word; the evaluation for people's eyes, `reading`, has one."""
    year, scores, results = written
    api.evaluate(recipe(year, "reading"), runs=scores.parents[3])
    plain = json.loads((scores / "reading.predictions.json").read_text())["reading"]["predictions"]
    said = json.loads(results.path.read_text())["reading"]["reading"]["predictions"]
    assert sum(one["pred"] != other["pred"] for one, other in zip(plain, said, strict=True)) > len(said) / 2


@pytest.fixture
def copy(entry, tmp_path: Path) -> tuple[str, Path, Path]:
    """A year, runs that a test may spoil, and their scores."""
    year, runs = entry
    shutil.copytree(runs, tmp_path / "runs")
    return year, tmp_path / "runs", tmp_path / "runs/entry/one/seed-0/scores"


def test_missing_tasks_are_told_with_what_would_measure_them(copy, tmp_path: Path) -> None:
    year, runs, scores = copy
    for name in ("comps.json", "words-500/blimp-fast.json", "reading-published.json"):
        (scores / name).unlink()
    if year == "2025":
        with pytest.raises(
            UserError, match=r"complete submissions only; --incomplete writes .*\n  comps.*not measured"
        ):
            write(year, runs, tmp_path / "results")
        assert not (tmp_path / "results").exists()
    results = write(year, runs, tmp_path / "results", incomplete=year == "2025")
    assert [line.task for line in results.missing] == ["comps", "reading", "blimp"]
    assert [(line.done, line.asked) for line in results.missing] == [(0, 1), (0, 1), (4, 5)]
    told = reasons(results.lines, year)
    assert "comps, reading:published, blimp-fast: not measured yet" in told
    lines_to_add = yaml.safe_load("\n".join(told.splitlines()[-2:]))
    assert lines_to_add == {
        "evaluate": ["comps", "reading:published"],
        "evaluation": {"convention": year, "along": ["blimp-fast"]},
    }
    collated = json.loads(results.path.read_text())
    assert ("comps" in collated, collated.get("comps")) == (year == "2026", None)
    assert [one is None for one in collated["fast_eval_results"]["blimp"]] == [False, True, False, False, False]
    assert not (results.path.parent / "chck_500/zero_shot/causal/blimp/blimp_fast").exists()
    assert all(fault.missing for fault in validate_submission(results.path.parent, year, "strict-small"))


@pytest.mark.parametrize("entry", ["2025"], indirect=True)
def test_2025_asks_for_every_checkpoint_of_the_track(entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    year, runs = entry
    monkeypatch.setitem(SCHEDULES, "babylm-strict-small", (*SCHEDULE, 10**6))
    with pytest.raises(
        UserError, match=r"complete submissions only; --incomplete .*\n.*training kept 5 of 6 checkpoints"
    ):
        write(year, runs, tmp_path / "results")
    results = write(year, runs, tmp_path / "results", incomplete=True)
    faults = validate_submission(results.path.parent, year, "strict-small")
    assert faults
    assert all(fault.missing for fault in faults)


@one_year
def test_data_that_are_not_here_or_not_the_published_ones(copy, data, tmp_path: Path, monkeypatch) -> None:
    year, runs, _ = copy
    there = tmp_path / "data"
    shutil.copytree(data, there)
    monkeypatch.setenv("TUTELAGE_DATA", str(there))
    shutil.rmtree(there / "eval/ewok_filtered")
    with (there / "eval/supplement_filtered/hypernym.jsonl").open("a") as file:
        file.write(json.dumps({"sentence_good": "It runs.", "sentence_bad": "It run."}) + "\n")
    settings = {"measure": True, "incomplete": True}
    results = write(year, runs, tmp_path / "results", **settings)
    why = {line.evaluation: line.missing for line in results.missing}
    assert why.keys() == {"ewok", "blimp-supplement"}
    assert "data are not on this machine; `tutelage data list`" in why["ewok"]
    assert "hypernym: has 43 predictions, the data file 42 lines" in why["blimp-supplement"]


@one_year
def test_scores_that_contradict_what_lies_beside_them_are_refused(copy, tmp_path: Path) -> None:
    year, runs, scores = copy
    name, settings = "blimp-supplement-fast", whole(year).evaluation
    task = next(task for task in FORMATS[year].fast if task.evaluation == name)
    found, score = find(name, settings), json.loads((scores / f"{name}.json").read_text())["score"]
    assert task_results(task, found, scores, score, settings).scores.keys() == task.sizes.keys()

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            task_results(task, found, scores, score, settings)

    path = scores / f"{name}.chosen.npz"
    with np.load(path) as arrays:
        chosen = {key: arrays[key] for key in arrays.files}
    for change in (lambda a: a ^ (np.arange(len(a)) == 3), lambda a: a[:-1], lambda a: a + 2):
        np.savez(path, **chosen | {f"{name}/hypernym": change(chosen[f"{name}/hypernym"])})
        refused(f"the options chosen of 'hypernym' are not those of the score in {name}.json; delete that file")
    np.savez(path, **{key: array for key, array in chosen.items() if "hypernym" not in key})
    refused("the options chosen of 'hypernym'")
    path.write_bytes(path.read_bytes()[:300])
    refused(r"chosen\.npz cannot be read .*; delete it")
    path.unlink()
    refused(rf"chosen\.npz is missing, which belongs to the score beside it; delete {name}\.json")
    labels = scores / "glue.predictions.json"
    said = json.loads(labels.read_text())
    said["rte"]["predictions"][5]["pred"] ^= 1
    labels.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"the labels of 'rte' are not those of the score in glue\.json"):
        write(year, runs, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_written_at_all(trained: Path, tmp_path: Path) -> None:
    def refused(match: str, what=None, track: str = "babylm-2026-strict-small", model: str = "one") -> None:
        with pytest.raises(UserError, match=match):
            api.submission_write(what or recipe("2026"), model, tmp_path / "results", track, (), trained)

    refused("unknown track 'babylm-2026-small'; did you mean 'babylm-2026-strict-small'", track="babylm-2026-small")
    refused("scores by the rules of 2025, babylm-2026-strict-small by those of 2026: evaluation", recipe("2025"))
    refused(r"nothing of babylm-2026-strict-small is measured of one\[0\] yet:\n.*not measured yet\n.*")
    refused("no model 'two' in this recipe", model="two")
    without = recipe_from_text(
        RECIPE.replace("babylm-strict-small", "[300]").format(year="2026", evaluate="", along="")
    )
    refused("aoa, blimp-fast, .*: no checkpoint of this track was kept; models", without)
    with pytest.raises(UserError, match=r"one\[0\] is not trained yet"):
        api.submission_write(recipe("2026"), "one", tmp_path, "babylm-2026-strict-small", (), tmp_path / "runs")


@one_year
def test_the_command_line(copy, tmp_path: Path) -> None:
    year, runs, scores = copy
    (scores / "reading-published.json").unlink()
    (scores / "comps.json").unlink()
    (tmp_path / "entry.yaml").write_text(RECIPE.format(year=year, evaluate="val", along=""))
    track = f"babylm-{year}-strict-small"
    command = ["submission", "write", str(tmp_path / "entry.yaml"), "one", str(tmp_path / "out"), "--track", track]
    done = CliRunner().invoke(app, [*command, "--runs", str(runs), "--evaluate"])
    assert done.exit_code == 0, done.output
    assert re.search(r"reading\W+reading:published\W+86\W+yes\W+eye_tracking", done.output)
    assert re.search(r"blimp, fast\W+blimp-fast\W+804\W+5 of 5\W+\d", done.output)
    check = ["submission", "check", str(tmp_path / "out/one"), "--track", track]
    looked = CliRunner().invoke(app, check)
    assert (looked.exit_code, looked.output.splitlines()[-1]) == (0, "no faults")
    (tmp_path / "out/one/main/finetune/wsc/predictions.json").unlink()
    looked = CliRunner().invoke(app, check)
    assert (looked.exit_code, looked.output.splitlines()[-1]) == (1, "1 faults, and 0 that the year's own code takes")
