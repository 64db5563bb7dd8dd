"""What a gate comes to at easy and at hard tokens: measured once, after training, on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from tutelage.base.progress import progress
from tutelage.base.types import Json
from tutelage.corpus.batches import IGNORE, Batch, BatchSource
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.gates import Gate
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import distill_mask

TOKENS = 1 << 14
"""Held-out tokens that are looked at, about."""
VALUES = 1 << 24
"""Logits held at once."""
BINS = 10
"""Parts of the same number of tokens, from those that are easiest for the teachers to the hardest."""


@torch.no_grad()
def gate_by_difficulty(
    student: LanguageModel, teachers: Ensemble, gate: Gate, temperature: float, source: BatchSource
) -> list[Json]:
    """Return what the gate of a trained student comes to on held-out rows, in fp32.

    For each part of the tokens, from the easiest for the teachers to the hardest: `loss`, the teachers' in nats per
    token at the temperature, `student`, the student's, `entropy`, the teachers', `gate_weight`, the mean weight, and
    `tokens`. Student and teachers are on one device.
    """
    rows = max(1, VALUES // (source.row_length * student.vocab_size))
    parts, seen, device = [], 0, student.weight_VD.device
    with progress("gate by difficulty", TOKENS, "tok") as bar:
        # From all over the split, about as many as are looked at.
        every = max(1, source.tokens_per_epoch // TOKENS)
        for batch in islice(source.with_batch_rows(rows).once(), 0, None, every):
            parts.append(_measures(student, teachers, gate, temperature, batch.to(device)).cpu())
            seen += batch.token_count
            bar.advance(batch.token_count)
            if seen >= TOKENS:
                break
    measures_4N = torch.cat(parts, 1)
    order = measures_4N[0].argsort(stable=True)
    return [
        dict(zip(("loss", "student", "entropy", "gate_weight"), measures_4N[:, part].mean(1).tolist(), strict=True))
        | {"tokens": len(part)}
        for part in order.chunk(BINS)
    ]


@dataclass(frozen=True)
class _Teachers:
    """What a gate asks about teachers, known beforehand."""

    entropy_N: Tensor
    loss_N: Tensor

    def entropy(self) -> Tensor:
        return self.entropy_N

    def loss(self, gold_n: Tensor) -> Tensor:
        return self.loss_N


def _measures(student: LanguageModel, teachers: Ensemble, gate: Gate, temperature: float, batch: Batch) -> Tensor:
    """Return teachers' loss, student's loss, teachers' entropy and weight at every target, `(4, n)`; plain formulas."""
    mask_BT, known_N = distill_mask(batch), (batch.targets_BT != IGNORE).flatten()
    gold_N1 = batch.targets_BT.flatten().clamp_min(0)[:, None]
    signal = teachers.dense_signal(batch.tokens_BT, batch.lengths_B, whole_B=batch.whole_B)
    log_q = signal.at(slice(None)).log_probs(temperature)
    logits_BTV = student.logits(batch.tokens_BT, batch.lengths_B, batch.whole_B)
    own = torch.log_softmax(logits_BTV.flatten(0, 1) / temperature, -1)
    entropy_N = -(log_q.exp() * log_q).sum(-1)
    teacher_N, student_N = (-log_probs.gather(1, gold_N1).squeeze(1) for log_probs in (log_q, own))
    if gate.by_row:
        weight_N = gate.at_rows(entropy_N.view_as(mask_BT), mask_BT).flatten()
    else:
        view = _Teachers(entropy_N, teacher_N)
        weight_N = gate.at_tokens(view, student_N, batch.targets_BT.flatten(), log_q.shape[1])
    return torch.stack([teacher_N, student_N, entropy_N, weight_N])[:, known_N]
