"""Several processes share the runs of an experiment, and what comes out is what one process makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage import api
from tutelage.base.errors import InUse
from tutelage.base.files import sha256
from tutelage.experiment import sharing
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: shared
data: {corpus: starter, words: 3000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 20
    evaluations: 2
    seeds: 2
    stages: [{teachers: ["control[0]", "control[1]"], objectives: {next_token: 0.5, distill: 0.5}}]
    optim: {batch_rows: 4, lr: 1.0e-2}
  control: {like: student, without: teachers}
evaluate: [val]
"""
RUNS = [("student", 0), ("student", 1), ("control", 0), ("control", 1)]


def weights(runs: Path) -> dict[tuple[str, int], str]:
    return {key: sha256(runs / "shared" / key[0] / f"seed-{key[1]}" / "hf" / "model.safetensors") for key in RUNS}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As each of several workers has on two cores: sums over threads would round otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("tutelage.base.machine.cores", lambda: 2)


def test_two_workers_make_what_one_process_makes(tmp_path: Path) -> None:
    alone = api.run(recipe_from_text(RECIPE), runs=tmp_path / "alone")
    together = api.run(recipe_from_text(RECIPE), runs=tmp_path / "together", workers=2)
    assert weights(tmp_path / "together") == weights(tmp_path / "alone")
    assert alone is not None
    assert together is not None
    losses = [[run.val for run in summary.models["student"].seeds.values()] for summary in (alone, together)]
    assert losses[0] == losses[1]
    folder = tmp_path / "together" / "shared"
    assert (folder / "worker-1.log").is_file()
    assert not (folder / ".workers.yaml").exists()


def test_what_a_killed_process_leaves_is_taken_up(tmp_path: Path) -> None:
    """Two processes from outside; one is killed while it trains."""
    text = RECIPE.replace("steps: 20", "steps: 120")
    (tmp_path / "recipe.yaml").write_text(text)
    command = [sys.executable, "-m", "tutelage", "train", str(tmp_path / "recipe.yaml"), "--share", "--runs"]
    api.prepare(recipe_from_text(text), runs=tmp_path / "runs")
    both = [subprocess.Popen([*command, str(tmp_path / "runs")], stderr=subprocess.DEVNULL) for _ in range(2)]
    end = time.monotonic() + 120
    while not list(tmp_path.glob("runs/shared/control/seed-*/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(both[0].pid, signal.SIGKILL)
    assert both[0].wait() == -signal.SIGKILL
    assert both[1].wait() == 0
    for name, seed in RUNS:
        assert json.loads((tmp_path / f"runs/shared/{name}/seed-{seed}/finished.json").read_text())["steps"] == 120


def test_a_run_in_other_hands_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, taken = recipe_from_text(RECIPE), []

    def trained(experiment: object, run: sharing.TrainingRun) -> None:
        taken.append(str(run))
        if taken == [str(run)]:
            raise InUse("elsewhere")
        (run.folder.path / "finished.json").parent.mkdir(parents=True, exist_ok=True)
        (run.folder.path / "finished.json").write_text("{}")

    monkeypatch.setattr(sharing, "train_run", trained)
    monkeypatch.setattr(sharing, "PAUSE", 0.0)
    with api.recipes._open(recipe, (), tmp_path) as experiment:
        sharing.train_shared(experiment, experiment.runs())
    # Students wait for both of their teachers, and the one in other hands is asked for again.
    assert taken == ["control[0]", "control[1]", "control[0]", "student[0]", "student[1]"]


def test_seeds_that_teach_are_so_many_trainings(tmp_path: Path) -> None:
    """In the length of a control that is given the FLOPs of a student and its teachers."""
    text = RECIPE.replace(
        "evaluate:", "  equal: {like: control, flops_of: {model: student, teachers: counted}}\nevaluate:"
    )
    recipe = recipe_from_text(text)
    assert recipe.ancestors_of("student") == {"control": 2}
    with api.recipes._open(recipe, (), tmp_path) as experiment:
        plans = experiment.plans
        whole = plans.of("student").flops() + 2 * plans.of("control").flops()
        step = plans.of("control").flops() / 20
        assert plans.of("equal").flops() == pytest.approx(whole, abs=step)


def test_no_more_workers_than_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tutelage.base.machine.cores", lambda: 1)
    with api.recipes._open(recipe_from_text(RECIPE), (), tmp_path) as experiment, sharing.helpers(experiment, 2):
        pass
    assert "--workers 3: this machine has 1 of the cores, so 1 are started" in capsys.readouterr().err
    assert not list(tmp_path.rglob("worker-*.log"))
