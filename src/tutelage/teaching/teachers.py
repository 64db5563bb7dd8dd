"""One model or several as a single teacher: tokens in, a `DenseSignal` out.

The same class teaches a student, and is evaluated by itself as the *direct ensemble* of BabyLlama-2. Teachers must
share the vocabulary by token string; the heads of padded vocabularies are cut to it (see `LanguageModel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from tutelage.base.errors import UserError
from tutelage.corpus.batches import Batch
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.signal import Combine, DenseSignal, Heads, narrow_heads


class Ensemble(nn.Module):
    """Frozen models with one distribution: one or more over the same vocabulary, all causal or all masked.

    `weights` are relative shares, equal unless given; `names` are for messages.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        weights: Sequence[float] | None = None,
        combine: Combine = "mean_logits",
        names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not models:
            raise UserError("an ensemble needs at least one model")
        if len({(model.kind, model.vocab_size) for model in models}) > 1:
            raise UserError("the models of an ensemble differ in vocabulary, or some are causal and some masked")
        shares = list(weights) if weights is not None else [1.0] * len(models)
        if len(shares) != len(models) or min(shares) <= 0:
            raise UserError(f"{len(models)} models need as many positive weights, not {shares}")
        self.models = nn.ModuleList(models)
        self.shares, self.combine = tuple(share / sum(shares) for share in shares), combine
        self.kind, self.backend, self.vocab_size = models[0].kind, models[0].backend, models[0].vocab_size
        self._names, self._checked = tuple(names), not names
        self._narrow: Heads | None = None
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def dense_signal(
        self, tokens_BT: Tensor, lengths_B: Tensor | None = None, precision: str = "fp32", whole_B: Tensor | None = None
    ) -> DenseSignal:
        """Return these models' distributions at every position of a batch; in `bf16` they run under autocast.

        Tokens are masked where a masked model shall predict; lengths are None where no row is padded. Causal models
        read rows of `whole_B` whole.

        Raises:
            UserError: what a model with a name makes of the first batch is not finite.
        """
        with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=precision == "bf16"):
            hidden = tuple(_read(model, tokens_BT, lengths_B, whole_B) for model in self._each())
        if not self._checked:  # once, since a GPU's host waits for it
            for name, found in zip(self._names, hidden, strict=True):
                _check_finite(name, found, precision)
            self._checked = True
        return DenseSignal(hidden, tuple(model.head for model in self._each()), self.shares, self.combine)

    @property
    def heads(self) -> Heads:
        """Weight and bias of each output layer."""
        return tuple((model.weight_VD, model.bias_V) for model in self._each())

    def signal(self, batch: Batch, precision: str) -> DenseSignal:
        """Teach a batch; see `TeacherSource`.

        In bf16 the weights are rounded once and for all, as autocast would round them at every call: an ensemble that
        has taught in bf16 cannot compute in fp32 afterwards. Models shared out over processes stay as they are.
        """
        if precision != "bf16" or self.is_shared_out:
            return self.dense_signal(batch.tokens_BT, batch.lengths_B, precision, batch.whole_B)
        if self._narrow is None:
            self._narrow = self._round()
        signal = self.dense_signal(batch.tokens_BT, batch.lengths_B, precision, batch.whole_B)
        hidden = tuple(h.bfloat16() for h in signal.hidden)
        if self.combine == "mean_logits":
            return DenseSignal((torch.cat(hidden, -1),), self._narrow, (1.0,))
        return DenseSignal(hidden, self._narrow, self.shares, self.combine)

    @property
    def is_shared_out(self) -> bool:
        """Whether every process holds only a part of these models."""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    @torch.inference_mode(False)
    def _round(self) -> Heads:
        """Round the weights of all products to bf16; return the heads, see `narrow_heads`."""
        heads = narrow_heads(self.heads, self.shares, self.combine)
        for model in self._each():
            for module in model.hf.modules():
                if isinstance(module, nn.Linear | Conv1D) and module is not model.hf.get_output_embeddings():
                    module.weight.data = module.weight.data.bfloat16()
        return heads

    def _each(self) -> list[LanguageModel]:
        return [model for model in self.models if isinstance(model, LanguageModel)]


def _check_finite(name: str, hidden: Tensor, precision: str) -> None:
    if not hidden.isfinite().all():
        remedy = "set precision to fp32, or take another" if precision == "bf16" else "train it again, or take another"
        raise UserError(f"the teacher '{name}' gives NaN or infinity for the first rows, in {precision}: {remedy}")


def _read(model: LanguageModel, tokens_BT: Tensor, lengths_B: Tensor | None, whole_B: Tensor | None) -> Tensor:
    try:
        return model.hidden(tokens_BT, lengths_B, whole_B)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        name, (rows, tokens), told = type(model.hf).__name__, tokens_BT.shape, " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot read {rows} rows of {tokens} tokens: {told}") from error


def check_same_vocabulary(ours: Any, theirs: Any, name: str) -> None:
    """Refuse a teacher whose tokenizer gives other ids to the same strings; name the first, and the way out."""
    vocabulary, other = ours.get_vocab(), theirs.get_vocab()
    differing = [(token, index, other.get(token)) for token, index in vocabulary.items() if other.get(token) != index]
    if differing:
        token, index, theirs_index = min(differing, key=lambda item: item[1])
        raise UserError(
            f"teacher '{name}' has another vocabulary: {len(differing)} of {len(vocabulary)} tokens differ, first "
            f"{token!r} (id {index} here, {theirs_index} there). Distillation compares distributions token by token: "
            f"train the teacher in this recipe, or use its tokenizer: data.tokenizer={{kind: pretrained, path: {name}}}"
        )
