"""A model shared out over processes: each holds a part of every weight, gradient and moment (PyTorch's FSDP2).

The layers of the trunk are units of their own: whole only while they compute, forwards and again backwards. All else
(embeddings, last norm, output layer, tied or not) belongs to the Hugging Face model as the outermost unit, which stays
whole from its forward pass to the end of the backward pass: losses, evaluations and students read the output layer's
weight after `forward`, and so find all of it.

On a GPU, a bf16 run sends layers in bf16, which is what autocast would make of their matrices anyhow. Under autocast
alone, the graph would keep a bf16 copy of every layer until the backward pass, and so the whole model. Layers' inputs
are not cast, so that what runs between layers stays fp32 as in a model that is not sharded, and gradients are added up
in fp32. Weights of norms are rounded too, which is the one difference.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tutelage.base.errors import UserError
from tutelage.models.language_model import LanguageModel


def shard(model: LanguageModel, device: torch.device, size: int, sent_as: torch.dtype | None = None) -> None:
    """Share a model out over `size` processes, in place; only one layer at a time is whole on the device.

    The model comes with all its weights, equal in every process, best in host memory. Layers are put together in the
    type `sent_as`, as they are unless given.
    """
    layers = model.layers
    if not layers:
        name = type(model.hf).__name__
        raise UserError(f"sharding=fsdp needs a model with a list of layers, and {name} has none; set sharding=none")
    # Hugging Face models return a slice of their logits. Nothing here changes hidden states in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (size,))
    policy = MixedPrecisionPolicy(sent_as, torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model.hf, mesh=mesh, reshard_after_forward=False)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether a module holds a model that was shared out."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def reshard(module: nn.Module) -> None:
    """Let go of weights that a forward pass left whole, so that parameters are this process's parts again."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be shared out; if it is, every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor that may be shared out, in the same memory."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def part_of(whole_tensor: Tensor, like: Tensor) -> Tensor:
    """Return what a process holds of a tensor that all have, shared out as another one is."""
    if not isinstance(like, DTensor):
        return whole_tensor
    on_device = whole_tensor.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
