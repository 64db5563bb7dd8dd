"""A Hugging Face model cut before its output layer.

Losses take hidden states and the output layer's weights, so that logits over the whole vocabulary exist only chunk by
chunk. The cut is generic: the output layer's `forward` is replaced by the identity, and what the model then calls its
logits is what the output layer would have read, after the final norm and any transform of the head. Names, tied
weights and `save_pretrained` stay as they are. A model that bends its logits afterwards (soft caps) would be cut
wrongly, so the cut is checked once against the uncut model; such a model stays whole, and can be scored but neither
learn nor teach. So is what a token sees: a model that reads ahead would pass for the best causal one there is.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.base.errors import UserError
from tutelage.models.products import use_onednn_linear
from tutelage.models.recorded import Recorded

WIDE = ("deberta",)
"""Types that compute in float32 where others have bf16: DeBERTa's first version masks with a number beyond it."""
SIGHT = 1e-6
"""Smaller changes, relative to the largest value, are rounding."""


def _identity(hidden: Tensor) -> Tensor:
    return hidden


def _say_nothing(*_: object) -> None:
    pass


class LanguageModel(nn.Module):
    """Tokens to hidden states, beside the output layer's weight and bias, of any Hugging Face language model.

    `vocab_size` counts the tokenizer's entries; rows of a padded output layer beyond it are never predicted. None takes
    all of the model's, for a model that is only to be scored: it may then stay `whole`, as it was, where it has no
    linear output layer or changes its logits afterwards. What `hidden` returns are then its logits.

    Raises:
        UserError: the model has no output layer, a smaller vocabulary, or logits that are more than one linear map;
            or it is called causal and sees what follows a token, or masked and does not.
    """

    def __init__(self, hf: Any, kind: Literal["causal", "masked"], vocab_size: int | None) -> None:
        super().__init__()
        output = hf.get_output_embeddings()
        name = type(hf).__name__
        linear = isinstance(output, nn.Linear)
        if not linear and vocab_size is not None:
            raise UserError(
                f"{name} has no linear output layer, which learning and teaching need here: choose another causal or "
                "masked language model (this one can be scored, by `tutelage evaluate`)"
            )
        if linear and vocab_size is not None and output.weight.shape[0] < vocab_size:
            raise UserError(
                f"{name} knows {output.weight.shape[0]} tokens, the tokenizer has {vocab_size}: a model "
                "must share the recipe's tokenizer; load that model's own (data.tokenizer.kind: pretrained)"
            )
        self.hf = hf
        self.kind: Literal["causal", "masked"] = kind
        self.recorded: Recorded | None = None
        use_onednn_linear(hf)
        # Models would look into their tokens for padding at every call, to warn of it: a GPU's host would wait.
        for module in hf.modules():
            if hasattr(module, "warn_if_padding_and_no_attention_mask"):
                module.warn_if_padding_and_no_attention_mask = _say_nothing
        self.whole = not (linear and _cut(hf, output))
        if self.whole and vocab_size is not None:
            raise UserError(
                f"{name} changes its logits after the output layer (a soft cap, a scale or a bias); such models cannot "
                "teach or learn here (they can be scored, by `tutelage evaluate`)"
            )
        if vocab_size is None:
            vocab_size = _vocabulary(hf) if self.whole else len(output.weight)
        self.vocab_size = vocab_size
        self._check_sight()

    @property
    def weight_VD(self) -> Tensor:
        """Weight of the output layer, without padding rows; of a sharded model, read it after `hidden`."""
        weight: Tensor = self.hf.get_output_embeddings().weight
        # Slicing off nothing would still cost the backward pass a copy.
        return weight if len(weight) == self.vocab_size else weight[: self.vocab_size]

    @property
    def bias_V(self) -> Tensor | None:
        """Bias of the output layer, if it has one."""
        bias: Tensor | None = self.hf.get_output_embeddings().bias
        return None if bias is None else bias[: self.vocab_size]

    @property
    def head(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of the output layer; none for a model that is whole."""
        return (None, None) if self.whole else (self.weight_VD, self.bias_V)

    @property
    def backend(self) -> Literal["causal", "mlm", "mntp"]:
        """How it predicts: a token from those before it; a masked one at the mask; or at the place before the mask, as
        a causal model does that was told to read rows whole (`is_causal: false` in its configuration)."""
        if self.kind == "causal":
            return "causal"
        return "mntp" if getattr(self.hf.config, "is_causal", True) is False else "mlm"

    @property
    def layers(self) -> list[nn.Module]:
        """The trunk's layers: members of the outermost module lists; none where a model keeps no such list."""
        return list(_layers(self.hf))

    @property
    def positions(self) -> int | None:
        """How many tokens a row may have; None where positions are rotations and have no end."""
        config = self.hf.config
        limit = getattr(config, "max_position_embeddings", None)
        if not limit or getattr(config, "rope_parameters", None) is not None:
            return None
        return int(limit) - self.first_position

    @property
    def first_position(self) -> int:
        """The position of a row's first token: RoBERTa's kind counts from behind the padding's id."""
        embeddings = getattr(getattr(self.hf, "base_model", None), "embeddings", None)
        table = getattr(embeddings, "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    def hidden(self, tokens_BT: Tensor, lengths_B: Tensor | None = None, whole_B: Tensor | None = None) -> Tensor:
        """Return what the output layer reads, `(B, T, D)`; lengths are None where no row is padded.

        A causal model needs no mask for padding on the right, since no token sees what follows it; in rows of `whole_B`
        each token sees all others.
        """
        alike = lengths_B is None and whole_B is None
        if self.recorded is not None and self.training and alike and torch.is_grad_enabled():
            return self.recorded(tokens_BT)
        return self._read(tokens_BT, lengths_B, whole_B)

    @torch.no_grad()
    def check_reads_whole(self) -> None:
        """Make sure that a causal model can read a row whole.

        Raises:
            UserError: it attends without masks, or its type takes none of this form.
        """
        was_training = self.hf.training
        self.hf.eval()
        row_1T, yes = probe_row(self.hf), torch.ones(1, dtype=torch.bool)
        other_1T = row_1T.clone()
        other_1T[0, -1] = row_1T[0, 0]
        yes = yes.to(row_1T.device)
        try:
            before, after = (self._read(tokens, None, yes)[:, :-1] for tokens in (row_1T, other_1T))
            plain, masked = self._read(row_1T), self._read(row_1T, None, ~yes)
            seen = (before - after).abs().amax(-1).min() > SIGHT * before.abs().max()
            alike = (plain - masked).abs().max() <= 1e-4 * plain.abs().max()
        except Exception:  # each architecture refuses in its own way what it does not know
            seen = alike = torch.tensor(False)
        self.hf.train(was_training)
        if not (seen and alike):
            raise UserError(
                f"{type(self.hf).__name__} cannot read rows whole, as `hybrid` asks: take a causal model whose "
                "attention takes masks (llama, gpt2, opt, qwen2, ...) and has no windows, or `next_token`"
            )

    @torch.no_grad()
    def _check_sight(self) -> None:
        """Change the last token of a row: what is made of those before it may move in a masked model alone."""
        was_training = self.hf.training
        self.hf.eval()
        row_1T = probe_row(self.hf)
        other_1T = row_1T.clone()
        other_1T[0, -1] = row_1T[0, 0]
        before, after = (self._read(tokens)[:, :-1] for tokens in (row_1T, other_1T))
        shorter = self._read(row_1T[:, :-1]) if self.kind == "causal" else before
        self.hf.train(was_training)
        moved = bool((before - after).abs().max() > SIGHT * before.abs().max())
        name = type(self.hf).__name__
        if not moved and (shorter - before).abs().max() > 1e-4 * before.abs().max():
            raise UserError(
                f"{name} with these settings reads a text otherwise when more follows it, so what it says of a text is "
                "not defined: it can neither be scored nor learn here as a causal model"
            )
        if self.kind == "causal" and moved:
            raise UserError(
                f"{name} with these settings sees the tokens that follow, so as a causal model it would copy what it "
                "is asked to predict: use it as a masked model (objectives: {masked: 1}, or --kind masked), or make it "
                "causal (config: {is_decoder: true}, where its type knows that)"
            )
        if self.kind == "masked" and not moved:
            raise UserError(
                f"{name} with these settings does not see the tokens that follow, so it is no masked model: use it as "
                "a causal one (objectives: {next_token: 1}, or --kind causal)"
            )

    def record(self) -> None:
        """Train by CUDA graphs from now on; see `Recorded`, whose rules the caller keeps."""
        self.recorded = Recorded(self._read, self.hf)

    def _read(self, tokens_BT: Tensor, lengths_B: Tensor | None = None, whole_B: Tensor | None = None) -> Tensor:
        mask = None
        if lengths_B is not None and self.kind == "masked":
            mask = (torch.arange(tokens_BT.shape[1], device=tokens_BT.device) < lengths_B[:, None]).long()
        if whole_B is not None:
            mask = self._sight(tokens_BT, lengths_B, whole_B)
        extra = {"use_cache": False} if self.kind == "causal" else {}
        narrow = torch.is_autocast_enabled(tokens_BT.device.type) and self.hf.config.model_type not in WIDE
        with torch.autocast(tokens_BT.device.type, enabled=narrow):
            hidden: Tensor = self.hf(input_ids=tokens_BT, attention_mask=mask, **extra).logits
        return hidden

    def _sight(self, tokens_BT: Tensor, lengths_B: Tensor | None, whole_B: Tensor) -> Tensor:
        """Return the mask of four dimensions that transformers takes as it is: what each token sees, `(B, 1, T, T)`."""
        place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        seen_BTT = (place_T <= place_T[:, None]) | whole_B[:, None, None]
        if lengths_B is not None:
            seen_BTT = seen_BTT & (place_T < lengths_B[:, None])[:, None] | (place_T == place_T[:, None])
        if self.hf.config._attn_implementation != "eager":
            return seen_BTT[:, None]
        # Added to the scores there.
        return torch.where(seen_BTT, 0.0, torch.finfo(torch.float32).min)[:, None]

    def sparse_embedding_grad(self) -> None:
        """Let the input embedding's gradient have rows for the tokens read alone, where it is tied to the output layer.

        It is added to the output layer's gradient, which comes first and has all rows; by default it would be as large
        for a moment. For one process on a CPU: others exchange gradients, or would wait for a count.
        """
        embedding = self.hf.get_input_embeddings()
        if isinstance(embedding, nn.Embedding) and embedding.weight is self.hf.get_output_embeddings().weight:
            embedding.sparse = True

    def logits(self, tokens_BT: Tensor, lengths_B: Tensor | None = None, whole_B: Tensor | None = None) -> Tensor:
        """Return all logits, `(B, T, V)`: for small inputs and tests."""
        hidden_BTD = self.hidden(tokens_BT, lengths_B, whole_B)
        return hidden_BTD if self.whole else nn.functional.linear(hidden_BTD, self.weight_VD, self.bias_V)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def probe_row(hf: Any, length: int = 8) -> Tensor:
    """A row of tokens, `(1, length)`, without the padding's, at which some models stop or leave a position out."""
    table = hf.get_output_embeddings()
    table = table if isinstance(table, nn.Linear) else hf.get_input_embeddings()
    padding = getattr(hf.config, "pad_token_id", None)
    tokens = [token for token in range(1, min(length + 2, len(table.weight))) if token != padding]
    return torch.tensor([(tokens * length)[:length]], device=table.weight.device)


@torch.no_grad()
def _vocabulary(hf: Any) -> int:
    """How many tokens a model gives logits of, at every position."""
    row = probe_row(hf)
    logits = hf(input_ids=row).logits
    if logits.ndim != 3 or logits.shape[:2] != row.shape:
        raise UserError(f"{type(hf).__name__} does not give logits of every position, so it cannot be scored")
    return int(logits.shape[2])


@torch.no_grad()
def _cut(hf: Any, output: nn.Linear) -> bool:
    """Replace the output layer's forward by the identity; leave it where more than that layer makes the logits."""
    was_training = hf.training
    hf.eval()
    tokens = probe_row(hf)
    # A soft cap hardly bends small logits: compare large ones. A power of two is undone without rounding.
    output.weight.mul_(1024)
    whole = hf(input_ids=tokens).logits
    output.forward = _identity  # type: ignore[assignment, method-assign]
    try:
        cut = hf(input_ids=tokens).logits
        same = bool(cut.shape[-1] == output.in_features)
        if same:
            rebuilt = nn.functional.linear(cut, output.weight, output.bias)
            # Numbers that are not finite cannot be compared: those who teach and score name such a model.
            close = (rebuilt - whole).abs().max() <= 1e-4 * whole.abs().max() if whole.isfinite().all() else True
            same = rebuilt.shape == whole.shape and bool(close)
    except (RuntimeError, IndexError):  # what follows the output layer counts on its width
        same = False
    output.weight.div_(1024)
    hf.train(was_training)
    if not same:
        del output.forward
    return bool(same)
