"""What a run will do is told at its start, how far it is while it trains, and all of it stands in its log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tutelage import api
from tutelage.base import progress
from tutelage.base.errors import UserError
from tutelage.base.run_folder import RunFolder
from tutelage.corpus import aside
from tutelage.experiment.outlook import share_done
from tutelage.recipe.load import load_recipe, recipe_from_text

RECIPE = """
name: told
data: {corpus: starter, words: 3000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 20
    evaluations: 2
    seeds: 2
    stages: [{teachers: ["control[0]"], objectives: {next_token: 0.5, distill: 0.5}}]
    optim: {batch_rows: 4, lr: 1.0e-2}
  control: {like: student, without: teachers}
evaluate: [val]
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_plan_and_the_way_of_the_whole_stand_in_the_log(tmp_path: Path, monkeypatch, cache: Path) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.0)
    api.run(recipe_from_text(RECIPE), runs=tmp_path)
    log = [line[21:] for line in (tmp_path / "told" / "log.txt").read_text().splitlines()]
    head = log.index("To be trained")
    rows = [line.split() for line in log[head + 2 : head + 4]]
    assert [row[0] for row in rows] == ["control", "student"]
    assert rows[1][-2:] == ["text,", "control[0]"]
    assert rows[0][-1] == "text"
    assert "0 of 4 trainings are finished: 4 to go, teachers first; then scores on val, and the report" in log
    told = [line for line in log if line.startswith(("train student", "train control"))]
    assert "(0 of 4 trainings" in told[0]
    assert any("(3 of 4 trainings, about" in line and "left in all)" in line for line in told)
    assert any("of 4 models scored" in line for line in log)
    assert log[-1] == "done"
    api.run(recipe_from_text(RECIPE), runs=tmp_path)
    again = (tmp_path / "told" / "log.txt").read_text()
    assert "4 of 4 trainings are finished: nothing to train; then scores on val, and the report" in again


def test_how_far_a_run_is_is_read_from_its_metrics(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert share_done(folder, 40) == 0
    folder.metrics.write_text("".join(json.dumps({"step": step, "loss": 4.0}) + "\n" for step in range(2, 200, 2)))
    assert share_done(folder, 396) == 0.5
    with folder.metrics.open("a") as file:
        file.write('{"step": 300, "lo')
    assert share_done(folder, 396) == 0.5, "a line on its way"
    folder.finished.write_text("{}")
    assert share_done(folder, 396) == 1


def test_looking_leaves_no_trace_and_locks_no_name(tmp_path: Path, cache: Path, monkeypatch) -> None:
    runs = tmp_path / "runs"
    api.show(recipe_from_text(RECIPE), runs=runs, probe=False)
    api.show(recipe_from_text(RECIPE.replace("words: 3000", "words: 4000")), runs=runs, probe=False)
    assert not runs.exists()
    # The run that follows takes over what was prepared.
    monkeypatch.setattr("tutelage.corpus.prepare._build", None)
    made = api.prepare(recipe_from_text(RECIPE), runs=runs)
    assert made.folder == runs / "told" / "data"
    assert made.manifest["settings"]["words"] == 3000
    assert len(list((cache / "prepared").iterdir())) == 1
    # And looking again uses what lies there.
    assert api.show(recipe_from_text(RECIPE), runs=runs, probe=False)


def test_other_data_can_be_looked_at_under_a_name_that_is_taken(tmp_path: Path, cache: Path, capsys) -> None:
    api.prepare(recipe_from_text(RECIPE), runs=tmp_path)
    other = recipe_from_text(RECIPE.replace("words: 3000", "words: 1500"))
    few = {one.name: one.words for one in api.show(other, runs=tmp_path, probe=False)}
    assert "A run with these settings needs another name" in capsys.readouterr().err
    assert few
    assert api.prepare(recipe_from_text(RECIPE), runs=tmp_path).manifest["settings"]["words"] == 3000


def test_texts_that_changed_since_they_were_looked_at_are_read_again(tmp_path: Path, cache: Path) -> None:
    text = tmp_path / "corpus" / "a.txt"
    text.parent.mkdir()
    text.write_text("one two three four five six.\n" * 400)
    what = recipe_from_text(RECIPE.replace("corpus: starter, words: 3000", f"corpus: {text.parent}"))
    api.show(what, runs=tmp_path, probe=False)
    text.write_text("seven eight nine ten eleven twelve.\n" * 500)
    before = api.show(what, runs=tmp_path, probe=False)
    made = api.prepare(what, runs=tmp_path / "runs")
    assert made.manifest["splits"]["train"]["words"] > 2400
    assert before


def test_what_nobody_looked_at_for_a_week_goes(cache: Path, monkeypatch) -> None:
    old = aside.folder_of({"words": 1})
    old.mkdir(parents=True)
    assert aside.folder_of({"words": 2}) != old
    assert old.is_dir()
    monkeypatch.setattr(aside, "KEPT_DAYS", -1)
    aside.folder_of({"words": 2})
    assert not old.exists()


def test_show_writes_a_recipe_file_to_stdout(tmp_path: Path, cache: Path, capsys) -> None:
    from tutelage.api.recipes import print_recipe

    print_recipe(recipe_from_text(RECIPE), runs=tmp_path, probe=False)
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["name"] == "told"
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert load_recipe(tmp_path / "mine.yaml") == recipe_from_text(RECIPE)
    assert "What it will take" in shown.err


def test_reading_with_other_settings_leads_to_the_folder_of_the_run(tmp_path: Path, cache: Path) -> None:
    api.run(recipe_from_text(RECIPE.replace("steps: 20", "steps: 4")), runs=tmp_path)
    size = (tmp_path / "told" / "log.txt").stat().st_size
    for changed in ("steps: 5", "steps: 4", "words: 2000"):
        text = RECIPE.replace("steps: 20", "steps: 4")
        text = text.replace("words: 3000", changed) if "words" in changed else text.replace("steps: 4", changed)
        if changed == "steps: 4":
            assert api.report(recipe_from_text(text), runs=tmp_path) is not None
            continue
        for verb in (api.report, lambda what, runs: api.export(what, "student", tmp_path / "out", runs=runs)):
            with pytest.raises(UserError, match="give its folder in place of the recipe") as error:
                verb(recipe_from_text(text), runs=tmp_path)
            assert "delete" not in str(error.value)
    assert api.report(tmp_path / "told") is not None
    assert (tmp_path / "told" / "log.txt").stat().st_size == size, "reading leaves no line in the log"


def test_names_stay_whole_at_80_columns(tmp_path: Path, cache: Path, capsys, monkeypatch) -> None:
    from tutelage.api.recipes import print_recipe

    monkeypatch.setenv("COLUMNS", "80")
    told = recipe_from_text(RECIPE.replace("control", "twelve-signs").replace("steps: 20", "steps: 2"))
    print_recipe(told, runs=tmp_path, probe=True)
    api.train(told, runs=tmp_path)
    said = capsys.readouterr().err
    shown = [line for line in said.splitlines() if line.split()[:1] == ["twelve-signs"]]
    assert len(shown) == 2  # what it will take, and what is to be trained
    assert max(map(len, shown)) <= 80
