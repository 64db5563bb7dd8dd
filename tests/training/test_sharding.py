"""Two processes that share a model out against one that holds it all: the same losses, gradients, weights, files."""

import json
import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fixtures.one_step import BuiltJob, one_step
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.files import sha256
from tutelage.base.run_folder import RunFolder
from tutelage.corpus.batches import BatchSource, Masking
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import Optim
from tutelage.recipe.optim import MuonSettings
from tutelage.teaching.teachers import Ensemble
from tutelage.training import checkpoint, sharding
from tutelage.training.loop import train
from tutelage.training.objectives import count, scales_for
from tutelage.training.parallel import Group, clip_gradient, process_group
from tutelage.training.plan import Plan

ALONE = Group(0, 1, torch.device("cpu"))
STEPS = 6
CASES = [
    # Architecture, tied, kind of rows, rows of a batch, of a micro-batch, what a stage learns.
    ("llama", False, "chunks", 8, None, {"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}}),
    # Eleven rows are unequal shares: with micro-batches of five, one process has two and the other one.
    ("llama", True, "chunks", 11, 5, {"next_token": 1}),
    ("gpt2", True, "chunks", 11, 5, {"next_token": 0.5, "distill": 0.5}),
    # Examples: the last batch of a bucket may have one row, and the other process none.
    ("gpt2", False, "examples", 7, 2, {"distill": {"weight": 1, "reduction": "per_row"}}),
    ("modernbert", True, "chunks", 8, 3, {"masked": 1}),
]
NAMES = [f"{case[0]}-{'tied' if case[1] else 'untied'}-{case[2]}" for case in CASES]


def job(store, case: tuple, sharded: bool, precision: str = "fp32", dropout: float = 0.0) -> BuiltJob:
    architecture, tied, kind, rows, micro, objectives = case
    stage = recipe.Stage.model_validate(
        {"teachers": ["t"] if "distill" in objectives else [], "objectives": objectives}
    )
    model = recipe.Model(
        preset="llama-1m", steps=STEPS, stages=(stage,), keep="all", sharding="fsdp" if sharded else "none",
        # A large epsilon: else AdamW turns the rounding of gradients near zero into whole steps.
        optim=recipe.Optim(batch_rows=rows, micro_batch_rows=micro, lr=1e-2, eps=1e-3, weight_decay=0.1, clip=0.5),
    )  # fmt: skip
    masking = None
    if "masked" in objectives:
        masking = Masking(0.3, 3, 60, (0, 1, 2, 3, 4, 5), 0)
    source = BatchSource(store, recipe.Rows(kind=kind, length=16, buckets=(8,)), rows, 0, masking=masking)
    val = BatchSource(store, recipe.Rows(kind="chunks", length=16), 64, 0, masking=masking, shuffle=False)
    return BuiltJob(
        name="x", model=model, seed=0, source=source, val=val, val_bytes_per_token=1.0,
        plan=Plan(STEPS, (STEPS,), frozenset({2, 4, STEPS})), milestones=frozenset(),
        teachers=lambda index: Ensemble([tiny("gpt2", 2, True), tiny("llama", 3, False)]) if stage.teachers else None,
        precision=precision, build=lambda: tiny(architecture, 1, tied, dropout),
    )  # fmt: skip


def tiny(architecture: str, seed: int, tied: bool, dropout: float = 0.0, vocabulary: int = 60) -> LanguageModel:
    """A model of two layers; its output layer has rows beyond the vocabulary, and sizes that two does not divide."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    common = {"vocab_size": vocabulary + 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
              "tie_word_embeddings": tied}  # fmt: skip
    drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    shape = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 49}
    special = {"cls_token_id": 4, "sep_token_id": 5, "mask_token_id": 3}
    settings = {
        "gpt2": {"n_embd": 36, "n_layer": 2, "n_head": 2, "n_positions": 33, **drop},
        "llama": shape,
        "modernbert": shape | special,
    }[architecture]
    kind = "masked" if architecture == "modernbert" else "causal"
    factory = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **settings, **common)
    return LanguageModel(factory.from_config(config, attn_implementation="eager"), kind, vocabulary)


def together(work: Callable[[Group], None]) -> None:
    """Let two forked processes with gloo do some work."""

    def process(rank: int) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(port))  # fmt: skip
        with process_group() as group:
            work(group)
        os._exit(0)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=process, args=(rank,)) for rank in range(2)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
        each.kill()
        each.join()
    assert [each.exitcode for each in processes] == [0, 0]


def run(what: BuiltJob, path: Path, group: Group) -> None:
    folder = RunFolder(path)
    folder.path.mkdir(exist_ok=True)
    train(what, what.learner(), folder, group)


def weights(path: Path, name: str = "model", step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder_of(path / "checkpoints", step) / f"{name}.safetensors")


def metrics(path: Path) -> list[float]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines for value in line.get("val", line).values()]


def go_back(path: Path, step: int) -> None:
    """Leave a run as it was after a step's checkpoint."""
    for later in checkpoint.steps_in(path / "checkpoints"):
        if later > step:
            shutil.rmtree(checkpoint.folder_of(path / "checkpoints", later))


def assert_same(path: Path, other: Path) -> None:
    assert metrics(path) == pytest.approx(metrics(other), rel=1e-4)
    for name in ("model", "optimizer"):
        found, expected = weights(path, name), weights(other, name)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_training_sharded_equals_training_alone(store, tmp_path: Path, case: tuple) -> None:
    run(job(store, case, sharded=True), tmp_path / "alone", ALONE)
    together(lambda group: run(job(store, case, sharded=True), tmp_path / "sharded", group))
    assert_same(tmp_path / "sharded", tmp_path / "alone")


@pytest.mark.parametrize(("tied", "rows"), [(True, 11), (False, 1)])
def test_gradient_and_its_norm(store, tmp_path: Path, tied: bool, rows: int) -> None:
    def gradient(what: BuiltJob, group: Group) -> tuple[dict[str, torch.Tensor], float, torch.Tensor]:
        learner = what.learner()
        optim = what.model.optim.model_copy(update={"clip": None})
        unclipped = replace(what, model=what.model.model_copy(update={"optim": optim}))
        _, sums = one_step(unclipped, learner, group, what.source.batch(3).part(slice(0, rows)))
        found = {name: sharding.whole(p.grad).clone() for name, p in learner.named_parameters()}
        return found, clip_gradient(learner, 1e-3), sums

    case = ("llama", tied, "chunks", 11, 4, {"next_token": 0.5, "distill": {"weight": 0.5, "reduction": "per_row"}})
    what = job(store, case, sharded=True)

    def keep(group: Group) -> None:
        found = gradient(what, group)
        if group.rank == 1:
            torch.save(found, tmp_path / "found")

    together(keep)
    grads, norm, sums = torch.load(tmp_path / "found", weights_only=True)
    expected, its_norm, its_sums = gradient(what, ALONE)
    assert float(norm) == pytest.approx(float(its_norm), rel=1e-5)
    torch.testing.assert_close(sums, its_sums, rtol=1e-6, atol=0)
    for name, tensor in expected.items():
        assert (grads[name] - tensor).norm() < 1e-5 * tensor.norm() + 1e-9, name


MUON = Optim(kind="muon", lr=1e-2, weight_decay=0.1, muon=MuonSettings(normalise=True, heads=True, cautious=True))


@pytest.mark.parametrize(
    ("first", "then", "optim"),
    [
        ("alone", "sharded", None),
        ("sharded", "alone", None),
        ("ddp", "sharded", None),
        ("sharded", "ddp", None),
        ("sharded", "sharded", None),
        ("alone", "sharded", MUON),
        ("sharded", "ddp", MUON),
        ("sharded", "sharded", MUON),
    ],
)
def test_any_number_of_processes_goes_on(store, tmp_path: Path, first: str, then: str, optim: Optim | None) -> None:
    """Whoever wrote the checkpoint, whoever reads it: training goes on as if nothing had changed hands."""

    def by(who: str) -> None:
        what = job(store, CASES[0], sharded=who == "sharded")
        if optim is not None:
            rows = optim.model_copy(update={"batch_rows": what.model.optim.batch_rows})
            what = replace(what, model=what.model.model_copy(update={"optim": rows}))
        if who == "alone":
            run(what, tmp_path / "changed", ALONE)
        else:
            together(lambda group: run(what, tmp_path / "changed", group))

    by(first)
    shutil.copytree(tmp_path / "changed", tmp_path / "straight")
    go_back(tmp_path / "changed", 2)
    by(then)
    if first == then:
        for name in ("model", "optimizer"):
            file = checkpoint.folder_of(Path("checkpoints"), STEPS) / f"{name}.safetensors"
            assert (tmp_path / "changed" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()
        assert metrics(tmp_path / "changed") == metrics(tmp_path / "straight")
    assert_same(tmp_path / "changed", tmp_path / "straight")


def test_evaluation_comes_first_after_a_resume(store, tmp_path: Path) -> None:
    """Weights put together for an evaluation, before any training in this process, can still be trained."""
    what = job(store, CASES[1], sharded=True)
    together(lambda group: run(what, tmp_path / "straight", group))
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    go_back(tmp_path / "resumed", 4)
    state = checkpoint.folder_of(tmp_path / "resumed" / "checkpoints", 4) / "state.json"
    # As a run leaves it that was stopped during the evaluation.
    state.write_text(state.read_text().replace('"evaluated": 4', '"evaluated": 2'))
    manifest = state.with_name("manifest.json")
    found = json.loads(manifest.read_text())
    found["sha256"]["state.json"] = sha256(state)
    manifest.write_text(json.dumps(found))
    together(lambda group: run(what, tmp_path / "resumed", group))
    expected = weights(tmp_path / "straight")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "resumed").items())


def test_bf16_differs_by_rounding(store, tmp_path: Path) -> None:
    for sharded in (False, True):
        what = job(store, CASES[2], sharded, "bf16")
        together(lambda group, what=what: run(what, tmp_path / what.model.sharding, group))
    assert metrics(tmp_path / "fsdp") == pytest.approx(metrics(tmp_path / "none"), rel=3e-2)
    assert {tensor.dtype for tensor in weights(tmp_path / "fsdp").values()} == {torch.float32}


def bf16_gradients(what: BuiltJob, device: torch.device, processes: int) -> dict[str, torch.Tensor]:
    """A batch's gradients under autocast; `processes` share the model out and send it in bf16, 0 leave it whole."""
    learner = what.learner()
    if processes:
        sharding.shard(learner.model, device, processes, torch.bfloat16)
    else:
        learner.to(device)
    batch = what.source.batch(0)
    scales = scales_for(what.model.stages[0].objectives, count(batch))
    for micro in batch.to(device).split(4):
        with torch.autocast(device.type, torch.bfloat16):
            loss, _ = learner(micro, scales)
        loss.backward()
    return {name: sharding.whole(p.grad) for name, p in learner.named_parameters()}


def assert_rounded_like(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        # Initial weights of norms are 1, which bf16 holds. Their gradients, and those of biases, are rounded to bf16
        # in every micro-batch; those of matrices are anyhow.
        close = 4e-3 if tensor.ndim == 1 else 1e-5
        assert (found[name] - tensor).norm() < close * tensor.norm(), name


def test_layers_sent_in_bf16_give_the_gradient_of_autocast(store, tmp_path: Path) -> None:
    """As on GPUs. No CPU kernel takes layer norms' weights in bf16, so a Llama it is, whose norms are RMSNorm."""
    what = job(store, CASES[1], sharded=True)

    def keep(group: Group) -> None:
        # Both processes have the same rows, so that averaging changes nothing.
        found = bf16_gradients(what, group.device, 2)
        if group.is_main:
            torch.save(found, tmp_path / "found")

    together(keep)
    assert_rounded_like(torch.load(tmp_path / "found", weights_only=True), bf16_gradients(what, ALONE.device, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_gpu_shares_a_model_with_itself(store, architecture: str) -> None:
    """One GPU is no group, but goes the way of several."""
    device = torch.device("cuda", 0)
    what = job(store, (architecture, True, "chunks", 8, None, {"next_token": 1}), sharded=True)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = bf16_gradients(what, device, 1)
    finally:
        dist.destroy_process_group()
    assert_rounded_like(found, bf16_gradients(what, device, 0))


def test_a_process_holds_its_part(tmp_path: Path) -> None:
    """About half of everything; no parameter is left out, and the cut before the output layer stays."""
    size = sum(parameter.numel() for parameter in tiny("llama", 0, True).parameters())

    def work(group: Group) -> None:
        model = tiny("llama", 0, True)
        group.place(model, "fsdp", "fp32")
        parameters = list(model.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in parameters)
        assert 0.45 * size < sum(parameter.to_local().numel() for parameter in parameters) < 0.55 * size
        tokens_BT = torch.arange(12).view(2, 6)
        with torch.no_grad():
            torch.testing.assert_close(model.logits(tokens_BT), tiny("llama", 0, True).logits(tokens_BT))

    together(work)


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    model = tiny("gpt2", 0, True)
    model.hf.transformer.h = nn.Sequential(*model.hf.transformer.h)
    with pytest.raises(UserError, match="sharding=none"):
        sharding.shard(model, torch.device("cpu"), 2)
