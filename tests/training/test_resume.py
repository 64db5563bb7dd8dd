"""Killed anywhere, restarted, equal to the last bit: the project's promise about interrupted runs.

Each attempt is a forked process (or two, as `torchrun` would start them) that kills itself with SIGKILL at a chosen
durable operation: an optimizer step, or one of the file operations inside a save. The next attempt goes on. In the end
weights, optimizer state, exported model and metrics must equal those of a run nobody disturbed, byte for byte.
"""

import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch

import tutelage.api.recipes  # noqa: F401 - likewise
from tutelage import api
from tutelage.base.errors import Interrupted
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: resume
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 16}}
models:
  teacher: &small
    config: {model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 32}  # dropout 0.1: randomness counts
    steps: 12
    evaluations: 2
    save_minutes: 0.000001
    checkpoints: [100, 400, 1K]
    optim: {batch_rows: 6, micro_batch_rows: 2, lr: 1.0e-2, warmup_steps: 3}
  student:
    <<: *small
    steps: 30
    evaluations: 4
    stages:
      - {span: 50%, teachers: [teacher@step-6], objectives: {next_token: 0.5, distill: 0.5}}
      - {objectives: {next_token: 1}}
"""
LABELLED = """
name: resume
data:
  corpus: starter
  separator: brackets
  tokenizer: {vocab_size: 400}
  rows: {kind: examples, length: 32, buckets: [16]}
models:
  student:
    config: {model_type: modernbert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
             intermediate_size: 16, mlp_dropout: 0.1}
    steps: 24
    evaluations: 2
    save_minutes: 0.000001
    optim: {batch_rows: 6, micro_batch_rows: 2, lr: 1.0e-2, warmup_steps: 3}
    stages:
      - {span: 12, objectives: {masked: 1, tasks: {weighting: uncertainty, temperature: 2}}}
      - {objectives: {masked: 1, tasks: {weighting: uncertainty, families: [tagging], weight: 2}}}
"""
CONTEXT = multiprocessing.get_context("fork")


def attempt(text: str, runs: Path, rank: int, size: int, port: int, fault: tuple[str, int] | None) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    torch.set_num_threads(1)
    if fault is not None:
        install(*fault)
    try:
        api.train(recipe_from_text(text), runs=runs)
    except Interrupted:
        os._exit(143)
    os._exit(0)


def install(what: str, when: int) -> None:
    """Make the `when`-th call of an operation the last thing this process does."""
    calls = itertools.count(1)

    def deadly(original, before: bool):
        def wrapped(*args, **kwargs):
            if before and next(calls) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if not before and next(calls) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    match what:
        case "step":
            torch.optim.AdamW.step = deadly(torch.optim.AdamW.step, before=False)
        case "fsync":
            os.fsync = deadly(os.fsync, before=True)
        case "rename":
            Path.rename = deadly(Path.rename, before=True)
        case "renamed":
            Path.rename = deadly(Path.rename, before=False)


def run_to_end(runs: Path, size: int, faults: list[tuple[int, str, int]], text: str = RECIPE) -> int:
    """Start again after every fault until the run is over; return how many attempts were killed."""
    killed = 0
    for fault in [*faults, None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = [
            CONTEXT.Process(
                target=attempt,
                args=(text, runs, rank, size, port, fault[1:] if fault and fault[0] == rank else None),
            )
            for rank in range(size)
        ]
        for process in group:
            process.start()
        while all(process.is_alive() for process in group):
            for process in group:
                process.join(0.02)
        # As torchrun does: when one is gone, the others go too.
        if any(process.exitcode == -signal.SIGKILL for process in group):
            killed += 1
            for process in group:
                process.kill()
        for process in group:
            process.join(60)
            assert fault is not None or process.exitcode == 0
    return killed


def outcome(runs: Path) -> dict[str, bytes]:
    kept = ("model.safetensors", "raw.safetensors", "optimizer.safetensors", "metrics.jsonl", "finished.json")
    found = {}
    for path in sorted(runs.rglob("*")):
        if path.name in kept and ".tmp" not in str(path):
            content = path.read_bytes()
            if path.name == "finished.json":
                value = json.loads(content)
                for clock in ("seconds", "seconds_teaching"):
                    value.pop(clock)
                value["files"].pop("timing.jsonl")
                value.pop("checksum")
                content = json.dumps(value).encode()
            found[str(path.relative_to(runs))] = content
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("prepared")
    process = CONTEXT.Process(target=lambda: (api.prepare(recipe_from_text(RECIPE), runs=runs), os._exit(0)))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return runs


def fresh(prepared: Path, tmp_path: Path, name: str) -> Path:
    runs = tmp_path / name
    (runs / "resume").mkdir(parents=True)
    (runs / "resume" / "data").symlink_to(prepared / "resume" / "data")
    return runs


MUON = ("lr: 1.0e-2", "kind: muon, muon: {normalise: true, heads: true}, lr: 1.0e-2")
EMA = ("    optim:", "    average: {kind: ema, decay: 0.9}\n    optim:")


@pytest.mark.parametrize(
    ("size", "sharding", "changed"),
    [
        (1, "none", None),
        (2, "none", None),
        (2, "fsdp", None),
        (1, "none", MUON),
        pytest.param(2, "fsdp", MUON, marks=pytest.mark.slow),
        (1, "none", EMA),
        pytest.param(2, "fsdp", EMA, marks=pytest.mark.slow),
    ],
)
def test_killed_ten_times_equals_undisturbed(
    prepared: Path, tmp_path: Path, size: int, sharding: str, changed: tuple[str, str] | None
) -> None:
    text = RECIPE.replace("    evaluations", f"    sharding: {sharding}\n    evaluations")
    if changed is not None:
        assert changed[0] in text
        text = text.replace(*changed)
    draw = random.Random(size)
    faults = [(draw.randrange(size), "step", draw.randrange(1, 8)) for _ in range(5)]
    # Only the first process writes, so only it can die inside a save.
    faults += [(0, kind, draw.randrange(1, 12)) for kind in ("fsync", "fsync", "rename", "renamed", "fsync")]
    draw.shuffle(faults)

    quiet, disturbed = fresh(prepared, tmp_path, "quiet"), fresh(prepared, tmp_path, "disturbed")
    assert run_to_end(quiet, size, [], text) == 0
    assert run_to_end(disturbed, size, faults, text) == 10
    expected, found = outcome(quiet), outcome(disturbed)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name
    steps = [json.loads(line)["step"] for line in found["resume/student/seed-0/metrics.jsonl"].splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 30


COURSES = {
    "cosine": "{weight: 0.5, temperature: {start: 3, end: 1, over: 9}, schedule: {kind: cosine, over: 11}, "
    "gate: {kind: skip_certain, share: 0.3}}",
    "wsd": "{weight: 0.5, schedule: {kind: wsd, over: 11, warmup: 3, decay: 4}, gate: confidence}",
    "to the stage's end": "{weight: 0.5, temperature: 2, schedule: ratio_linear, gate: {kind: advantage, scale: 0.5}}",
    "cached": "{weight: 0.5, schedule: {kind: linear, over: 11}, gate: advantage}",
}


@pytest.mark.parametrize("course", COURSES)
def test_killed_around_the_release_and_the_switch_equals_undisturbed(
    prepared: Path, tmp_path: Path, course: str
) -> None:
    """Teachers go before step 11, the stage before step 15: killed inside either, at both ends, and after them."""
    cache = ", cache: {kind: sparse, fill: first_epoch}" if course == "cached" else ""
    text = RECIPE.replace("distill: 0.5}", f"distill: {COURSES[course]}}}{cache}")
    # The teacher takes 12 steps. Killed in a step, a run goes on from the one before.
    killed_in, faults, at = (4, 10, 11, 14, 15, 20), [], -12
    for step in killed_in:
        faults.append((0, "step", step - at + 1))
        at = step
    quiet, disturbed = fresh(prepared, tmp_path, "quiet"), fresh(prepared, tmp_path, "disturbed")
    assert run_to_end(quiet, 1, [], text) == 0
    assert run_to_end(disturbed, 1, faults, text) == len(killed_in)
    expected, found = outcome(quiet), outcome(disturbed)
    assert found == expected
    lines = [json.loads(line) for line in found["resume/student/seed-0/metrics.jsonl"].splitlines()]
    weights = {line["step"]: line["weight"] for line in lines if "weight" in line}
    until = 15 if course == "to the stage's end" else 11
    assert sorted(weights) == list(range(1, 31))
    assert [step for step, weight in weights.items() if weight > 0] == list(range(1, until + 1))
    assert [line["step"] for line in lines if "gate_weight" in line] == list(range(1, until + 1))
    assert [line["step"] for line in lines if "kl" in line] == list(range(1, until + 1))


@pytest.fixture(scope="module")
def prepared_with_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("labelled")
    process = CONTEXT.Process(target=lambda: (api.prepare(recipe_from_text(LABELLED), runs=runs), os._exit(0)))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return runs


@pytest.mark.parametrize("size", [1, 2])
def test_killed_while_learning_labels_equals_undisturbed(prepared_with_labels: Path, tmp_path: Path, size: int) -> None:
    """Heads, their moments and the sums of each task since the last line are resumed too."""
    quiet, disturbed = (fresh(prepared_with_labels, tmp_path, name) for name in ("quiet", "disturbed"))
    assert run_to_end(quiet, size, [], LABELLED) == 0
    faults = [(size - 1, "step", 5), (0, "rename", 3), (0, "step", 9), (0, "fsync", 4)]
    assert run_to_end(disturbed, size, faults, LABELLED) == 4
    expected, found = outcome(quiet), outcome(disturbed)
    assert found == expected
    lines = [json.loads(line) for line in found["resume/student/seed-0/metrics.jsonl"].splitlines()]
    learned = {name for line in lines for name in line.get("tasks", {})}
    assert {"sentiment", "topic", "paraphrase", "pos", "entity"} <= learned


def test_labels_weigh_the_same_on_two_ranks(prepared_with_labels: Path, tmp_path: Path) -> None:
    text = LABELLED.replace("mlp_dropout: 0.1", "mlp_dropout: 0").replace("steps: 24", "precision: fp32\n    steps: 24")
    losses = []
    for size in (1, 2):
        runs = fresh(prepared_with_labels, tmp_path, f"ranks{size}")
        run_to_end(runs, size, [], text)
        lines = [json.loads(line) for line in (runs / "resume/student/seed-0/metrics.jsonl").read_text().splitlines()]
        losses.append([value for line in lines if "tasks" in line for value in (line["loss"], *line["tasks"].values())])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_ranks_agree_with_one_process(prepared: Path, tmp_path: Path) -> None:
    """The same batch over two processes gives the same losses (dropout apart, which this recipe's teachers have)."""
    text = RECIPE.replace("steps: 12", "precision: fp32\n    steps: 12")
    text = text.replace("n_positions: 32}", "n_positions: 32, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0}")
    losses = []
    for size, sharding in ((1, "none"), (2, "none"), (2, "fsdp")):
        runs = fresh(prepared, tmp_path, f"ranks{size}{sharding}")
        run_to_end(runs, size, [], text.replace("    evaluations", f"    sharding: {sharding}\n    evaluations"))
        lines = (runs / "resume/student/seed-0/metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") or json.loads(line)["val"]["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)
    assert losses[0] == pytest.approx(losses[2], rel=2e-5)
    # A finished run is the same one, sharded or not: nothing is trained again, nothing refused.
    before = outcome(runs)
    run_to_end(runs, 1, [], text)
    assert outcome(runs) == before
