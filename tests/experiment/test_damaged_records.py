"""A damaged JSON file of a run is told in a sentence, or mended; it never ends in a traceback or in another result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.base.files import read_json
from tutelage.base.run_folder import JsonLines, read_lines
from tutelage.recipe import Recipe
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: damaged
data: {corpus: starter, words: 3000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  teacher:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 3
    evaluations: 2
    checkpoints: [50]
    optim: {batch_rows: 4}
  student:
    like: teacher
    stages:
      - teachers: [teacher]
        cache: {kind: hidden}
        objectives: {next_token: 0.5, distill: 0.5}
        select: {by: perplexity, scorer: teacher, band: [20%, 80%]}
evaluate: [test, starter-pairs, calibration]
"""
VERBS = (api.report, api.evaluate, api.run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("finished")
    api.run(recipe(), runs=runs)
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def recipe() -> Recipe:
    return recipe_from_text(RECIPE)


def empty(data: bytes) -> bytes:
    return b""


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def last_digit(data: bytes) -> bytes:
    """A flipped bit that leaves JSON: one digit is another."""
    at = max((i for i, byte in enumerate(data) if chr(byte).isdigit()), default=len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def first_byte(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


DAMAGES = [empty, half, last_digit, first_byte]


def result(runs: Path) -> str:
    """What programs read in the summary."""
    summary = json.loads((runs / "damaged" / "summary.json").read_text())
    for model in summary["models"].values():
        for seed in model["seeds"].values():
            seed.pop("suite_items", None)  # a path
    return json.dumps({key: value for key, value in summary.items() if key != "created"})


def check_all(finished: Path, tmp_path: Path, files: list[Path], damages: list[Callable[[bytes], bytes]]) -> None:
    """Damage each file in each way; whatever is asked for then is done as before, or refused by the file's name."""
    expected = result(finished)
    for file in files:
        for damage in damages:
            runs = tmp_path / f"{file.name}-{damage.__name__}"
            shutil.copytree(finished, runs, copy_function=os.link)
            data = (runs / file).read_bytes()
            (runs / file).unlink()
            (runs / file).write_bytes(damage(data))
            for verb in VERBS:
                case = (str(file), damage.__name__, verb.__name__)
                try:
                    verb(recipe(), runs=runs)
                except UserError as error:
                    told = str(error)
                else:
                    told = file.name if result(runs) == expected else "another result"
                assert file.name in told or "holds a run with other settings" in told, (*case, told)
            shutil.rmtree(runs)


@pytest.fixture(autouse=True)
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""
    monkeypatch.setattr("tutelage.api.recipes.write_html", lambda summary, path: path)


def records(finished: Path, pattern: str = "**/*.json*") -> list[Path]:
    return sorted(path.relative_to(finished) for path in finished.glob(f"damaged/{pattern}"))


def test_the_records_of_a_run_are_never_used_damaged(finished: Path, tmp_path: Path) -> None:
    files = [*records(finished, "student/seed-0/*.json*"), *records(finished, "student/seed-0/selections/*.json")]
    assert {"environment.json", "finished.json", "metrics.jsonl", "timing.jsonl"} <= {file.name for file in files}
    check_all(finished, tmp_path, files, [empty, last_digit])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_json_file_of_an_experiment_damaged_in_every_way(finished: Path, tmp_path: Path) -> None:
    files = records(finished)
    assert len(files) >= 50
    check_all(finished, tmp_path, files, [empty, half, last_digit, first_byte])


def test_an_empty_environment_is_written_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs / "damaged" / "student" / "seed-0" / "environment.json"
    file.write_text("")
    api.run(recipe(), runs=runs)
    assert read_json(file)["torch"]
    assert "environment.json is not valid JSON" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("metrics.jsonl", "restore it from a copy, or delete"), ("timing.jsonl", "delete it: the report")],
)
def test_a_cut_line_of_a_finished_run_is_told_with_its_number_and_a_remedy(runs: Path, name: str, remedy: str) -> None:
    file = runs / "damaged" / "student" / "seed-0" / name
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:9])
    with pytest.raises(UserError, match=f"{name}:{len(lines)} is damaged, it is no JSON .*: {remedy}"):
        api.report(recipe(), runs=runs)


def test_without_clock_readings_the_report_interpolates(runs: Path) -> None:
    (runs / "damaged" / "student" / "seed-0" / "timing.jsonl").unlink()
    summary = api.report(recipe(), runs=runs)
    assert summary is not None
    points = summary.models["student"].seeds["0"].curves["seconds"]
    assert [point[2] for point in points] == sorted(point[2] for point in points)


def test_a_cut_last_line_is_left_out_while_the_file_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "timing.jsonl"
    file.write_text('{"step": 1, "tokens": 2}\n{"step": 2, "tok')
    assert read_lines(file, "delete it", growing=True) == [{"step": 1, "tokens": 2}]
    with pytest.raises(UserError, match=r"timing.jsonl:2 is damaged"):
        read_lines(file, "delete it")
    lines = JsonLines(file)
    lines.write({"step": 2, "tokens": 4})
    lines.close()
    assert [line["step"] for line in read_lines(file, "")] == [1, 2]
    assert " ".join(capsys.readouterr().err.split()).count("its last line was cut, and is left out") == 2
