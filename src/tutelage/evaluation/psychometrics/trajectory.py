"""Surprisals of words at the checkpoints of a training, as entries of BabyLM's `surprisal.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

from tutelage.base.errors import UserError
from tutelage.base.types import Json, Precision
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Backend
from tutelage.evaluation.benchmarks.items import Item, encode
from tutelage.evaluation.benchmarks.measurement import Checkpoint
from tutelage.evaluation.likelihood.causal import row_limit
from tutelage.evaluation.psychometrics.acquisition_data import Contexts
from tutelage.evaluation.psychometrics.surprisal import item_surprisals
from tutelage.teaching.teachers import Ensemble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class WordSurprisal(TypedDict):
    """An entry: a word in a context, read by a checkpoint."""

    step: str
    """The checkpoint."""
    word_count: int
    """Words it was trained on."""
    target_word: str
    context_id: int
    """Number of the context among the word's."""
    context: str
    surprisal: float
    """In nats."""


def checkpoint_surprisals(
    ensemble: Ensemble,
    tokenizer: PreTrainedTokenizerFast,
    contexts: Contexts,
    name: str,
    words_seen: int,
    backend: Backend | None = None,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> list[WordSurprisal]:
    """Return the surprisal of every word in every context, in nats, as entries of a submission.

    The sum over the word's tokens behind context and space; of a masked model the pseudo-log-likelihood, one mask at a
    time, with nothing behind the word. Of a context longer than the model's learned positions the end is read; see
    `contexts_cut`. `name` is the checkpoint's; the backend `mntp` is for masked models that predict one position early;
    see `surprisals` for the other settings. A word that the tokenizer cannot write is a `UserError`.
    """
    if backend is not None and (ensemble.kind == "causal") != (backend == "causal"):
        raise UserError(f"backend '{backend}' does not fit a {ensemble.kind} model")
    asked = [(word, number, text) for word, texts in contexts.items() for number, text in enumerate(texts)]
    found = item_surprisals(ensemble, tokenizer, _items(contexts), batch_tokens, precision, backend, cut=True)
    return [
        {
            "step": name,
            "word_count": words_seen,
            "target_word": word,
            "context_id": number,
            "context": text,
            "surprisal": float(surprisal),
        }
        for (word, number, text), surprisal in zip(asked, found, strict=True)
    ]


def contexts_cut(ensemble: Ensemble, tokenizer: PreTrainedTokenizerFast, contexts: Contexts) -> int:
    """Count the contexts of which `checkpoint_surprisals` reads the end only, for want of positions."""
    limit = row_limit(ensemble)
    if limit is None:
        return 0
    rows = encode(tokenizer, _items(contexts), ensemble.kind, CONVENTIONS["2025"])
    return int((rows.lengths_R[rows.row_N] > limit).sum())


def _items(contexts: Contexts) -> list[Item]:
    return [Item(word.strip(), f"{text.strip()} ") for word, texts in contexts.items() for text in texts]


def trajectory(
    checkpoints: Iterable[Checkpoint],
    tokenizer: PreTrainedTokenizerFast,
    contexts: Contexts,
    model_name: str,
    **settings: Any,
) -> Json:
    """Return surprisals over a training in the shape of a submission's `surprisal.json`; one model in memory at a time.

    The checkpoints come in any order; `settings` are further arguments of `checkpoint_surprisals`.
    """
    results = [
        checkpoint_surprisals(at.load(), tokenizer, contexts, at.name, at.words_seen, **settings) for at in checkpoints
    ]
    return as_submission([entry for entries in results for entry in entries], model_name, len(results))


def as_submission(results: list[WordSurprisal], model_name: str, checkpoints: int) -> Json:
    """Return entries of all checkpoints as a `surprisal.json`."""
    names = {entry["step"] for entry in results}
    metadata = {"model_name": model_name, "use_bos_only": False, "total_steps": checkpoints,
                "completed_steps": len(names)}  # fmt: skip
    return {"metadata": metadata, "results": results}
