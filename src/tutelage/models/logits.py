"""Logits by blocks: how many may exist at once, and the softmax over them.

The output layer is the widest product of a small model, so logits over the whole vocabulary exist for some positions at
a time, wherever they are computed. There are two sizes: matrix products are fast on many rows (a block), the softmax
and what follows from it on few rows that stay in the processor's cache (a tile).

Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Budget:
    """Bytes that logits may take, by kind of device."""

    block: Mapping[str, int]
    """Of one product, in their own type."""
    tile: Mapping[str, int]
    """One float32 buffer of what follows."""

    def block_rows(self, device: str, vocab_size: int, itemsize: int = 4) -> int:
        """Return how many positions a block has, at least 16; other devices are taken for GPUs."""
        return max(16, self.block[device if device in self.block else "cuda"] // (itemsize * vocab_size))

    def tile_rows(self, device: str, vocab_size: int) -> int:
        """Return how many positions a tile has, at least 16."""
        return max(16, self.tile[device] // (4 * vocab_size))


LOSS = Budget({"cpu": 32 << 20, "cuda": 512 << 20}, {"cpu": 2 << 20, "cuda": 512 << 20})
"""Of losses in training and of scores. A loss has two buffers of a tile, with a dense teacher four."""
CACHE = Budget(dict.fromkeys(("cpu", "cuda"), 64 << 20), dict.fromkeys(("cpu", "cuda"), 8 << 20))
"""Of what caches keep; a change of the block may change their last bits."""
LIKELIHOOD = Budget(*2 * ({"cpu": 8 << 20, "cuda": 64 << 20},))
"""Of evaluations, which need no gradient: on a CPU, blocks too stay in its caches."""


def parts(size: int, most: int) -> Iterator[slice]:
    """Cut `size` into parts of `most`, the last one smaller."""
    for start in range(0, size, most):
        yield slice(start, min(start + most, size))


def equal_parts(size: int, most: int) -> Iterator[slice]:
    """Cut `size` into parts of at most `most`, all of about the same size."""
    count = -(-size // most)
    for index in range(count):
        yield slice(size * index // count, size * (index + 1) // count)


def softmax(
    logits_NV: Tensor, highest_N: Tensor | None = None, log: Callable[[Tensor], Tensor] = torch.log
) -> tuple[Tensor, Tensor]:
    """Return probabilities and each row's log-sum-exp, `(N, V)` and `(N,)`.

    The latter without another pass of exponentials: the likeliest token has p = exp(z - logsumexp), and is so likely
    (1/V at least) that its logarithm is exact. `highest_N` are the largest logits, where they are known.
    """
    p_NV = F.softmax(logits_NV, -1)
    return p_NV, (logits_NV.amax(-1) if highest_N is None else highest_N) - log(p_NV.amax(-1))


def quick_log(x: Tensor) -> Tensor:
    """Return the logarithm of a few numbers; torch's own calls MKL for it, which takes 60 µs to begin, once a tile.

    The two differ in the last bit of some numbers.
    """
    return torch.xlogy(1.0, x)
