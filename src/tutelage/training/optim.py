"""The optimizer, its parameter groups and its learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from tutelage import recipe


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, object]]:
    """Split parameters into decayed and undecayed ones, as the papers' trainer did.

    Matrices and embeddings decay; biases and the weights of norms, which have one dimension, do not, unless
    `decay_all`.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in trained if decay_all or p.ndim >= 2]
    rest = [p for _, p in trained if not decay_all and p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def adamw(model: nn.Module, optim: recipe.Optim) -> torch.optim.AdamW:
    """Make the optimizer; its learning rate is set at every step by `lr_at`."""
    return torch.optim.AdamW(
        parameter_groups(model, optim.weight_decay),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        fused=True,
    )


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
    done = min(1.0, (step - warmup_steps) / left)
    match schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = final_lr + (1 - final_lr) * (1 - done)
        case "cosine":
            share = final_lr + (1 - final_lr) * 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            falling = decay_share * total / left
            share = final_lr + (1 - final_lr) * min(1.0, (1 - done) / falling)
        case _:
            raise ValueError(f"no schedule of learning rates is called '{schedule}'")
    return peak * share
