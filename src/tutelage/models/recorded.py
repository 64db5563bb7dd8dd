"""A small model's trunk as CUDA graphs: its forward and its backward pass, each launched as a whole.

A step of a small model is over a thousand kernels of a few microseconds each, which the host cannot launch as fast as
a GPU runs them. Recorded once and replayed, they are two launches. A replay reads and writes the same memory every
time: tokens are copied in, parameters must stay where they are, and hidden states, saved activations and gradients
stand where they stood in the recording. Hence the rules:

- One shape, that of the first batch; other batches run as usual, as does everything outside training.
- One micro-batch a step. Autograd takes the recorded gradients as they are for the parameters' own, without a copy, so
  that a second replay would overwrite what the first had found before the two are added.
- No host may wait inside, so causal models need attention without masks (`attention`).

Random numbers (dropout) are drawn as usual: each replay takes the generator's present seed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tutelage.base.errors import UserError

Read = Callable[[Tensor], Tensor]
"""Tokens `(B, T)` in, hidden states `(B, T, D)` out."""


class _Trunk(nn.Module):
    """What is recorded, with the parameters that get gradients; never a part of the model that it belongs to."""

    def __init__(self, read: Read, owner: nn.Module) -> None:
        super().__init__()
        self.owner = owner
        self.read = read

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.read(tokens_BT)


class Recorded:
    """Records a trunk's forward pass, `read`, at its first batch and replays it from then on.

    No module, so that names and weights of the model it is an attribute of stay as they are. The module `owner` has
    all parameters that `read` uses, and is in training mode when it is called.
    """

    def __init__(self, read: Read, owner: nn.Module) -> None:
        self._read = read
        self._trunk = _Trunk(read, owner)
        self._shape: torch.Size | None = None

    def __call__(self, tokens_BT: Tensor) -> Tensor:
        """Return the hidden states of a batch, `(B, T, D)`; valid until the next call."""
        if self._shape is None:
            try:
                self._record(tokens_BT)
            except RuntimeError as error:  # CUDA's and autograd's errors alike
                reason = str(error).strip().splitlines()[0][:200]
                raise UserError(
                    f"this model cannot be recorded as CUDA graphs ({reason}); set models.*.cuda_graphs=off"
                ) from error
        if tokens_BT.shape != self._shape:
            return self._read(tokens_BT)
        found: Tensor = self._trunk(tokens_BT)
        return found

    def _record(self, tokens_BT: Tensor) -> None:
        device = tokens_BT.device
        # Weights that autocast had cast and kept outside the recording would not follow the optimizer.
        type_, on = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        uncached = torch.autocast(device.type, type_, enabled=on, cache_enabled=False)
        # Warming up draws random numbers, which the step that it happens in must not miss: it may be any step of a run.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), uncached:
            # An output layer of its own is a parameter that the trunk does not use.
            torch.cuda.make_graphed_callables(self._trunk, (tokens_BT.clone(),), allow_unused_input=True)
        self._shape = tokens_BT.shape
