"""What can go wrong with a run, each time a clear message and nothing lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.base.run_folder import RunFolder
from tutelage.recipe.load import recipe_from_text
from tutelage.training import checkpoint

RECIPE = """
name: bad
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 16}}
models:
  one:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 20
    evaluations: 4
    optim: {batch_rows: 4, lr: 1.0e-3}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    api.train(recipe_from_text(RECIPE), runs=runs)
    return runs


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """Prepared data, nothing trained."""
    (tmp_path / "bad").mkdir()
    shutil.copytree(trained / "bad" / "data", tmp_path / "bad" / "data")
    return tmp_path


def train(runs: Path, change: tuple[str, str] = ("", "")) -> None:
    api.train(recipe_from_text(RECIPE.replace(*change) if change[0] else RECIPE), runs=runs)


def command(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tutelage", *arguments], text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def test_unknown_preset(runs: Path) -> None:
    shape = "config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, " \
            "intermediate_size: 32}"  # fmt: skip
    with pytest.raises(UserError, match=r"unknown preset 'llama-58'; did you mean 'llama-58m'"):
        train(runs, (shape, "preset: llama-58"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hidden_size: 16", "hiden_size: 16"), "no 'hiden_size'; did you mean 'hidden_size'"),
        (("model_type: llama", "model_type: lama"), "lama"),
        (("steps: 20", "epochs: 0.00001"), "less than one step"),
        (("steps: 20", "steps: 20\n    stages: [{span: 30, objectives: {next_token: 1}}, {}]"), "does not fit into 20"),
    ],
)
def test_impossible_models(runs: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(runs, change)


def taught_by(path: Path) -> tuple[str, str]:
    stages = f"stages: [{{teachers: ['{path}'], objectives: {{next_token: 0.5, distill: 0.5}}}}]"
    return ("steps: 20", f"steps: 20\n    {stages}")


def test_teacher_with_another_vocabulary(runs: Path, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained / "bad" / "one" / "seed-0" / "hf", other)
    tokenizer = other / "tokenizer.json"
    # Swap the ids of two tokens: same size, other meaning.
    text = tokenizer.read_text()
    text = text.replace('"Ġthe": ', '"@@": ').replace('"Ġa": ', '"Ġthe": ').replace('"@@": ', '"Ġa": ')
    tokenizer.write_text(text)
    with pytest.raises(UserError, match=r"another vocabulary: 2 of 400 tokens differ.*data\.tokenizer"):
        train(runs, taught_by(other))


def test_teacher_from_a_folder(runs: Path, trained: Path) -> None:
    train(runs, taught_by(trained / "bad" / "one" / "seed-0" / "hf"))
    assert RunFolder(runs / "bad" / "one" / "seed-0").is_finished


def test_teacher_without_weights(runs: Path, trained: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(trained / "bad" / "one" / "seed-0" / "hf", empty)
    (empty / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        train(runs, taught_by(empty))
    # A pickle is never a way in, whatever it holds.
    canary = tmp_path / "canary"
    payload = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    (empty / "pytorch_model.bin").write_bytes(payload)
    with pytest.raises(UserError, match="has no weights"):
        train(runs, taught_by(empty))
    assert not canary.exists()


def test_misspelt_teacher_is_told_before_any_training(runs: Path) -> None:
    text = RECIPE + "  two: {like: one, stages: [{teachers: [onee], objectives: {next_token: 0.5, distill: 0.5}}]}\n"
    with pytest.raises(UserError, match=r"'onee' is no model of this recipe; did you mean 'one'"):
        api.train(recipe_from_text(text), runs=runs)
    assert not (runs / "bad" / "one").exists()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("preset: lama-1m", "unknown preset 'lama-1m'"),
        ("config: {hidden_sice: 8}", "no 'hidden_sice'"),
        ("stages: [{span: 99, objectives: {next_token: 1}}, {}]", "does not fit into 20"),
    ],
)
def test_mistakes_of_later_models_are_told_before_any_training(runs: Path, second: str, message: str) -> None:
    text = RECIPE + f"  two: {{like: one, {second}}}\n"
    with pytest.raises(UserError, match=message):
        api.train(recipe_from_text(text), runs=runs)
    assert not (runs / "bad" / "one").exists()


def test_weights_of_another_tokenizer(runs: Path, trained: Path) -> None:
    weights = trained / "bad" / "one" / "seed-0" / "hf"
    text = RECIPE.replace("name: bad", "name: more").replace("400}", "400, alphabet: seen}")
    shape = "config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, " \
            "intermediate_size: 32}"  # fmt: skip
    with pytest.raises(UserError, match="another vocabulary"):
        api.train(recipe_from_text(text.replace(shape, f"weights: {weights}")), runs=runs)


def test_weights_with_too_few_positions(runs: Path, tmp_path: Path) -> None:
    shape = "config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, " \
            "intermediate_size: 32}"  # fmt: skip
    short = "config: {model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 16}"
    train(runs, (shape, short))
    text = RECIPE.replace("rows: {length: 16}", "rows: {length: 32}").replace("name: bad", "name: longer")
    text = text.replace(shape, f"weights: {runs / 'bad' / 'one' / 'seed-0' / 'hf'}")
    with pytest.raises(UserError, match=r"16 positions, fewer than data\.rows\.length=32"):
        api.train(recipe_from_text(text), runs=runs)


def test_distilling_alone_still_tells_the_loss(runs: Path, trained: Path) -> None:
    change = taught_by(trained / "bad" / "one" / "seed-0" / "hf")
    train(runs, (change[0], change[1].replace("next_token: 0.5, ", "")))
    lines = RunFolder(runs / "bad" / "one" / "seed-0").lines()
    assert all(line["loss"] > 1 and line["kl"] >= 0 for line in lines if "val" not in line)


def test_new_weights_in_a_teachers_folder_are_another_teacher(runs: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(trained / "bad" / "one" / "seed-0" / "hf", folder)
    train(runs, taught_by(folder))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"teachers\."):
        train(runs, taught_by(folder))


def test_teacher_without_a_tokenizer(runs: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(trained / "bad" / "one" / "seed-0" / "hf", folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        train(runs, taught_by(folder))


def test_masked_model_needs_a_mask_token(runs: Path) -> None:
    text = RECIPE.replace("{vocab_size: 400}", "{vocab_size: 400, extra_tokens: []}").replace(
        "name: bad", "name: nomask"
    )
    text = text.replace("steps: 20", "steps: 20\n    stages: [{objectives: {masked: 1}}]")
    with pytest.raises(UserError, match="needs a mask token"):
        api.train(recipe_from_text(text), runs=runs)


def test_teacher_that_is_nowhere(runs: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        train(runs, taught_by(runs / "nowhere"))


def test_teachers_in_a_circle(runs: Path) -> None:
    text = (
        RECIPE
        + """
  two: {like: one, stages: [{teachers: [three], objectives: {next_token: 0.5, distill: 0.5}}]}
  three: {like: one, stages: [{teachers: [two], objectives: {next_token: 0.5, distill: 0.5}}]}
"""
    )
    with pytest.raises(UserError, match="two -> three -> two"):
        api.train(recipe_from_text(text), runs=runs)


def test_missing_suite_is_told_before_training(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setenv("TUTELAGE_CACHE", str(runs / "cache"))
    with pytest.raises(UserError, match=r"blimp.*github\.com/alexwarstadt"):
        api.run(recipe_from_text(RECIPE + "evaluate: [test, blimp]\n"), runs=runs)
    assert not (runs / "bad" / "one").exists()


def test_second_process_in_one_folder(runs: Path) -> None:
    with RunFolder(runs / "bad" / "one" / "seed-0").locked(), pytest.raises(UserError, match="in use by process"):
        train(runs)


def test_unwritable_output(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="cannot write to"):
        api.prepare(recipe_from_text(RECIPE), runs=file)


def test_full_disk_keeps_the_last_checkpoint_and_goes_on_later(
    runs: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(runs / "bad" / "one" / "seed-0")
    original, saves = checkpoint.save_file, []

    def save_file(tensors, path):
        saves.append(path)
        if len(saves) > 2:  # the optimizer of the first checkpoint still fits
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(UserError, match=r"disk of .* is full.*run the same command again"):
        train(runs)
    assert checkpoint.newest_good(run.checkpoints) == 5
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000005"]
    monkeypatch.undo()
    train(runs)
    for name in ("metrics.jsonl", "checkpoints/step-000000020/model.safetensors", "hf/model.safetensors"):
        assert (run.path / name).read_bytes() == (trained / "bad" / "one" / "seed-0" / name).read_bytes()


def test_real_full_disk(runs: Path) -> None:
    """On a file system of 1 MiB, which only root can make."""
    disk = runs / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (disk / "bad").mkdir()
        (disk / "bad" / "data").symlink_to(runs / "bad" / "data")
        wide = RECIPE.replace("hidden_size: 16", "hidden_size: 256")
        with pytest.raises(UserError, match=r"is full"):
            api.train(recipe_from_text(wide), runs=disk)
        assert checkpoint.steps_in(disk / "bad" / "one" / "seed-0" / "checkpoints") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_damaged_checkpoint_falls_back(trained: Path, tmp_path: Path, capsys, file: str, damage: str) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(trained / "bad" / "one" / "seed-0" / "checkpoints", checkpoints)
    path = checkpoint.folder_of(checkpoints, 20) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[: len(content) // 2], "flipped": content, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    assert checkpoint.newest_good(checkpoints) == 15
    assert checkpoint.folder_of(checkpoints, 20).is_dir()
    assert "falling back" in capsys.readouterr().err


def test_all_checkpoints_damaged_stops(trained: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(trained / "bad" / "one" / "seed-0" / "checkpoints", checkpoints)
    for folder in checkpoints.iterdir():
        (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged; nothing was changed"):
        checkpoint.newest_good(checkpoints)
    assert len(list(checkpoints.iterdir())) == 2


@pytest.mark.parametrize("look_every", [1, 3])
def test_loss_that_is_not_finite_stops_with_step_and_rows(
    runs: Path, monkeypatch: pytest.MonkeyPatch, look_every: int
) -> None:
    """Also where it is noticed steps later, as on a GPU: no update follows the broken step."""
    from tutelage.training import loop

    original, calls, weights = loop.clip_gradient, [], []

    def poisoned(learner, limit):
        calls.append(1)
        weights.append(torch.cat([p.detach().flatten() for p in learner.parameters()]))
        norm = original(learner, limit)
        return norm * float("nan") if len(calls) == 8 else norm

    monkeypatch.setattr(loop, "clip_gradient", poisoned)
    monkeypatch.setattr(loop, "SYNC_EVERY", {"cpu": look_every})
    with pytest.raises(UserError, match=r"models\.one: step 8: .*not finite.*Rows of this batch: \d+, \d+, \d+, \d+\."):
        train(runs)
    assert len(calls) == -(-8 // look_every) * look_every
    assert all(torch.equal(weights[7], later) for later in weights[7:])
    run = RunFolder(runs / "bad" / "one" / "seed-0")
    assert checkpoint.newest_good(run.checkpoints) == 5
    folder = checkpoint.folder_of(run.checkpoints, 5)
    assert all(torch.isfinite(t).all() for t in load_file(folder / "model.safetensors").values())


def test_metrics_do_not_depend_on_how_often_one_looks(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tutelage.training import loop

    train(runs)
    monkeypatch.setattr(loop, "SYNC_EVERY", {"cpu": 7})
    train(tmp_path / "seldom")
    files = [root / "bad" / "one" / "seed-0" / "metrics.jsonl" for root in (runs, tmp_path / "seldom")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(runs: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(RECIPE.replace("steps: 20", "steps: 100000").replace("evaluations: 4", "evaluations: 1"))
    process = command("train", str(recipe), "--runs", str(runs))
    run = RunFolder(runs / "bad" / "one" / "seed-0")
    wait_for(lambda: run.timing.exists() and run.timing.stat().st_size > 0, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "run the same command again" in error
    assert "Traceback" not in error
    step = checkpoint.newest_good(run.checkpoints)
    assert step is not None
    assert step >= 250


def test_ctrl_c_twice_leaves_at_once_and_keeps_what_was_saved(runs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(RECIPE.replace("steps: 20", "steps: 100000").replace("evaluations: 4", "evaluations: 1000"))
    process = command("train", str(recipe), "--runs", str(runs))
    run = RunFolder(runs / "bad" / "one" / "seed-0")
    wait_for(lambda: len(checkpoint.steps_in(run.checkpoints)) > 0, process)
    # Both signals are there when the process wakes up: the second finds the first unanswered.
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "once more to stop at once" in error
    assert "run the same command again" not in error  # the first signal was never answered
    assert "Traceback" not in error
    assert checkpoint.newest_good(run.checkpoints) is not None


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)


def test_command_line_errors_are_one_message() -> None:
    process = command("run", "quikstart")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("error: no recipe 'quikstart'")
    assert "did you mean 'quickstart'" in error
    assert "Traceback" not in error
