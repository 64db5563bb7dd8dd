"""Float32 products of matrices on a CPU, by the faster of two libraries.

Torch multiplies float32 matrices by MKL, which chooses its code by the processor's maker and gives others than Intel's
a slower one: on an AMD EPYC with AVX-512 oneDNN, which torch itself uses for bf16, is about twice as fast
(`benchmarks/products.md`). No public name of torch leads there, so what is called is an operator of its compiler;
a torch without it multiplies as it likes. Everything else (bf16, GPUs) goes the usual way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tutelage.base.machine import cpu_info


@cache
def prefers_onednn() -> bool:
    """Tell whether float32 products go to oneDNN here: by the maker of the processor, as MKL does it.

    A rule rather than a measurement, since a run that goes on must multiply as it began.
    """
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    return bool(known) and cpu_info("vendor_id") == "AuthenticAMD"


def product(a_MK: Tensor, b_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return `a @ b.T + bias`, without a gradient where oneDNN is taken; `a` may have more dimensions in front."""
    if _goes_to_onednn(a_MK, b_NK):
        found: Tensor = _onednn(a_MK, b_NK, bias_N)
        return found
    return F.linear(a_MK, b_NK, bias_N)


def _goes_to_onednn(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype == torch.float32 and a.device.type == "cpu" and prefers_onednn()


# An operator of our own hides the other one from torch's compiler, which takes it for inference with packed weights.
@torch.library.custom_op("tutelage::product", mutates_args=())
def _onednn(a_MK: Tensor, b_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(a_MK), _dense(b_NK), bias_N, "none", [], "")
    return found


def _dense(matrix: Tensor) -> Tensor:
    """Copy what has gaps between its rows, such as a slice of columns: for these oneDNN has no fast code at all."""
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()


@_onednn.register_fake
def _(a_MK: Tensor, b_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    return a_MK.new_empty((*a_MK.shape[:-1], b_NK.shape[0]))


def linear(inputs: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, differentiable, by the faster library."""
    if inputs.device.type != "cpu" or inputs.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return F.linear(inputs, weight_NK, bias_N)
    found: Tensor = _Linear.apply(inputs, weight_NK, bias_N)  # type: ignore[no-untyped-call]
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight_NK)
        found: Tensor = _onednn(inputs, weight_NK, bias_N)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight_NK = ctx.saved_tensors
        (grad,) = grads
        flat_MN, flat_MK = grad.flatten(0, -2), inputs.flatten(0, -2)
        wants = ctx.needs_input_grad
        return (
            _onednn(grad, weight_NK.t(), None) if wants[0] else None,
            _wide(flat_MN, flat_MK) if wants[1] else None,
            flat_MN.sum(0) if wants[2] else None,
        )


def weight_gradient(grad_MN: Tensor, inputs_MK: Tensor) -> Tensor:
    """Return `grad.T @ inputs`, the gradient of a weight `(N, K)`, without a gradient where oneDNN is taken."""
    return _wide(grad_MN, inputs_MK) if _goes_to_onednn(grad_MN, inputs_MK) else grad_MN.t() @ inputs_MK


def _wide(grad_MN: Tensor, inputs_MK: Tensor) -> Tensor:
    # oneDNN is up to twice as fast where the result is wider than high.
    high = grad_MN.shape[1] > inputs_MK.shape[1]
    found: Tensor = _onednn(inputs_MK.t(), grad_MN.t(), None).t() if high else _onednn(grad_MN.t(), inputs_MK.t(), None)
    return found


class FastLinear(nn.Linear):
    """A linear layer that multiplies by the faster library."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class FastConv1D(Conv1D):  # type: ignore[misc]
    """The same for the layers of GPT-2, whose weights stand the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.t(), self.bias)


def use_onednn_linear(model: nn.Module) -> None:
    """Let a model's linear layers multiply by the faster library; names, weights and results stay."""
    if not prefers_onednn():
        return
    # By class, so that a copied layer keeps its own weights.
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
        elif type(module) is Conv1D:
            module.__class__ = FastConv1D
