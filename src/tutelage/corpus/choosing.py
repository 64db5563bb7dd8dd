"""Which passages of which corpus go into which split, within the budgets of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus import splits
from tutelage.corpus.cleaned import CleanedFile
from tutelage.corpus.examples import read_examples
from tutelage.corpus.sources import Corpus, held_out_by
from tutelage.corpus.splits import SPLITS, Split


def choose(corpora: list[Corpus], cleaned: list[CleanedFile], data: recipe.Data, notes: list[str]) -> None:
    """Set for each file the passages of each split (`CleanedFile.chosen`).

    `corpora` are the recipe's own first, then those that are mixed in. Noted are budgets that are larger than what is
    there or smaller than one document, and text that could not be held out by whole documents.

    Raises:
        UserError: a corpus that is mixed in has fewer words than its share.
    """
    files = {corpus.name: [file for file in cleaned if file.corpus is corpus] for corpus in corpora}
    for corpus in corpora:
        for file, member in zip(files[corpus.name], _splits_of(corpus, files[corpus.name], data, notes), strict=True):
            file.chosen = {split: member == index for index, split in enumerate(SPLITS)}
    asked: dict[Split, float | None] = {
        "val": None if data.words is None else data.words * data.val_share,
        "test": data.test_words,
        # Last: where one document is more than the budget of val, it is taken off the words to train on.
        "train": None if data.words is None else data.words * (1 - data.val_share),
    }
    for split, whole in asked.items():
        for corpus in corpora:
            mine = files[corpus.name]
            if whole is None and data.mix and split != "test":
                # Where no number is asked for, it is what the recipe's own corpus has.
                whole = float(sum(file.words_of(split) for file in mine))
            if split == "test" and not corpus.held:
                _cut(corpus, split, mine, 0.0, notes)
            elif whole is not None:
                budget = whole if split == "test" else whole * corpus.share
                if split == "train" and data.words is not None:
                    budget = min(budget, data.words * corpus.share - sum(file.words_of("val") for file in mine))
                _cut(corpus, split, mine, budget, notes)


def _cut(corpus: Corpus, split: Split, mine: list[CleanedFile], budget: float, notes: list[str]) -> None:
    """Leave a corpus's files only so many words of a split, each in proportion."""
    total = sum(file.words_of(split) for file in mine)
    if budget > total and split == "train" and not corpus.held:
        raise UserError(f"data.mix: '{corpus.name}' is to give {round(budget):,} words, and has {total:,} to train on: "
                        "lower its share, or data.words")  # fmt: skip
    if budget > total:
        notes.append(f"{split}: {round(budget)} words were asked for, {total} are there and all are taken")
    if budget >= total:
        return
    masks = [file.chosen[split] for file in mine]
    if not budget:
        for mask in masks:
            mask[:] = False
        return
    names = [f"{file.source.name}/{split}" for file in mine]
    words = [file.passages.words[mask] for file, mask in zip(mine, masks, strict=True)]
    for mask, kept in zip(masks, splits.subset(names, words, budget), strict=True):
        mask[mask] = kept
    taken = sum(file.words_of(split) for file in mine)
    if taken > max(budget, 0):
        notes.append(f"{split}: {round(budget)} words were asked for; one passage of {taken} is the least there is")


def _splits_of(
    corpus: Corpus, mine: Sequence[CleanedFile], data: recipe.Data, notes: list[str]
) -> list[npt.NDArray[np.int8]]:
    """Return for each passage of each file of a corpus the index of its split."""
    training = [file for file in mine if file.source.split == "train"]
    test_share = 0.0 if corpus.brings_test or not corpus.held else data.test_share
    way, found = held_out_by(corpus, data.hold_out), None
    if way == "documents":
        names, passages = [file.source.name for file in training], [file.passages for file in training]
        found = splits.split_by_documents(names, passages, data.val_share, test_share)
        if found is None:
            notes.append("whole documents held out would leave less than half of the words to train on: documents are "
                         "cut at lines, the last of each file are held out")  # fmt: skip
    if found is None:
        by = _by_digests if way == "examples" else _by_lines
        found = [by(file, data.val_share, test_share) for file in training]
    members = iter(found)
    whole = np.int8(SPLITS.index("test"))
    return [next(members) if file.source.split == "train" else np.full(len(file.passages), whole) for file in mine]


def _by_digests(file: CleanedFile, val_share: float, test_share: float) -> npt.NDArray[np.int8]:
    # Studies are filtered, edited and extended; the starter is what it is.
    digests = [example.id for example in read_examples(file.source.path)] if file.source.format == "study" else None
    return splits.split_by_hash(file.source.name, file.passages, val_share, test_share, digests)


def _by_lines(file: CleanedFile, val_share: float, test_share: float) -> npt.NDArray[np.int8]:
    cuts = splits.tail_cuts(int(file.passages.lines.sum()), val_share, test_share)
    file.cut(cuts)
    return splits.split_by_tail(file.passages, cuts)
