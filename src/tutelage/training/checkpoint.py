"""Checkpoints that are whole or absent, verified when loaded, and exact to resume from.

A folder of safetensors and JSON (no pickles), written under a temporary name, flushed, hashed into a manifest and
renamed; older ones are removed only afterwards. It looks the same however many processes write and read it: what they
share out is put together tensor by tensor while saving, and taken apart while loading.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tutelage.base.errors import UserError
from tutelage.base.files import new_folder, read_json, sha256, write_json
from tutelage.base.progress import console
from tutelage.training.average import WeightAverage
from tutelage.training.sharding import part_of, reshard, whole

OPTIMIZER = "optimizer.safetensors"
RAW = "raw.safetensors"
"""The last weights, to resume from, where `model.safetensors` holds an average of them."""


@dataclass
class State:
    """Where a run stands, apart from weights and optimizer: everything else follows from these numbers.

    Attributes:
        step: optimizer steps done.
        evaluated: the last step whose evaluation is in the metrics.
        tokens: tokens read, over all processes.
        clipped: steps whose gradient was clipped.
        window: sums since the last line of the metrics, by name.
        best: step and loss of the best evaluation so far.
        metrics_bytes: length of `metrics.jsonl`.
    """

    step: int = 0
    evaluated: int = 0
    tokens: int = 0
    clipped: int = 0
    window: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    metrics_bytes: int = 0


def folder_of(checkpoints: Path, step: int) -> Path:
    """Name the folder of a step's checkpoint."""
    return checkpoints / f"step-{step:09d}"


def steps_in(checkpoints: Path) -> list[int]:
    """List the steps that have a checkpoint, oldest first."""
    names = [re.fullmatch(r"step-(\d{9})", path.name) for path in checkpoints.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    # An evaluation may have left some of them whole.
    reshard(model)
    # named_parameters lists tied weights once, which safetensors asks for.
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach() for name, tensor in named.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _gather(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Put tensors together, one at a time on the device; only the process that keeps them holds them all."""
    each = ((name, whole(tensor)) for name, tensor in tensors.items())
    return {name: tensor.cpu().contiguous() for name, tensor in each if keep}


def save(
    checkpoints: Path,
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    timing: dict[str, float],
    average: WeightAverage | None = None,
    write: bool = True,
) -> None:
    """Write the checkpoint of `state.step`, with `timing` (clock readings in seconds) for reports.

    Every process must call it; exactly one is to `write`, and holds all tensors of a file in host memory meanwhile.
    """

    def tensors() -> Iterator[tuple[str, dict[str, Tensor]]]:
        with average.in_place() if average is not None else nullcontext():
            yield "model.safetensors", _gather(_weights(model), keep=write)
        if average is not None:
            yield RAW, _gather(_weights(model), keep=write)
        yield OPTIMIZER, _gather(_optimizer_tensors(optimizer), keep=write)

    if not write:
        for _ in tensors():
            pass
        return
    with new_folder(folder_of(checkpoints, state.step)) as folder:
        for file, content in tensors():
            save_file(content, folder / file)
        write_json(folder / "state.json", asdict(state))
        write_json(folder / "timing.json", timing)
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / "manifest.json", {"format": 1, "step": state.step, "sha256": files})


def prune(checkpoints: Path, keep: set[int], light: set[int] | None = None) -> None:
    """Remove all checkpoints but the last two and those to keep; of these, `light` ones are left their weights only."""
    for step in steps_in(checkpoints)[:-2]:
        folder = folder_of(checkpoints, step)
        if step not in keep:
            shutil.rmtree(folder)
        elif step in (light or ()):
            _drop_optimizer(folder)


def _drop_optimizer(folder: Path) -> None:
    """Remove the moments of a checkpoint, two thirds of it, and raw weights, which only resuming needs."""
    if not (folder / OPTIMIZER).exists() or verify(folder) is not None:
        return  # what is damaged stays as it is
    manifest = read_json(folder / "manifest.json")
    raw = manifest["sha256"].pop(RAW, None)
    if manifest["sha256"].pop(OPTIMIZER, None) is not None or raw is not None:
        # First the manifest, so that the checkpoint is whole at any moment.
        write_json(folder / "manifest.json", manifest)
    (folder / OPTIMIZER).unlink()
    (folder / RAW).unlink(missing_ok=True)


def verify(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        manifest = read_json(folder / "manifest.json")
        for name, digest in manifest["sha256"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256(folder / name) != digest:
                return f"{name} does not match its checksum"
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        return f"manifest.json cannot be read ({error})"
    return None


def newest_good(checkpoints: Path) -> int | None:
    """Return the step of the newest checkpoint that verifies and has moments; None where there is no checkpoint at all.

    Damaged ones are named and kept; if none is good, that is a `UserError`.
    """
    steps, light = steps_in(checkpoints), ""
    for step in reversed(steps):
        folder = folder_of(checkpoints, step)
        if fault := verify(folder):
            before = "falling back to the one before (the damaged one is kept)"
            console.print(f"[bold red]checkpoint {folder} is damaged: {fault}; {before}")
        elif OPTIMIZER in read_json(folder / "manifest.json")["sha256"]:
            return step
        else:
            light = ", or holds weights only"
    if not steps:
        return None
    raise UserError(
        f"every checkpoint in {checkpoints} is damaged{light}; nothing was changed. Restore one from a backup, or "
        "delete the folder to train from the start"
    )


def load_weights(folder: Path, model: nn.Module, name: str = "model.safetensors") -> None:
    """Load a checkpoint's weights (averages, where it has them) into a model of the same shape, shared out or not."""
    own = _weights(model)
    try:
        with safe_open(folder / name, "pt") as file, torch.no_grad():
            shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if {name: tensor.shape for name, tensor in own.items()} != shapes:
                raise UserError(f"{folder} holds the weights of a model of another shape")
            for name, tensor in own.items():
                tensor.copy_(part_of(file.get_tensor(name), tensor))
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {folder / name}: {error}") from error


def load(
    checkpoints: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
) -> tuple[State, dict[str, float]]:
    """Load weights, averages and optimizer in place; return the state and the clock readings."""
    folder = folder_of(checkpoints, step)
    load_weights(folder, model)
    if average is not None:
        average.take()
        load_weights(folder, model, RAW)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    with safe_open(folder / OPTIMIZER, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            index, name = key.split(".", 1)
            tensor, parameter = file.get_tensor(key), parameters[int(index)]
            # Counters of steps are plain numbers; moments are shared out as their parameter is.
            moment = tensor.shape == parameter.shape
            entries.setdefault(int(index), {})[name] = part_of(tensor, parameter) if moment else tensor
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return State(**read_json(folder / "state.json")), read_json(folder / "timing.json")
