"""The teachers' distributions for a batch, as a value.

A dense signal keeps each teacher's last hidden states and its output layer, from which the exact distribution follows
at any temperature and weighting. The (weighted) mean of logits is one linear map of all hidden states together; the
mean of probabilities takes a softmax for each teacher.

Shapes: N positions (rows and tokens flattened), D width (each teacher its own), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import Batch
from tutelage.models.products import product

Combine = Literal["mean_logits", "mean_probabilities"]
Heads = tuple[tuple[Tensor, Tensor | None], ...]
"""Weight `(V, D)` and bias `(V,)` or None of output layers."""


@dataclass(frozen=True)
class DenseSignal:
    """Hidden states and output layers of one or more teachers.

    Attributes:
        hidden: each teacher's hidden states, `(..., D)`.
        heads: each teacher's output weight `(V, D)` and bias `(V,)` or None.
        weights: share of each teacher; they sum to 1.
        combine: `mean_logits` (a geometric mean of the distributions, as BabyLlama published) or
            `mean_probabilities` (an arithmetic mean).
    """

    hidden: tuple[Tensor, ...]
    heads: Heads
    weights: tuple[float, ...]
    combine: Combine = "mean_logits"

    def at(self, index: Tensor | slice) -> DenseSignal:
        """Return the signal at some positions: `index` selects from the flattened rows and tokens."""
        picked = tuple(h.reshape(-1, h.shape[-1])[index] for h in self.hidden)
        return DenseSignal(picked, self.heads, self.weights, self.combine)

    def to(self, dtype: torch.dtype) -> DenseSignal:
        """Return the signal with hidden states and heads in another type, so that no chunk casts them again."""
        heads = tuple((weight.to(dtype), None if bias is None else bias.to(dtype)) for weight, bias in self.heads)
        return DenseSignal(tuple(h.to(dtype) for h in self.hidden), heads, self.weights, self.combine)

    def products(self) -> tuple[Tensor, ...]:
        """Return each teacher's logits, `(..., V)`, in the type of its hidden states; with `.at` block by block."""
        return tuple(
            product(h, w.to(h.dtype), None if b is None else b.to(h.dtype))
            for h, (w, b) in zip(self.hidden, self.heads, strict=True)
        )

    def mixed(self, products: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
        """Combine logits of some positions to log-probabilities up to a constant a position, float32, `(..., V)`.

        Every teacher's logits are divided by the temperature before they are combined. `products` may be overwritten,
        and the caller may overwrite what is returned.
        """
        if self.combine == "mean_logits":
            mean: Tensor | None = None
            for logits, share in zip(products, self.weights, strict=True):
                factor = share / temperature
                if mean is None:
                    mean = logits.float() if factor == 1 else logits.float().mul_(factor)
                else:
                    mean.add_(logits, alpha=factor)
            assert mean is not None
            # A bias of minus infinity excludes a token; a very small probability does as well, and 0 * inf is avoided.
            return mean if all(bias is None for _, bias in self.heads) else mean.clamp_min_(-1e4)
        parts = [
            F.log_softmax(logits.float() / temperature, -1).add_(torch.tensor(share).log())
            for logits, share in zip(products, self.weights, strict=True)
        ]
        return (parts[0] if len(parts) == 1 else torch.logsumexp(torch.stack(parts), 0)).clamp_min_(-1e4)

    def logits(self, temperature: float = 1.0) -> Tensor:
        """Return `mixed` of `products`; with `.at` block by block."""
        return self.mixed(self.products(), temperature)

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """Return log-probabilities over the vocabulary, float32, `(..., V)`; with `.at` block by block."""
        return F.log_softmax(self.logits(temperature), -1)

    def target_log_probs(self, targets: Tensor, chunk: int = 2048) -> Tensor:
        """Return the log-probability of one target a position, `(N,)` float32; `targets` `(N,)` holds no ignored ids.

        The vocabulary's logits exist for `chunk` positions at a time.
        """
        out = torch.empty(targets.shape[0], dtype=torch.float32, device=targets.device)
        for start in range(0, targets.shape[0], chunk):
            part = slice(start, start + chunk)
            out[part] = self.at(part).log_probs().gather(-1, targets[part, None]).squeeze(-1)
        return out


@dataclass(frozen=True)
class SparseSignal:
    """A few tokens and their shares instead of a whole distribution.

    Attributes:
        ids_NK: tokens, int64; a token may stand there more than once.
        shares_NK: their probabilities, float32, at `temperature`; a position's sum is 1 for unbiased draws.
        entropy_N: of the teachers' whole distribution at `temperature`, float32, in nats.
        gold_N: log-probability the teachers gave to the target, float32; 0 where there is none.
        temperature: at which the teachers were asked.
    """

    ids_NK: Tensor
    shares_NK: Tensor
    entropy_N: Tensor
    gold_N: Tensor
    temperature: float

    def at(self, index: Tensor | slice) -> SparseSignal:
        """Return the signal at some positions, as `DenseSignal.at` does."""
        return SparseSignal(
            self.ids_NK[index], self.shares_NK[index], self.entropy_N[index], self.gold_N[index], self.temperature
        )


Signal = DenseSignal | SparseSignal


class TeacherSource(Protocol):
    """Where a signal comes from: live models, or a cache of their outputs."""

    def signal(self, batch: Batch, precision: str) -> Signal:
        """Return the teachers' distributions at every position of a batch, on the batch's device."""

    def to(self, device: torch.device) -> object:
        """Compute on a device from now on."""
