"""The loss by its definition: slow, in float64, all logits at once, gradients by autograd. `fused` computes the same.

With weights w, temperature T, the teachers' distribution q_T and the student's p_T (logits divided by T):

    loss = w_text    * (sum over targets of -log p(target)) / targets
         + w_distill * T^2 * (sum over tokens of KL(q_T || p_T)) / tokens

`tokens` are those at which there is a divergence (`objectives.distill_mask`), or with `reduction: per_row` the number
of rows that have any; T^2 is left out where the recipe says so (`temperature_squared: false`). A gate gives the
teachers a weight g between 0 and 1 at each token, and what they give up to the text:

    (w_text + (1 - g) * w_distill) / targets * -log p(target)  +  g * w_distill * T^2 / tokens * KL(q_T || p_T)

A weight schedule replaces w_distill by a share of it in the same way. `objectives.scales_for` multiplies weights,
counts and T^2 out to the factors of `LossScales`, which is what the functions here and in `fused` are given.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import IGNORE
from tutelage.teaching.gates import Advantage, Confidence, Gate
from tutelage.teaching.signal import DenseSignal, Signal
from tutelage.training.fused import LossScales


class Terms(NamedTuple):
    """The loss, and what it is made of at each position."""

    loss: Tensor
    surprise_N: Tensor
    """Cross-entropy with the target, 0 where there is none."""
    divergence_N: Tensor
    """From the teachers, 0 where it does not count."""
    gate_N: Tensor
    """Weights of the gate, 1 without one."""


def distillation_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    scales: LossScales,
    signal: Signal | None = None,
    distill_mask_N: Tensor | None = None,
    gate_weight_N: Tensor | None = None,
) -> Terms:
    """Return what `fused.fused_loss` returns, from the same arguments; see there."""
    logits_NV = F.linear(hidden_ND.double(), weight_VD.double(), None if bias_V is None else bias_V.double())
    surprise_N = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE, reduction="none")
    divergence_N, gate_N = torch.zeros_like(surprise_N), torch.ones_like(surprise_N)
    if signal is not None:
        q_NV, entropy_N = teacher_distribution(signal, scales.temperature, logits_NV.shape[1])
        log_p_NV = F.log_softmax(logits_NV / scales.temperature, -1)
        divergence_N = -(q_NV * log_p_NV).sum(-1) - entropy_N
        if distill_mask_N is not None:
            divergence_N = divergence_N * distill_mask_N
        if gate_weight_N is not None:
            gate_N = gate_weight_N.double()
        elif scales.gate is not None:
            if isinstance(signal, DenseSignal):
                gold_N = q_NV.gather(1, targets_N.clamp_min(0)[:, None]).squeeze(1).log()
            else:
                gold_N = signal.gold_N.double()
            gate_N = gate_weights(scales.gate, log_p_NV.detach(), entropy_N, gold_N, targets_N)
    per_target_N = scales.target + (1 - gate_N) * scales.yielded
    loss = (per_target_N * surprise_N + gate_N * scales.teacher * divergence_N).sum()
    return Terms(loss, surprise_N, divergence_N, gate_N)


def teacher_distribution(signal: Signal, temperature: float, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return the teachers' probabilities `(N, V)` and their entropy `(N,)`.

    A sparse signal has probabilities at the tokens it keeps, and the entropy of the distribution they are drawn from.
    """
    if not isinstance(signal, DenseSignal):
        zeros_NV = torch.zeros(len(signal.ids_NK), vocab_size, dtype=torch.float64)
        return zeros_NV.scatter_add_(1, signal.ids_NK, signal.shares_NK.double()), signal.entropy_N.double()
    logits = [
        # A head without a weight is of a model whose output is logits already.
        hidden.double()
        if weight is None
        else F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
        for hidden, (weight, bias) in zip(signal.hidden, signal.heads, strict=True)
    ]
    if signal.combine == "mean_logits":
        mixed = torch.stack([share * z for share, z in zip(signal.weights, logits, strict=True)]).sum(0)
        q_NV = F.softmax(mixed / temperature, -1)
    else:
        parts = [share * F.softmax(z / temperature, -1) for share, z in zip(signal.weights, logits, strict=True)]
        q_NV = torch.stack(parts).sum(0)
    return q_NV, -torch.xlogy(q_NV, q_NV).sum(-1)


def gate_weights(gate: Gate, log_p_NV: Tensor, entropy_N: Tensor, gold_N: Tensor, targets_N: Tensor) -> Tensor:
    """Return the weights of a gate that takes each token by itself, one position after another.

    From the student's log-probabilities at the temperature, the teachers' entropy and log-probability of the target.
    """
    found = []
    for n, target in enumerate(targets_N.tolist()):
        if isinstance(gate, Confidence):
            found.append(1 - float(entropy_N[n]) / math.log(log_p_NV.shape[1]))
        elif isinstance(gate, Advantage):
            advantage = float(gold_N[n] - log_p_NV[n, target])
            found.append(1.0 if target == IGNORE else 1 / (1 + math.exp(-advantage / gate.scale)))
        else:
            raise TypeError(f"{gate} compares the tokens of a row: give its weights")
    return torch.tensor(found, dtype=torch.float64)
