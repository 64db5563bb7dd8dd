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


def adamw(model: nn.Module, optim: recipe.Optim, decay_all: bool = False) -> torch.optim.AdamW:
    """Make the optimizer; its learning rate is set at every step by `lr_at`."""
    return torch.optim.AdamW(
        parameter_groups(model, optim.weight_decay, decay_all),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        fused=True,
    )


def lr_at(optim: recipe.Optim, step: int, total: int) -> float:
    """Return the learning rate of a step, counted from 0, in a run of `total` steps.

    The warm-up's first step has 1/warmup of the peak (Hugging Face's has 0, which wastes it). The last step of a
    decaying schedule comes close to `final_lr`, the step after it would reach it.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    left = max(1, total - optim.warmup_steps)
    done = min(1.0, (step - optim.warmup_steps) / left)
    floor = optim.final_lr
    match optim.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = floor + (1 - floor) * (1 - done)
        case "cosine":
            share = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            falling = optim.decay_share * total / left
            share = floor + (1 - floor) * min(1.0, (1 - done) / falling)
    return optim.lr * share
