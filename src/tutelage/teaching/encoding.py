"""What a cache keeps of a signal: which numbers for each token, how they are made, and how a signal comes back.

    hidden   the teachers' last hidden states, side by side: the whole distribution follows from them
    sparse   tokens drawn without bias (`systematic`), several sets of them
    top_k    the most likely tokens and their shares

The last two also keep the entropy of the whole distribution and the log-probability of the target.

Top-k is biased: it moves the mass it leaves out to the tokens it keeps, whatever the number of epochs. In arXiv
2503.16870 students of the 12 or 50 most likely tokens were worse than students without a teacher, and their gradients
stood at 58 and 48 degrees to those of full distillation; unbiased draws of the same size, at 4 degrees.

Shapes: N positions, D width of all teachers together, V vocabulary, S sets, K draws or kept tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from tutelage.base.errors import UserError
from tutelage.base.types import Array
from tutelage.corpus.batches import to_device
from tutelage.models.logits import softmax
from tutelage.teaching.signal import Combine, DenseSignal, Heads, Signal, SparseSignal, narrow_heads


@dataclass(frozen=True)
class Field:
    """Numbers kept for each token, `width` of them; `dtype` is numpy's name of their type, little-endian."""

    name: str
    dtype: str
    width: int

    @property
    def bytes(self) -> int:
        """Bytes for a token."""
        return np.dtype(self.dtype).itemsize * self.width


MEASURES = (Field("entropy", "<f2", 1), Field("gold", "<f2", 1))
"""Kept with drawn or likely tokens: entropy and the target's log-probability."""


class Encoding(Protocol):
    """One kind of cache. A new kind is a class like those below, and a line where recipes are read."""

    temperature: float
    """Of the distributions it is about."""
    sets: int
    """How many signals it keeps for a token, of which each epoch reads one."""
    biased: ClassVar[bool] = False
    """Whether its mean over epochs is another distribution than the teachers'."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """What is kept for each token, in the order of the file."""

    @property
    def key(self) -> dict[str, Any]:
        """Everything about the kind that decides what is kept, JSON-like."""

    def encode(self, live: DenseSignal, targets_N: Tensor, uniforms_N: Tensor) -> dict[str, Array]:
        """Return what is kept of a signal at N positions: for each field an array `(N, width)`.

        Of the targets, `IGNORE` stands where there is none; `uniforms_N` are random numbers in [0, 1), float64.
        """

    def names(self, epoch: int) -> tuple[str, ...]:
        """Name the fields that are read in an epoch, in an order that does not depend on it."""

    def decode(self, kept: list[Tensor]) -> Signal:
        """Turn what was read, `(N, width)` for each of `names`, into a signal."""

    def error(self, log_q_NV: Tensor, kept: Sequence[Signal]) -> dict[str, Tensor]:
        """Return sums over positions that tell how far the kept signals, one a set, are from live log-probabilities."""
        q_NV, signals = log_q_NV.exp(), [signal for signal in kept if isinstance(signal, SparseSignal)]
        errors = [torch.zeros_like(q_NV).scatter_add_(1, s.ids_NK, s.shares_NK).sub_(q_NV) for s in signals]
        mean = torch.stack(errors).mean(0)
        return {
            "tokens": torch.tensor(float(len(q_NV))),
            "label": (1 - q_NV.square().sum(1)).sum(dtype=torch.float64),
            "one": torch.stack([error.square().sum(dtype=torch.float64) for error in errors]).mean(),
            "sum_V": mean.sum(0, dtype=torch.float64),
            "squares_V": mean.square().sum(0, dtype=torch.float64),
            "missing": (1 - q_NV.gather(1, signals[0].ids_NK).sum(1)).sum(dtype=torch.float64),
        }

    # --- output layers, which a kind may keep beside its slots

    keeps_heads: ClassVar[bool] = False
    """Whether signals need the teachers' output layers."""

    def with_heads(self, heads: Heads, precision: str) -> Encoding:
        """Return the encoding with the teachers' output layers, as they were kept."""
        return self

    def to(self, device: torch.device) -> Encoding:
        """Return the encoding with its tensors on a device."""
        return self


@dataclass(frozen=True)
class Hidden(Encoding):
    """The teachers' hidden states as their output layers read them; their `weights` do not change what is kept."""

    widths: tuple[int, ...]
    precision: str
    """`bf16` keeps what live teaching feeds the output product, bit for bit; `fp32` keeps float16."""
    weights: tuple[float, ...]
    combine: Combine
    heads: Heads = ()
    """As `Ensemble.signal` gives them; empty while only sizes are asked for."""
    temperature: float = 1.0
    sets: int = 1
    keeps_heads: ClassVar[bool] = True

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("hidden", "<u2" if self.precision == "bf16" else "<f2", sum(self.widths)),)

    @property
    def key(self) -> dict[str, Any]:
        return {"kind": "hidden", "widths": list(self.widths), "type": str(self._type)}

    def encode(self, live: DenseSignal, targets_N: Tensor, uniforms_N: Tensor) -> dict[str, Array]:
        hidden_ND = torch.cat([hidden.float() for hidden in live.hidden], -1).to(self._type)
        if not torch.isfinite(hidden_ND).all():
            largest = max(float(h.abs().max()) for h in live.hidden)
            raise UserError(f"the teachers' hidden states do not fit {self._type} (largest {largest:g}): keep them in "
                            "precision: bf16, which has the range of float32, or use cache: sparse")  # fmt: skip
        return {"hidden": hidden_ND.view(torch.int16).cpu().numpy().view(self.fields[0].dtype)}

    def names(self, epoch: int) -> tuple[str, ...]:
        return ("hidden",)

    def decode(self, kept: list[Tensor]) -> DenseSignal:
        hidden_ND = kept[0].view(torch.bfloat16) if self.precision == "bf16" else kept[0].float()
        if len(self.heads) < len(self.widths):
            # Several heads joined into one, their shares multiplied in.
            return DenseSignal((hidden_ND,), self.heads, (1.0,))
        return DenseSignal(torch.split(hidden_ND, list(self.widths), -1), self.heads, self.weights, self.combine)

    def error(self, log_q_NV: Tensor, kept: Sequence[Signal]) -> dict[str, Tensor]:
        """See `Encoding`: the divergence from live to kept."""
        (signal,) = [signal for signal in kept if isinstance(signal, DenseSignal)]
        difference = log_q_NV.double() - signal.log_probs().double()
        kl = (log_q_NV.double().exp() * difference).sum()
        return {"tokens": torch.tensor(float(len(log_q_NV))), "kl": kl}

    def with_heads(self, heads: Heads, precision: str) -> Hidden:
        """See `Encoding`; in bf16 they are joined as live teachers join theirs."""
        return replace(self, heads=narrow_heads(heads, self.weights, self.combine) if precision == "bf16" else heads)

    def to(self, device: torch.device) -> Hidden:
        heads = tuple((weight.to(device), to_device(bias, device)) for weight, bias in self.heads)
        return replace(self, heads=heads)

    @property
    def _type(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float16


@dataclass(frozen=True)
class Sparse(Encoding):
    """Tokens drawn without bias: K `draws` in each of S `sets`, of which there is one where rows vary by epoch."""

    draws: int
    sets: int
    temperature: float
    mixture: Mapping[str, Any]
    """Shares of the teachers and how they combine, as far as that decides the distribution."""
    vocab_size: int

    @property
    def fields(self) -> tuple[Field, ...]:
        ids = tuple(Field(f"ids{number}", _id_type(self.vocab_size), self.draws) for number in range(self.sets))
        return (*ids, *MEASURES)

    @property
    def key(self) -> dict[str, Any]:
        return dict(kind="sparse", draws=self.draws, sets=self.sets, temperature=self.temperature, **self.mixture)

    def encode(self, live: DenseSignal, targets_N: Tensor, uniforms_N: Tensor) -> dict[str, Array]:
        ids_NSK = torch.empty(len(targets_N), self.sets, self.draws, dtype=torch.int64)
        measures = np.empty((len(targets_N), 2), dtype="<f2")
        for part, logits in live.tiles(self.temperature):
            (probabilities, total), uniforms = softmax(logits), uniforms_N[part].to(logits.device)
            measures[part] = _measures(logits, probabilities, total, targets_N[part])
            ids_NSK[part] = systematic(probabilities, uniforms, self.draws, self.sets).cpu()
        ids = ids_NSK.numpy().astype(_id_type(self.vocab_size))
        return {f"ids{number}": ids[:, number] for number in range(self.sets)} | _by_name(measures)

    def names(self, epoch: int) -> tuple[str, ...]:
        return (f"ids{epoch % self.sets}", "entropy", "gold")

    def decode(self, kept: list[Tensor]) -> SparseSignal:
        ids_NK, entropy, gold = kept
        shares_NK = torch.full(ids_NK.shape, 1 / self.draws, dtype=torch.float32, device=ids_NK.device)
        return SparseSignal(_ids(ids_NK), shares_NK, entropy[:, 0].float(), gold[:, 0].float(), self.temperature)


@dataclass(frozen=True)
class TopK(Encoding):
    """The most likely tokens and their shares; biased, see above. `mixture` is as in `Sparse`."""

    k: int
    temperature: float
    mixture: Mapping[str, Any]
    vocab_size: int
    sets: int = 1
    biased: ClassVar[bool] = True

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("ids", _id_type(self.vocab_size), self.k), Field("shares", "<f2", self.k), *MEASURES)

    @property
    def key(self) -> dict[str, Any]:
        return {"kind": "top_k", "k": self.k, "temperature": self.temperature, **self.mixture}

    def encode(self, live: DenseSignal, targets_N: Tensor, uniforms_N: Tensor) -> dict[str, Array]:
        N = len(targets_N)
        ids_NK, shares_NK = np.empty((N, self.k), _id_type(self.vocab_size)), np.empty((N, self.k), "<f2")
        measures = np.empty((N, 2), dtype="<f2")
        for part, logits in live.tiles(self.temperature):
            probabilities, total = softmax(logits)
            measures[part] = _measures(logits, probabilities, total, targets_N[part])
            ids, shares = most_likely(probabilities, self.k)
            ids_NK[part], shares_NK[part] = ids.cpu().numpy(), shares.cpu().numpy()
        return {"ids": ids_NK, "shares": shares_NK} | _by_name(measures)

    def names(self, epoch: int) -> tuple[str, ...]:
        return ("ids", "shares", "entropy", "gold")

    def decode(self, kept: list[Tensor]) -> SparseSignal:
        ids_NK, shares, entropy, gold = kept
        shares_NK = shares.float()
        # Positions of padding hold zeros.
        shares_NK = shares_NK / shares_NK.sum(-1, keepdim=True).clamp_min(1e-6)
        return SparseSignal(_ids(ids_NK), shares_NK, entropy[:, 0].float(), gold[:, 0].float(), self.temperature)


def _id_type(vocab_size: int) -> str:
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def _ids(kept: Tensor) -> Tensor:
    # Torch reads unsigned numbers as signed ones of the same width.
    return kept.to(torch.int64) & ((1 << 8 * kept.element_size()) - 1)


def _measures(logits_NV: Tensor, probabilities_NV: Tensor, total_N: Tensor, targets_N: Tensor) -> Array:
    """Return entropy and log-probability of the target, `(N, 2)`."""
    entropy_N = total_N - torch.linalg.vecdot(probabilities_NV, logits_NV)
    if not torch.isfinite(entropy_N).all():
        raise UserError("the teachers' logits are not finite: look at the teachers, or set precision to fp32")
    gold_N = logits_NV.gather(-1, targets_N.clamp_min(0)[:, None]).squeeze(-1) - total_N
    return torch.stack([entropy_N, gold_N.masked_fill(targets_N < 0, 0.0)], -1).cpu().numpy()


def _by_name(measures_N2: Array) -> dict[str, Array]:
    return {"entropy": measures_N2[:, :1], "gold": measures_N2[:, 1:]}


def systematic(probabilities_NV: Tensor, uniforms_N: Tensor, draws: int, sets: int = 1) -> Tensor:
    """Draw tokens without bias, each with share 1/K of its set; return their ids, `(N, S, K)`.

    Draws are *systematic* (Madow 1944): K evenly spaced points, shifted together by one uniform number, are looked up
    in the cumulative distribution. Each point by itself falls on token v with probability q(v), so the share of draws
    that fell on v has q(v) as its mean, as with independent draws; but it is never further than 1/K from it, so its
    variance is far smaller. Several sets shift the points against each other by equal steps: every set is unbiased,
    and all sets together are one finer systematic draw. A token of probability 0 is never drawn.

    Probabilities need not sum to exactly 1; the uniform numbers, in [0, 1), are float64.
    """
    # Sums of 64k float32 would round away the tail.
    cumulative = probabilities_NV.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    shift_S = torch.arange(sets, dtype=torch.float64, device=total.device) / sets
    start_NS1 = (uniforms_N[:, None] + shift_S).remainder(1)[:, :, None]
    points = (start_NS1 + torch.arange(draws, dtype=torch.float64, device=total.device)) / draws
    # Rounding can put the last point on the very end, beyond the last token.
    points = torch.minimum(points.flatten(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True).view(-1, sets, draws)


def most_likely(probabilities_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ids of the k most likely tokens and their shares, which sum to 1, both `(N, k)`."""
    shares, ids = probabilities_NV.topk(k, -1)
    return ids, shares / shares.sum(-1, keepdim=True)
