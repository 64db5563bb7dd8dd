"""A tiny random model that is held to a vocabulary writes a corpus: nothing outside of it gets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llguidance", reason="llguidance is not installed (extra local-teacher)")

from fixtures.stored import entries
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.api import studies
from tutelage.corpus.examples import read_examples
from tutelage.corpus.study_plan import write_plan
from tutelage.study.filter.text import word_forms
from tutelage.study.folder import StudyFolder
from tutelage.study.write.vocabulary import frequent_tokens

WORDS = ("cat", "dog", "the", "it's", "runs", "a", "well")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: Any) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the cat runs and a dog runs well"], 300, special_tokens=["<|end|>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("mode", ["words", "tokens"])
def test_nothing_outside_the_vocabulary_is_written(
    study: Any, plan: Any, weights: str, tmp_path: Path, mode: str
) -> None:
    file = tmp_path / "words.txt"
    file.write_text("\n".join(WORDS))
    sampling = {"top_k": None, "top_p": 1.0, "repetition_penalty": None}
    teacher = {"endpoint": None, "weights": weights, "sampling": sampling, "max_tokens": 120, "concurrency": 16}
    vocabulary = {"words": file, "size": 12, "share": 1.0, "mode": mode}
    settings = study(
        teacher=teacher, writing={"corpus": "vocabulary", "words": 300, "wave": 16, "vocabulary": vocabulary}
    )
    folder = StudyFolder(tmp_path / "small")
    write_plan(plan, folder.plan)
    ledger = studies.study_write(settings, (), tmp_path)
    examples = list(read_examples(folder.written))
    assert ledger.words == sum(example.word_count for example in examples) >= 300
    asked = [line for line in entries(folder.requests) if "request" in line]
    if mode == "words":
        assert {word for example in examples for word in word_forms(example.text)} <= set(WORDS)
        assert all(tuple(line["constraint"]["words"]) == WORDS for line in asked)
    else:
        tokens = frequent_tokens(weights, WORDS, 12)
        assert all(tuple(line["constraint"]["tokens"]) == tokens for line in asked)
