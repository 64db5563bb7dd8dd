"""Matrix products of frozen models under autocast, faster than by default, with the same numbers.

By default every batch casts every frozen weight again: torch keeps casts only of weights that learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tutelage.models.products import product


class FrozenProducts(TorchFunctionMode):
    """While it is entered, linear layers with the given weights go the faster way; all else is as it was.

    For inference only: results carry no gradient, and the weights must not change meanwhile.

    Args:
        parameters: weights and biases of the models that will run.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._frozen = {parameter.data_ptr(): parameter for parameter in parameters}
        self._casts: dict[tuple[int, torch.Size], Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Redirect `linear`, and `addmm` as GPT-2's layers call it."""
        if func is F.linear and not kwargs:
            return self._product(args[0], args[1], args[2] if len(args) > 2 else None)
        if func is torch.addmm and not kwargs and args[2].data_ptr() in self._frozen:
            return self._product(args[1], args[2].t(), args[0])
        return func(*args, **(kwargs or {}))

    def _product(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        device = inputs.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            cast_bias = None if bias is None else self._cast(bias, dtype)
            return F.linear(inputs.to(dtype), self._cast(weight, dtype), cast_bias)
        return product(inputs, weight, bias)

    def _cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Cast a model's own tensor once and any other each time."""
        if tensor.data_ptr() not in self._frozen:
            return tensor.to(dtype)
        key = (tensor.data_ptr(), tensor.shape)
        if key not in self._casts:
            self._casts[key] = tensor.to(dtype)
        return self._casts[key]
