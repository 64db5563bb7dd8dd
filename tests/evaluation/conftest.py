"""Tiny models and tokenizers, and the slow form of every score: one text at a time, all logits, float64."""

from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.likelihood.causal import Likelihood, log_probs
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble

SPECIALS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
}
TEXTS = [
    "The cats sleep on the mat.",
    "The cats sleeps on the mat.",
    "A dog that barks never bites its owner, people say.",
    "A dog that bark never bites its owner, people say.",
    "No.",
    "Who saw the two of them near the old mill?",
    "Who saw them the two of near the old mill?",
    "The cats sleep.",
    "Café owners – every one of them – complain.",
]


def byte_tokenizer(specials: dict[str, str] = SPECIALS, template: bool = False) -> PreTrainedTokenizerFast:
    """A small byte-level BPE; with `template` it surrounds texts by cls and sep."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*specials.values()], initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if template:
        ids = [(specials[key], tokenizer.token_to_id(specials[key])) for key in ("cls_token", "sep_token")]
        tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A <sep>", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def word_tokenizer(words: str) -> PreTrainedTokenizerFast:
    """A vocabulary of whole words; others are unknown, and zebras vanish."""
    vocabulary = {word: index for index, word in enumerate([*SPECIALS.values(), "<unk>", *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("zebra", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **SPECIALS)


def hugging_face(architecture: str, vocab_size: int, seed: int = 0, positions: int = 64) -> Any:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 2,
                             "num_attention_heads": 2, "max_position_embeddings": positions,
                             "initializer_range": 0.3}  # fmt: skip
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=48, attn_implementation="eager")).eval()
    if architecture == "gpt2":
        ends = {"bos_token_id": 1, "eos_token_id": 2}
        return GPT2LMHeadModel(GPT2Config(**shape, **ends, attn_implementation="eager")).eval()
    if architecture == "bert":
        return BertForMaskedLM(BertConfig(**shape, intermediate_size=48, attn_implementation="eager")).eval()
    return ModernBertForMaskedLM(ModernBertConfig(**shape, intermediate_size=48, pad_token_id=0, bos_token_id=1,
                                                  eos_token_id=2, cls_token_id=4, sep_token_id=5,
                                                  attn_implementation="eager")).eval()  # fmt: skip


def as_ensemble(*hf: Any, vocab_size: int) -> Ensemble:
    """Models as one; the given modules stay uncut."""
    kind = "masked" if "Masked" in type(hf[0]).__name__ else "causal"
    return Ensemble([LanguageModel(copy.deepcopy(one), kind, vocab_size) for one in hf])


def score(hf: Any, tokenizer: Any, items: list[Item], year: str, **settings: Any) -> Likelihood:
    """Score items with one model or a list of them."""
    models = hf if isinstance(hf, list) else [hf]
    return log_probs(as_ensemble(*models, vocab_size=len(tokenizer)), tokenizer, items, CONVENTIONS[year], **settings)


class Bigram(torch.nn.Module):
    """A model whose logits at a position are a row of a table, chosen by the token there: known log-probabilities."""

    def __init__(self, log_p_VV: torch.Tensor) -> None:
        super().__init__()
        size = len(log_p_VV)
        self.table = torch.nn.Embedding.from_pretrained(log_p_VV.float())
        self.output = torch.nn.Linear(size, size, bias=False)
        self.output.weight.data = torch.eye(size)
        self.config = SimpleNamespace(vocab_size=size)

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.output

    def forward(self, input_ids: torch.Tensor, **_rest: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.output(self.table(input_ids)))


def spaced_tokenizer(words: str, specials: dict[str, str] = SPECIALS, template: str = "") -> PreTrainedTokenizerFast:
    """A vocabulary of whole words, each with and without the space before it: what a year puts in front is seen."""
    entries = [*specials.values(), "<unk>", " ", *(form for word in words.split() for form in (word, f" {word}"))]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_next")
    if template:
        ids = [(token, vocabulary[token]) for token in specials.values()]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **specials)


def bigram(tokenizer: Any, likely: dict[str, dict[str, float]], kind: str = "causal") -> Ensemble:
    """A `Bigram` that gives tokens after tokens these probabilities, and shares the rest out among the others."""
    vocabulary = tokenizer.get_vocab()
    table = torch.full((len(vocabulary), len(vocabulary)), 1 / len(vocabulary), dtype=torch.float64)
    for before, after in likely.items():
        table[vocabulary[before]] = (1 - sum(after.values())) / (len(vocabulary) - len(after))
        for token, probability in after.items():
            table[vocabulary[before], vocabulary[token]] = probability
    # Each token says what follows it, so it is causal when it is tested, whatever it is then called.
    model = LanguageModel(Bigram(table.log()), "causal", len(vocabulary))
    model.kind = kind
    return Ensemble([model])


@torch.no_grad()
def slow_causal(models: list[Any], ids: list[int], scored: list[int]) -> float:
    """Sum of the log-probabilities of positions `scored`, from the mean logits of all models."""
    logits = torch.stack([copy.deepcopy(hf).double()(torch.tensor([ids[:-1]])).logits[0] for hf in models]).mean(0)
    log_p = logits.log_softmax(-1)
    return float(sum(log_p[position - 1, ids[position]] for position in scored))


@torch.no_grad()
def slow_masked(models: list[Any], ids: list[int], scored: list[int], mask: int) -> float:
    """The same with each of those positions masked in turn."""
    total = 0.0
    for position in scored:
        row = torch.tensor([ids])
        row[0, position] = mask
        logits = torch.stack([copy.deepcopy(hf).double()(row).logits[0, position] for hf in models]).mean(0)
        total += float(logits.log_softmax(-1)[ids[position]])
    return total


PLAIN = byte_tokenizer()
FRAMED = byte_tokenizer(template=True)
ITEMS = [Item(text) for text in TEXTS]


def plain_ids(text: str) -> list[int]:
    return PLAIN(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="session")
def world() -> ModuleType:
    """Everything above: test folders are no packages, so that helpers cannot be imported."""
    return sys.modules[__name__]
