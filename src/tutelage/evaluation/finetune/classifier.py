"""A language model without its output layer, a pooled hidden state, a classifier; or several of these as one.

An ensemble is fine-tuned directly, as BabyLlama-2 did: its logits are the mean of its members', there is one loss, and
gradients flow into all members, which may differ in architecture.

Shapes: B rows, T tokens, D width, L labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tutelage.base.errors import UserError
from tutelage.evaluation.finetune.attention import LINE, reads_lines
from tutelage.evaluation.finetune.layers import lean
from tutelage.evaluation.finetune.rows import MicroBatch
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.finetune import Adapters, TaskFinetuning

Pooling = Literal["first", "last", "last_token", "mean"]


class Member(nn.Module):
    """One model's copied trunk with a classifier; `frames`: whether the tokenizer puts a token in front of texts."""

    def __init__(self, model: LanguageModel, labels: int, settings: TaskFinetuning, frames: bool) -> None:
        super().__init__()
        self.kind = model.kind
        self.pooling = pooling_of(model.kind, settings, frames)
        # The model's output layer, and what a masked model computes just for it, stay behind.
        self.trunk = copy.deepcopy(model.hf.base_model)
        self.trunk.requires_grad_(True)
        layers = lean(self.trunk) if self.kind == "causal" else []
        self.last = layers[-1] if layers and self.pooling != "mean" else None
        self.first, self.positions_told, self.reads_lines = model.first_position, True, False
        device = next(self.trunk.parameters()).device
        if device.type == "cpu":
            for leads in (True, False):
                for layer in layers:
                    layer.leads = leads
                self.reads_lines = reads_lines(self.trunk, self.first, model.positions)
                if self.reads_lines:
                    break
        self.head = _head(model.hf.config, labels, settings).to(device)
        self.types = getattr(model.hf.config, "type_vocab_size", 0) > 1
        _freeze(self.trunk, settings)
        self.frozen = settings.freeze == "model"

    def forward(self, part: MicroBatch) -> Tensor:
        """Return logits, `(B, L)`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.last is None:
                pooled_BD = pool(self.hidden(part), part, self.pooling)
            else:
                self.last.places_R = place(part, self.pooling)
                pooled_BD = self.hidden(part)[0]
                self.last.places_R = None
        logits: Tensor = self.head(pooled_BD)
        return logits

    def hidden(self, part: MicroBatch) -> Tensor:
        """Return the trunk's last hidden states, `(B, T, D)`."""
        extra: dict[str, Any] = {"use_cache": False} if self.kind == "causal" else {}
        if part.types_BT is not None and self.types:
            extra["token_type_ids"] = part.types_BT
        if part.groups and part.lengths_B is not None:
            starts_B, _ = part.starts_and_ends()
            place_T = torch.arange(part.tokens_BT.shape[1]) - starts_B.repeat_interleave(part.lengths_B)
            extra |= {"position_ids": place_T[None] + self.first, "groups": part.groups}
        # Padding on the right needs no mask where no token sees what follows it.
        elif part.lengths_B is not None and (part.left or self.kind == "masked"):
            place_BT = places_in_rows(part)
            extra["attention_mask"] = ((place_BT >= 0) & (place_BT < part.lengths_B[:, None])).long()
            if part.left and self.positions_told:
                extra["position_ids"] = place_BT.clamp(min=0)
        hidden: Tensor = self.trunk(input_ids=part.tokens_BT, **extra).last_hidden_state
        return hidden

    def train(self, mode: bool = True) -> Member:
        """Switch dropout on or off; a frozen trunk has none."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self


class Classifier(nn.Module):
    """One member, or several whose mean logits count."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.reads_lines = all(member.reads_lines for member in members)
        if self.reads_lines:
            for member in members:
                member.trunk.set_attn_implementation(LINE)

    def forward(self, part: MicroBatch) -> Tensor:
        """Return logits, `(B, L)`."""
        logits = [member(part).float() for member in self.members]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)


def build(models: Sequence[LanguageModel], labels: int, settings: TaskFinetuning, tokenizer: PreTrainedTokenizerFast,
          seed: int) -> Classifier:  # fmt: skip
    """Make the classifier of a model or an ensemble, on the models' device.

    Raises:
        UserError: no model, or one that `padding: left` or `lora` does not suit.
    """
    if not models:
        raise UserError("there is no model to fine-tune")
    ids = tokenizer("a")["input_ids"]
    frames = len(ids) > 1 and ids[0] in tokenizer.all_special_ids
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        members = [Member(model, labels, settings, frames) for model in models]
    classifier = Classifier(members)
    if settings.padding == "left" and not classifier.reads_lines:
        for member in members:
            _check_left(member)
    return classifier


def pooling_of(kind: str, settings: TaskFinetuning, frames: bool) -> Pooling:
    """Resolve `auto`."""
    if settings.pooling != "auto":
        return settings.pooling
    if kind == "causal":
        return "last_token"
    # Position 0 would be padding.
    return "first" if frames and settings.padding == "right" else "mean"


def place(part: MicroBatch, pooling: Pooling) -> Tensor:
    """Return which position of each row a pooling reads, `(B,)`, counted through the part; not for `mean`."""
    starts_B, ends_B = part.starts_and_ends()
    return starts_B if pooling == "first" else ends_B


def places_in_rows(part: MicroBatch) -> Tensor:
    """Return each token's place in its text, `(B, T)`, where rows are padded; padding has places outside of it."""
    T = part.tokens_BT.shape[1]
    return torch.arange(T, device=part.tokens_BT.device) - (part.starts_and_ends()[0] % T)[:, None]


def pool(hidden_BTD: Tensor, part: MicroBatch, pooling: Pooling) -> Tensor:
    """Take one vector of each row, `(B, D)`."""
    if pooling != "mean":
        return hidden_BTD.flatten(0, 1)[place(part, pooling)]
    if part.lengths_B is None:
        return hidden_BTD.mean(1)
    if part.groups:
        rows = hidden_BTD[0].split(part.lengths_B.tolist())  # type: ignore[no-untyped-call]
        return torch.stack([row_TD.mean(0) for row_TD in rows])
    place_BT = places_in_rows(part)
    inside_BT = (place_BT >= 0) & (place_BT < part.lengths_B[:, None])
    return (hidden_BTD * inside_BT[..., None]).sum(1) / part.lengths_B[:, None]


def _head(config: Any, labels: int, settings: TaskFinetuning) -> nn.Module:
    width = config.hidden_size
    last = nn.Linear(width, labels, bias=settings.head == "mlp")
    if settings.head == "mlp":
        norms = [nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)]
        return nn.Sequential(norms[0], nn.Linear(width, width), nn.GELU(), norms[1], nn.Dropout(settings.dropout), last)
    nn.init.normal_(last.weight, std=getattr(config, "initializer_range", 0.02))
    return nn.Sequential(nn.Dropout(settings.dropout), last)


def _freeze(trunk: Any, settings: TaskFinetuning) -> None:
    if settings.lora is not None:
        _adapt(trunk, settings.lora)
    elif settings.freeze == "model":
        trunk.requires_grad_(False)
    elif settings.freeze == "embeddings":
        for module in trunk.modules():
            if isinstance(module, nn.Embedding):
                module.requires_grad_(False)


def _adapt(trunk: Any, adapters: Adapters) -> None:
    """Put adapters into a trunk; all else stops learning."""
    try:
        import peft  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError("`lora` needs peft: pip install 'tutelage[finetune]'") from error
    architecture = trunk.config.model_type
    choices = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    targets = list(adapters.targets or choices.get(architecture, ()))
    if not targets:
        names = {name.rpartition(".")[2] for name, module in trunk.named_modules() if isinstance(module, nn.Linear)}
        raise UserError(f"peft knows no usual places for adapters in a {architecture}; name linear layers in "
                        f"`lora.targets`: {', '.join(sorted(names))}")  # fmt: skip
    # GPT-2's layers hold their weights the other way round.
    config = peft.LoraConfig(r=adapters.rank, lora_alpha=adapters.alpha, lora_dropout=adapters.dropout,
                             target_modules=targets, fan_in_fan_out=architecture == "gpt2")  # fmt: skip
    try:
        peft.inject_adapter_in_model(config, trunk)
    except ValueError as error:
        raise UserError(f"lora.targets={targets} does not suit a {architecture}: {error}") from error
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_("lora_" in name)


@torch.no_grad()
def _check_left(member: Member) -> None:
    """Find out how the model must be told of padding on the left: with positions, or (RoBERTa's kind) without."""
    was_training, device = member.training, next(member.parameters()).device
    member.eval()
    ids_T = torch.arange(1, 6, device=device) % member.trunk.config.vocab_size
    lengths_B = torch.tensor([5, 8], device=device)
    row_T = torch.cat([ids_T, ids_T[:3]])
    padded = MicroBatch(torch.stack([torch.cat([row_T[:3] * 0, ids_T]), row_T]), lengths_B, None, lengths_B, left=True)
    alone = MicroBatch(ids_T[None], None, None, lengths_B[:1])
    wanted = member.hidden(alone)[0]
    for told in (True, False):
        member.positions_told = told
        try:
            found = member.hidden(padded)[0, 3:]
        except TypeError:  # it takes no positions
            continue
        if torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max())):
            member.train(was_training)
            return
    raise UserError(f"a {member.trunk.config.model_type} reads rows with padding on the left differently; take "
                    "`padding: right`")  # fmt: skip
