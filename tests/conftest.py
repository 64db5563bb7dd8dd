"""Small things that many tests need: a token store, models over its vocabulary. No downloads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest_plugins = ["fixtures.summaries"]

torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


READING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten._unique2.default,
}


class Reading(TorchDispatchMode):
    """Counts them while it is on; there may be several thousand other operations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.all = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.all += 1
        masks = [a for a in (args[1] if func is torch.ops.aten.index.Tensor else ()) if a is not None]
        if func in READING or any(mask.dtype == torch.bool for mask in masks):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reading():
    """Notes operations that read a number from a tensor: on a GPU, each of them would have the host wait."""
    return Reading


@dataclass
class Store:
    """Random text of `size` tokens below `vocabulary`, with documents of 5 to 40 tokens."""

    size: int = 2000
    vocabulary: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        draw = np.random.default_rng(self.seed)
        # A walk with small steps can be learned; uniform noise could not.
        self.tokens = (np.cumsum(draw.integers(0, 3, self.size)) % (self.vocabulary - 6) + 6).astype(np.uint16)
        self.document_starts = np.cumsum(np.append(0, draw.integers(5, 41, self.size)))
        self.document_starts = self.document_starts[self.document_starts < self.size].astype(np.int64)

    def __len__(self) -> int:
        return self.size


@pytest.fixture
def store() -> Store:
    return Store()


def tiny(architecture: str = "llama", seed: int = 0, vocabulary: int = 60, dropout: float = 0.0, width: int = 32):
    """A LanguageModel of a few thousand parameters with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    from tutelage.models.language_model import LanguageModel

    common = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(seed)
    if architecture == "gpt2":
        drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
        config = AutoConfig.for_model("gpt2", n_embd=width, n_layer=2, n_head=4, n_positions=64, **drop, **common)
    elif architecture == "modernbert":
        config = AutoConfig.for_model(
            "modernbert", hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            cls_token_id=4, sep_token_id=5, **common,
        )  # fmt: skip
        return LanguageModel(AutoModelForMaskedLM.from_config(config), "masked", vocabulary)
    else:
        config = AutoConfig.for_model(
            "llama", hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **common
        )
    return LanguageModel(AutoModelForCausalLM.from_config(config), "causal", vocabulary)


@pytest.fixture
def make_model():
    return tiny


@pytest.fixture
def real_data() -> Path:
    """The folder of real text and benchmarks that `TUTELAGE_DATA` names."""
    folder = os.environ.get("TUTELAGE_DATA")
    if not folder:
        pytest.skip("TUTELAGE_DATA is not set: no real text or benchmarks here")
    return Path(folder)
