"""Checkpoints that are whole or absent, verified when loaded, and exact to resume from.

A checkpoint is a folder of safetensors and JSON (no pickles), written under a temporary name, flushed, hashed into a
manifest and renamed; older ones are removed only afterwards. Loading verifies every hash and falls back to the newest
good one, saying so and keeping the bad one.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.files import new_folder, read_json, sha256, write_json
from tutelage.progress import console

NAME = re.compile(r"step-(\d{9})")
FORMAT = 1


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
    names = [NAME.fullmatch(path.name) for path in checkpoints.glob("step-*")] if checkpoints.is_dir() else []
    return sorted(int(name[1]) for name in names if name)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    # named_parameters lists tied weights once, which safetensors asks for.
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach().contiguous() for name, tensor in named.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value.contiguous() for index, entry in state.items() for name, value in entry.items()}


def save(
    checkpoints: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, timing: dict[str, float]
) -> None:
    """Write the checkpoint of `state.step`; `timing` (clock readings in seconds) is kept beside it, for reports."""
    with new_folder(folder_of(checkpoints, state.step)) as folder:
        save_file(_weights(model), folder / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), folder / "optimizer.safetensors")
        write_json(folder / "state.json", asdict(state))
        write_json(folder / "timing.json", timing)
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / "manifest.json", {"format": FORMAT, "step": state.step, "sha256": files})


def prune(checkpoints: Path, keep: set[int]) -> None:
    """Remove all checkpoints but the last two and those to keep."""
    steps = steps_in(checkpoints)
    for step in steps[:-2]:
        if step not in keep:
            shutil.rmtree(folder_of(checkpoints, step))


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
    """Return the step of the newest checkpoint that verifies; None where there is none at all.

    Raises:
        UserError: there are checkpoints, but every one is damaged.
    """
    steps = steps_in(checkpoints)
    for step in reversed(steps):
        fault = verify(folder_of(checkpoints, step))
        if fault is None:
            return step
        console.print(
            f"[bold red]checkpoint {folder_of(checkpoints, step)} is damaged: {fault}; "
            "falling back to the one before (the damaged one is kept)"
        )
    if steps:
        raise UserError(
            f"every checkpoint in {checkpoints} is damaged; nothing was changed. Restore one from a backup, "
            "or delete the folder to train from the start"
        )
    return None


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load a checkpoint's weights into a model of the same shape."""
    try:
        tensors = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {folder / 'model.safetensors'}: {error}") from error
    own = _weights(model)
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in tensors.items()}:
        raise UserError(f"{folder} holds the weights of a model of another shape")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def load(
    checkpoints: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[State, dict[str, float]]:
    """Load weights and optimizer in place; return the state and the clock readings."""
    folder = folder_of(checkpoints, step)
    load_weights(folder, model)
    entries: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return State(**read_json(folder / "state.json")), read_json(folder / "timing.json")
