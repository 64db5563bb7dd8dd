"""Optimizers and learning-rate schedules: a new one is a function, a line in its table, and a name in the recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tutelage import recipe
from tutelage.training.muon import Muon, hidden_matrices

STATE_SPACE = ("A_log", "D")
"""Mamba's parameters that its authors do not let decay: the logarithm of its rates, and what passes it by."""


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, Any]]:
    """Split parameters into decayed and undecayed ones, as the papers' trainer did.

    Matrices and embeddings decay. Biases, weights of norms, factors of single channels (RWKV's mixes, which have three
    dimensions of which one counts) and the times of state-space models do not, unless `decay_all`.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, p in module.named_parameters(recurse=False):
            if not p.requires_grad or id(p) in seen:
                continue
            seen.add(id(p))
            is_vector = p.ndim < 2 or (p.ndim > 2 and p.numel() == p.shape[-1])
            kept = is_norm or is_vector or name in STATE_SPACE
            (decayed if decay_all or not kept else rest).append(p)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def adamw(model: nn.Module, optim: recipe.Optim) -> torch.optim.AdamW:
    """Make AdamW."""
    groups = parameter_groups(model, optim.weight_decay)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def muon(model: nn.Module, optim: recipe.Optim) -> Muon:
    """Make Muon, with AdamW for what is no matrix inside a layer; a group's `rate` is a share of the schedule's."""
    matrices = hidden_matrices(model)
    groups: list[dict[str, Any]] = []
    for group in parameter_groups(model, optim.weight_decay):
        others = [parameter for parameter in group["params"] if parameter not in matrices]
        groups.append(group | {"params": others, "rate": (optim.muon.other_lr or optim.lr) / optim.lr})
    for heads in sorted({count if optim.muon.heads else 1 for count in matrices.values()}):
        own = [parameter for parameter, count in matrices.items() if heads == (count if optim.muon.heads else 1)]
        groups.append({"params": own, "weight_decay": optim.weight_decay, "heads": heads})
    return Muon([group for group in groups if group["params"]], optim)


OPTIMIZERS: dict[str, Callable[[nn.Module, recipe.Optim], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "muon": muon,
}
"""By `optim.kind`. An optimizer leaves weights alone where its `found_inf` is set; the loop sets rates by `lr_at`."""

SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda done, falling: 1.0,
    "linear": lambda done, falling: 1 - done,
    "cosine": lambda done, falling: 0.5 * (1 + math.cos(math.pi * done)),
    "wsd": lambda done, falling: min(1.0, (1 - done) / falling),
}
"""By `optim.schedule`, from the share of the steps after the warm-up that are done, and the share in which the rate is
to fall, to a height from 1 (the peak) to 0 (`final_lr`)."""


def lr_at(optim: recipe.Optim, step: int, total: int) -> float:
    """Return the learning rate of a step; see `learning_rate`."""
    return learning_rate(step, total, optim.lr, optim.warmup_steps, optim.schedule, optim.final_lr, optim.decay_share)


def learning_rate(
    step: int, total: int, peak: float, warmup_steps: int, schedule: str, final_lr: float, decay_share: float = 0.0
) -> float:
    """Return the learning rate of a step, counted from 0, in a run of `total` steps.

    The warm-up's first step has 1/warmup of the peak (Hugging Face's has 0, which wastes it). The last step of a
    decaying schedule comes close to `final_lr` (a share of the peak), the step after it would reach it.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    left = max(1, total - warmup_steps)
    height = SCHEDULES[schedule](min(1.0, (step - warmup_steps) / left), decay_share * total / left)
    return peak * (final_lr + (1 - final_lr) * height)
