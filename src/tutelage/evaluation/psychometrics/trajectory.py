"""Surprisals of words at the checkpoints of a training, as entries of BabyLM's `surprisal.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

from tutelage.base.errors import UserError
from tutelage.base.types import Json
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Backend, Precision
from tutelage.evaluation.benchmarks.items import Item, encode
from tutelage.evaluation.benchmarks.measurement import Checkpoint
from tutelage.evaluation.likelihood.causal import row_limit
from tutelage.evaluation.psychometrics.acquisition_data import Contexts
from tutelage.evaluation.psychometrics.surprisal import item_surprisals
from tutelage.teaching.teachers import Ensemble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    pass


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
    `contexts_cut`.

    Args:
        ensemble: the model, or several as one.
        tokenizer: their Hugging Face fast tokenizer.
        contexts: from `read_contexts`.
        name: of the checkpoint.
        words_seen: words trained on so far.
        backend: `mntp` for masked models that predict one position early.
        batch_tokens: tokens of a batch, padding included.
        precision: `bf16` runs the model under autocast.

    Raises:
        UserError: a word that the tokenizer cannot write.
    """
    if backend is not None and (ensemble.kind == "causal") != (backend == "causal"):
        raise UserError(f"backend '{backend}' does not fit a {ensemble.kind} model")
    asked = [(word, number, text) for word, texts in contexts.items() for number, text in enumerate(texts)]
    items = _items(contexts)
    found = item_surprisals(ensemble, tokenizer, items, batch_tokens, precision, backend, cut=True)
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

    Args:
        checkpoints: in any order.
        tokenizer: of all of them.
        contexts: from `read_contexts`.
        model_name: for the record.
        settings: further arguments of `checkpoint_surprisals`.
    """
    results: list[WordSurprisal] = []
    count = 0
    for checkpoint in checkpoints:
        results += checkpoint_surprisals(
            checkpoint.load(), tokenizer, contexts, checkpoint.name, checkpoint.words_seen, **settings
        )
        count += 1
    return as_submission(results, model_name, count)


def as_submission(results: list[WordSurprisal], model_name: str, checkpoints: int) -> Json:
    """Return entries of all checkpoints as a `surprisal.json`."""
    names = {entry["step"] for entry in results}
    metadata = {"model_name": model_name, "use_bos_only": False, "total_steps": checkpoints,
                "completed_steps": len(names)}  # fmt: skip
    return {"metadata": metadata, "results": results}
