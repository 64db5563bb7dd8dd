"""Muon: momentum made orthogonal, for the matrices inside a model's layers; AdamW for all its other weights.

Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), for the Newton-Schulz steps;
Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982, section 2.2), for the scale with which AdamW's
learning rate and weight decay serve; Li et al., "NorMuon" (arXiv 2510.05491, algorithm 1), for the normalised rows;
Chen et al., "Cautious weight decay" (arXiv 2510.12402).

Shapes: N matrices of R rows and C columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.models.language_model import LanguageModel
from tutelage.training.sharding import part_of, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial that drives singular values towards 1 (Jordan et al.)."""
TINY = 1e-7
ADAMW_RMS = 0.2
"""Root mean square of AdamW's updates in large models, which Muon's are given (Liu et al.)."""


def orthogonal(matrices_NRC: Tensor, steps: int) -> Tensor:
    """Bring all singular values near 1 (0.7 to 1.2 after five steps) and keep the singular vectors; any float type."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices_NRC.size(1) > matrices_NRC.size(2)
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(TINY)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def hidden_matrices(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the matrices that multiply hidden states inside the layers, and into how many heads each is split.

    These are the weights of linear modules, and tensors of three dimensions, which hold the matrices of experts.
    Heads are those of queries, keys and values where each has a matrix of its own, else 1.

    Raises:
        UserError: a model without a list of layers.
    """
    found: dict[nn.Parameter, int] = {}
    for part in (part for part in model.modules() if isinstance(part, LanguageModel)):
        if not part.layers:
            name = type(part.hf).__name__
            raise UserError(f"optim.kind=muon needs a model with a list of layers, and {name} has none; take adamw")
        config = part.hf.config
        queries = int(getattr(config, "num_attention_heads", 1) or 1)
        keys = int(getattr(config, "num_key_value_heads", queries) or queries)
        heads = {"q_proj": queries, "query": queries} | dict.fromkeys(("k_proj", "v_proj", "key", "value"), keys)
        for layer in part.layers:
            for path, module in layer.named_modules():
                for name, parameter in module.named_parameters(recurse=False):
                    linear = name == "weight" and isinstance(module, nn.Linear | Conv1D)
                    if parameter.requires_grad and (linear or parameter.ndim == 3):
                        count = heads.get(path.rsplit(".", 1)[-1], 1)
                        found[parameter] = count if parameter.ndim == 2 and not parameter.size(0) % count else 1
    return found


class Muon(torch.optim.AdamW):
    """Both in one optimizer, so that checkpoints, learning rates and the guard against broken gradients are AdamW's.

    Groups that have `heads` are Muon's; matrices are cut by rows into so many blocks. State of a matrix: `momentum`,
    and where rows are normalised `squares`, the running mean square of each.
    """

    def __init__(self, groups: list[dict[str, Any]], optim: recipe.Optim) -> None:
        super().__init__(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
        self._settings = optim.muon

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step; none at all where the loop has set `found_inf`, which is not read from the device."""
        everything = self.param_groups
        for group in everything:
            if "heads" in group:
                shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        shapes[parameter.shape].append(parameter)
                for same in shapes.values():
                    self._move(same, group)
        self.param_groups = [group for group in everything if "heads" not in group]
        try:
            return super().step(closure)
        finally:
            self.param_groups = everything

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move parameters of one shape; their matrices go through the products together."""
        settings, heads = self._settings, group["heads"]
        broken = getattr(self, "found_inf", None)
        fine = 1.0 - broken if broken is not None else torch.ones((), device=parameters[0].device)
        stacked = torch.stack([whole(self._direction(parameter, fine)) for parameter in parameters])
        rows, columns = stacked.shape[-2] // heads, stacked.shape[-1]
        blocks_NRC = stacked.reshape(-1, rows, columns)
        moves_NRC = orthogonal(blocks_NRC.to(getattr(torch, settings.dtype)), settings.steps).float()
        if settings.normalise:
            moves_NRC = self._normalised(moves_NRC, parameters, fine, group["betas"][1])
        elif settings.scale == "rms":
            moves_NRC = moves_NRC * (ADAMW_RMS * math.sqrt(max(rows, columns)))
        else:
            moves_NRC = moves_NRC * math.sqrt(max(1.0, rows / columns))
        lr, decay = fine * group["lr"], fine * (group["lr"] * group["weight_decay"])
        for parameter, moved in zip(parameters, moves_NRC.reshape(stacked.shape), strict=True):
            move = part_of(moved, parameter)
            # Cautious decay spares the weights that the step itself makes smaller or that it pushes through zero.
            shrunk = decay * (move * parameter > 0) if settings.cautious else decay
            parameter.sub_(parameter * shrunk).sub_(move * lr)

    def _direction(self, parameter: Tensor, fine: Tensor) -> Tensor:
        """Add the gradient to the momentum, and return Nesterov's mean of the two, shared out as the parameter is."""
        state, beta = self.state[parameter], self._settings.momentum
        if "momentum" not in state:
            # AdamW wants to know how often each parameter moved when it loads a state.
            state |= {"momentum": torch.zeros_like(parameter), "step": torch.zeros_like(fine)}
        momentum, gradient = state["momentum"], parameter.grad
        assert gradient is not None
        gradient = torch.where(fine > 0, gradient, momentum)
        momentum.lerp_(gradient, 1 - beta)
        state["step"] += fine
        return gradient.lerp(momentum, beta)

    def _normalised(self, moves_NRC: Tensor, parameters: list[Tensor], fine: Tensor, beta: float) -> Tensor:
        """Divide each row by its running size, and give each block AdamW's root mean square."""
        squares_NR = moves_NRC.square().mean(-1)
        for parameter, fresh in zip(parameters, squares_NR.reshape(len(parameters), -1), strict=True):
            state = self.state[parameter]
            kept = state.setdefault("squares", torch.zeros_like(fresh))
            kept.lerp_(torch.where(fine > 0, fresh, kept), 1 - beta)
        kept_NR = torch.stack([self.state[parameter]["squares"] for parameter in parameters]).reshape(squares_NR.shape)
        moves_NRC = moves_NRC / (kept_NR.sqrt() + self.defaults["eps"])[..., None]
        norms_N11 = moves_NRC.norm(dim=(1, 2), keepdim=True).clamp_min(TINY)
        sized: Tensor = moves_NRC * (ADAMW_RMS * math.sqrt(moves_NRC[0].numel()) / norms_N11)
        return sized
