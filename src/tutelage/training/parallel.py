"""One process, or several under `torchrun`: the same loop, the same results.

A step's whole batch is known to every process, which takes every `size`-th row of it; counts need no communication.
Every process holds the whole model (DDP), or a part of it (`sharding`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from tutelage.corpus.batches import Batch
from tutelage.models.language_model import LanguageModel
from tutelage.training.sharding import is_sharded, shard, whole


@dataclass(frozen=True)
class Group:
    """The processes that train together: this one's number, how many there are, where this one computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return of each flag whether some process has raised it."""
        if self.size == 1:
            return flags
        return tuple((self.sum(torch.tensor(flags, dtype=torch.float32, device=self.device)) > 0).tolist())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def from_main(self, value: Any) -> Any:
        """Return the main process's value in every process; small JSON-like values only."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def place(self, module: nn.Module, sharding: str, precision: str) -> None:
        """Bring a student or its teachers from host memory to this process's device.

        With `sharding` `fsdp`, the models in it are shared out, unless there is one process only. Parameters become
        others then: make the optimizer afterwards.
        """
        models = [part for part in module.modules() if isinstance(part, LanguageModel)]
        if self.size > 1 and sharding == "fsdp":
            # On a CPU, layer norms refuse bf16 weights.
            sent_as = torch.bfloat16 if precision == "bf16" and self.device.type == "cuda" else None
            for model in models:
                shard(model, self.device, self.size, sent_as)
            return
        module.to(self.device)
        if self.size == 1 and self.device.type == "cpu":
            for model in models:
                model.sparse_embedding_grad()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make a module whose gradients are averaged over the processes; one that was shared out does so by itself."""
        if self.size == 1 or is_sharded(module):
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def micro_batches(self, batch: Batch, rows: int) -> list[Batch]:
        """Cut this process's rows of a batch into micro-batches, as many as the process with the most rows has.

        A process without rows would miss the exchange of weights or gradients and leave the others waiting for ever;
        where rows run out, a row without any loss takes their place.
        """
        mine = list(batch.part(slice(self.rank, None, self.size)).split(rows))
        spare = batch.part(slice(0, 1)).silenced()
        most = -(-len(batch.rows_B) // self.size)
        return mine + [spare] * (-(-most // rows) - len(mine))


def synchronised(wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Exchange gradients between processes only with the last micro-batch of a step."""
    if last or not isinstance(wrapped, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return wrapped.no_sync()


def clip_gradient(module: nn.Module, limit: float) -> Tensor:
    """Scale the gradient down to a norm of `limit` at most; return the norm it had, over all processes."""
    return whole(clip_grad_norm_(module.parameters(), limit))


@contextmanager
def process_group() -> Iterator[Group]:
    """Join the group that `torchrun` started, if any, and leave it at the end."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1 or dist.is_initialized():
        yield Group(rank, size, device)
        return
    # Evaluations run on one process while the others wait, which may take long.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
    try:
        yield Group(rank, size, device)
    finally:
        dist.destroy_process_group()
