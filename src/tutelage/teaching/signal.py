"""The teachers' distributions for a batch, as a value.

A dense signal keeps each teacher's last hidden states and its output layer, from which the exact distribution follows
at any temperature and weighting.

Shapes: N positions (rows and tokens flattened), D width (each teacher its own), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import Batch
from tutelage.models.logits import CACHE, parts, quick_log, softmax
from tutelage.models.products import product

Combine = Literal["mean_logits", "mean_probabilities"]
Heads = tuple[tuple[Tensor, Tensor | None], ...]
"""Weight `(V, D)` and bias `(V,)` or None of output layers."""


@dataclass(frozen=True)
class DenseSignal:
    """Hidden states and output layers of one or more teachers."""

    hidden: tuple[Tensor, ...]
    """Of each teacher, `(..., D)`."""
    heads: tuple[tuple[Tensor | None, Tensor | None], ...]
    """Weight and bias of each output layer; no weight where hidden states are logits already."""
    weights: tuple[float, ...]
    """Share of each teacher; they sum to 1."""
    combine: Combine = "mean_logits"
    """`mean_logits` (a geometric mean of the distributions, as BabyLlama published) or `mean_probabilities` (an
    arithmetic mean)."""

    @property
    def vocab_size(self) -> int:
        """How many tokens the distributions are over."""
        weight = self.heads[0][0]
        return self.hidden[0].shape[-1] if weight is None else len(weight)

    def at(self, index: Tensor | slice) -> DenseSignal:
        """Return the signal at some positions: `index` selects from the flattened rows and tokens."""
        return replace(self, hidden=tuple(h.reshape(-1, h.shape[-1])[index] for h in self.hidden))

    def cast(self, dtype: torch.dtype) -> DenseSignal:
        """Return the signal with hidden states and heads in another type, so that no chunk casts them again."""
        heads = tuple(
            (None if weight is None else weight.to(dtype), None if bias is None else bias.to(dtype))
            for weight, bias in self.heads
        )
        return replace(self, hidden=tuple(h.to(dtype) for h in self.hidden), heads=heads)

    def products(self) -> tuple[Tensor, ...]:
        """Return each teacher's logits, `(..., V)`, in the type of its hidden states; with `.at` block by block."""
        return tuple(
            h if w is None else product(h, w.to(h.dtype), None if b is None else b.to(h.dtype))
            for h, (w, b) in zip(self.hidden, self.heads, strict=True)
        )

    def mixed(self, products: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
        """Combine logits of some positions to log-probabilities up to a constant a position, float32, `(..., V)`.

        Every teacher's logits are divided by the temperature before they are combined. `products` may be overwritten,
        and the caller may overwrite what is returned.
        """
        if self.combine == "mean_logits":
            first, *others = (share / temperature for share in self.weights)
            mean = products[0].float() if first == 1 else products[0].float().mul_(first)
            for logits, factor in zip(products[1:], others, strict=True):
                mean.add_(logits, alpha=factor)
            # A bias of minus infinity excludes a token; a very small probability does as well, and 0 * inf is avoided.
            return mean if all(bias is None for _, bias in self.heads) else mean.clamp_min_(-1e4)
        mixed = [
            F.log_softmax(logits.float() / temperature, -1).add_(torch.tensor(share).log())
            for logits, share in zip(products, self.weights, strict=True)
        ]
        return (mixed[0] if len(mixed) == 1 else torch.logsumexp(torch.stack(mixed), 0)).clamp_min_(-1e4)

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
        for part in parts(targets.shape[0], chunk):
            out[part] = self.at(part).log_probs().gather(-1, targets[part, None]).squeeze(-1)
        return out

    def tiles(self, temperature: float) -> Iterator[tuple[slice, Tensor]]:
        """Yield the mixed logits of some positions at a time, `(n, V)` in float32, which may be overwritten."""
        device = self.hidden[0].device.type
        for block in parts(len(self.hidden[0]), CACHE.block_rows(device, self.vocab_size)):
            logits = self.at(block).logits(temperature)
            for inner in parts(len(logits), CACHE.tile_rows(device, self.vocab_size)):
                yield slice(block.start + inner.start, block.start + inner.stop), logits[inner]

    def entropies(self, temperature: float) -> Tensor:
        """Return the entropy at each position, `(N,)` float32; of a flat signal, see `at`."""
        entropy_N = torch.empty(len(self.hidden[0]), device=self.hidden[0].device)
        for part, logits in self.tiles(temperature):
            p, total = softmax(logits)
            entropy_N[part] = total - p.mul_(logits).sum(-1)
        return entropy_N

    def block(self, part: slice, temperature: float) -> Callable[[slice], DenseTile]:
        """Compute the products of a block of positions; return what cuts tiles out of it."""
        products = self.at(part).products()
        return lambda inner: DenseTile(self.mixed([logits[inner] for logits in products], temperature))


@dataclass(frozen=True)
class SparseSignal:
    """A few tokens and their shares instead of a whole distribution, all float32 but for the ids."""

    ids_NK: Tensor
    """Tokens, int64; a token may stand there more than once."""
    shares_NK: Tensor
    """Their probabilities at `temperature`; a position's sum is 1 for unbiased draws."""
    entropy_N: Tensor
    """Of the teachers' whole distribution at `temperature`, in nats."""
    gold_N: Tensor
    """Log-probability the teachers gave to the target; 0 where there is none."""
    temperature: float
    """At which the teachers were asked."""

    def at(self, index: Tensor | slice) -> SparseSignal:
        """Return the signal at some positions, as `DenseSignal.at` does."""
        return SparseSignal(
            self.ids_NK[index], self.shares_NK[index], self.entropy_N[index], self.gold_N[index], self.temperature
        )

    def cast(self, dtype: torch.dtype) -> SparseSignal:
        """Return the signal as it is: there are no products to be computed in another type."""
        return self

    def entropies(self, temperature: float) -> Tensor:
        """Return the entropy at each position, `(N,)` float32; it was measured when the tokens were drawn."""
        return self.entropy_N

    def block(self, part: slice, temperature: float) -> Callable[[slice], SparseTile]:
        """Return what cuts tiles out of a block of positions; refuse another temperature than the signal's."""
        if self.temperature != temperature:
            raise ValueError(f"the teachers were asked at temperature {self.temperature}, the loss has {temperature}")
        there = self.at(part)
        return lambda inner: SparseTile(there.at(inner))


Signal = DenseSignal | SparseSignal
"""A kind of signal is a class with `at`, `cast`, `entropies` and `block`, whose tiles are as `TeacherTile` says."""


class TeacherTile(Protocol):
    """The teachers' distribution q over the vocabulary at n positions, as a loss needs it."""

    def entropy(self) -> Tensor:
        """Return its entropy, `(n,)` nats."""

    def loss(self, gold_n: Tensor) -> Tensor:
        """Return -log q of one token a position, `(n,)`; `gold_n` holds no ignored ids."""

    def divergence(self, logits_nV: Tensor, total_n: Tensor) -> Tensor:
        """Return KL(q || p), `(n,)`, for p of these logits and their log-sum-exp; the last call before `pull`."""

    def pull(self, p_nV: Tensor, beta_n1: Tensor) -> None:
        """Subtract `beta * q` in place: with p, the gradient of the divergence."""


class DenseTile:
    """A `TeacherTile` of a dense signal; its logits are overwritten by `divergence`."""

    def __init__(self, logits_nV: Tensor) -> None:
        self._logits = logits_nV
        self._q, self._total = softmax(logits_nV, log=quick_log)

    def entropy(self) -> Tensor:
        entropy: Tensor = self._total - torch.linalg.vecdot(self._q, self._logits)
        return entropy

    def loss(self, gold_n: Tensor) -> Tensor:
        return self._total - self._logits.gather(1, gold_n[:, None]).squeeze(1)

    def divergence(self, logits_nV: Tensor, total_n: Tensor) -> Tensor:
        return self._logits.sub_(logits_nV).mul_(self._q).sum(-1) - self._total + total_n

    def pull(self, p_nV: Tensor, beta_n1: Tensor) -> None:
        p_nV.addcmul_(self._q, beta_n1, value=-1)


class SparseTile:
    """A `TeacherTile` of a sparse signal; `loss` is known of the targets alone."""

    def __init__(self, signal: SparseSignal) -> None:
        self._signal = signal

    def entropy(self) -> Tensor:
        return self._signal.entropy_N

    def loss(self, gold_n: Tensor) -> Tensor:
        lost: Tensor = -self._signal.gold_N
        return lost

    def divergence(self, logits_nV: Tensor, total_n: Tensor) -> Tensor:
        there = self._signal
        lost_nK = there.shares_NK * (total_n[:, None] - logits_nV.gather(1, there.ids_NK))
        return lost_nK.sum(-1) - there.entropy_N

    def pull(self, p_nV: Tensor, beta_n1: Tensor) -> None:
        p_nV.scatter_add_(1, self._signal.ids_NK, -beta_n1 * self._signal.shares_NK)


def narrow_heads(heads: Heads, shares: Sequence[float], combine: Combine) -> Heads:
    """Round output layers to bf16, for a mean of logits joined into one.

    The mean of logits is one linear map: the heads side by side, each times its share.
    """
    if combine == "mean_logits":
        scaled = [(w * share, None if b is None else b * share) for (w, b), share in zip(heads, shares, strict=True)]
        biases = [bias for _, bias in scaled if bias is not None]
        heads = ((torch.cat([weight for weight, _ in scaled], 1), torch.stack(biases).sum(0) if biases else None),)
    return tuple((weight.bfloat16(), None if bias is None else bias.bfloat16()) for weight, bias in heads)


class TeacherSource(Protocol):
    """Where a signal comes from: live models, or a cache of their outputs."""

    def signal(self, batch: Batch, precision: str) -> Signal:
        """Return the teachers' distributions at every position of a batch, on the batch's device."""

    def to(self, device: torch.device) -> object:
        """Compute on a device from now on."""
