"""Which passages of which corpus go into which split, within the budgets of words."""

from __future__ import annotations

import numpy as np

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.types import Ints
from tutelage.corpus import splits
from tutelage.corpus.cleaned import CleanedFile
from tutelage.corpus.examples import read_examples
from tutelage.corpus.sources import Corpus
from tutelage.corpus.splits import SPLITS, Split


def choose(corpora: list[Corpus], cleaned: list[CleanedFile], data: recipe.Data, notes: list[str]) -> None:
    """Set for each file the passages of each split (`CleanedFile.chosen`).

    `corpora` are the recipe's own first, then those that are mixed in. Budgets larger than what is there are noted.

    Raises:
        UserError: a corpus that is mixed in has fewer words than its share.
    """
    for file in cleaned:
        membership = _splits_of(file, data)
        file.chosen = {split: membership == index for index, split in enumerate(SPLITS)}
    asked: dict[Split, float | None] = {
        "train": None if data.words is None else data.words * (1 - data.val_share),
        "val": None if data.words is None else data.words * data.val_share,
        "test": data.test_words,
    }
    for split in SPLITS:
        whole = asked[split]
        for corpus in corpora:
            mine = [file for file in cleaned if file.corpus is corpus]
            if whole is None and data.mix and split != "test":
                # Where no number is asked for, it is what the recipe's own corpus has.
                whole = float(sum(file.words_of(split) for file in mine))
            if split == "test" and not corpus.held:
                _cut(corpus, split, mine, 0.0, notes)
            elif whole is not None:
                _cut(corpus, split, mine, whole if split == "test" else whole * corpus.share, notes)


def _cut(corpus: Corpus, split: Split, mine: list[CleanedFile], budget: float, notes: list[str]) -> None:
    """Leave a corpus's files only so many words of a split, each in proportion."""
    total = sum(file.words_of(split) for file in mine)
    if budget > total and split == "train" and not corpus.held:
        raise UserError(f"data.mix: '{corpus.name}' is to give {round(budget):,} words, and has {total:,} to train on: "
                        "lower its share, or data.words")  # fmt: skip
    if budget > total:
        notes.append(f"{split}: {round(budget)} words were asked for, {total} are there and all are taken")
    elif budget < total:
        for file in mine:
            name, mask, words = f"{file.source.name}/{split}", file.chosen[split], file.words_of(split)
            mask[mask] = splits.subset(name, file.passages.words[mask], budget * words / total)


def _splits_of(file: CleanedFile, data: recipe.Data) -> Ints:
    """Return for each passage of a file the index of its split."""
    corpus = file.corpus
    if file.source.split == "test":
        return np.full(len(file.passages), SPLITS.index("test"), dtype=np.int64)
    test_share = 0.0 if corpus.brings_test or not corpus.held else data.test_share
    if corpus.carve == "hash":
        # Studies are filtered, edited and extended; the starter is what it is.
        digests = [example.id for example in read_examples(file.source.path)] if file.source.format == "study" else None
        member = splits.split_by_hash(file.source.name, file.passages, data.val_share, test_share, digests)
    else:
        cuts = splits.tail_cuts(int(file.passages.lines.sum()), data.val_share, test_share)
        file.cut(cuts)
        member = splits.split_by_tail(file.passages, cuts)
    return member.astype(np.int64)
