"""What is known of when children learn words: BabyLM's files for 2025 and 2026, and those of 2023.

`cdi_childes.json` has words with contexts to score them in, `cdi_human.csv` the share of children who say each word at
16 to 30 months (Wordbank: Frank et al. 2017). The task of 2023 has one table of words with their age of acquisition and
other predictors (Portelance, Duan, Frank and Lupyan 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.types import Floats
from tutelage.evaluation.benchmarks.data import find
from tutelage.evaluation.benchmarks.reading import json_file
from tutelage.evaluation.psychometrics.tables import CsvTable, read_table

AGES = tuple(range(16, 31))
"""Months at which children's vocabularies were asked for."""
CATEGORIES = ("nouns", "function_words", "predicates")

Contexts = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class AcquisitionData:
    """Words of the CDI."""

    contexts: Contexts
    """By word, texts that it follows; words without any are kept, and cannot be scored."""
    ages: Floats
    """Months, `(A,)`."""
    shares: Mapping[str, Floats]
    """By word, the share of children who say it at each age, `(A,)`; NaN where unknown."""


@dataclass(frozen=True)
class Predictors:
    """What the linear model of 2023 knows of N words beside their surprisal; numbers have the shape `(N,)`."""

    words: tuple[str, ...]
    """As texts write them; one may stand there twice, with two meanings."""
    ages: Floats
    """Of acquisition, in months."""
    categories: tuple[str, ...]
    concreteness: Floats
    """Rating from 1 to 5."""
    unigram: Floats
    """Frequencies; where `scaled`, the surprisals of the frequencies already, up to scale and origin."""
    scaled: bool


def find_acquisition() -> AcquisitionData:
    """Read the benchmark where `find` looks for it; a `UserError` where it is not on this machine, or broken."""
    folder = find("aoa")
    return AcquisitionData(read_contexts(folder / "cdi_childes.json"), *read_shares(folder / "cdi_human.csv"))


def read_contexts(path: Path) -> Contexts:
    """Read `{word: [{"context": text}, ...]}`; another shape or encoding, or an empty context, is a `UserError`."""
    content = json_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object of words with lists of contexts")
    contexts: dict[str, tuple[str, ...]] = {}
    for word, entries in content.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path}: '{word}' has no list of objects with a 'context'")
        texts = [entry.get("context") for entry in entries]
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{path}: context {number} of '{word}' is {text!r}, not a text")
        contexts[word] = tuple(str(text) for text in texts)
    if not any(contexts.values()):
        raise UserError(f"{path} has no word with a context")
    return contexts


def read_shares(path: Path) -> tuple[Floats, dict[str, Floats]]:
    """Read `cdi_human.csv`: a word, and in columns named by months the share of children who say it.

    Broken files and cells, shares outside 0 and 1, words twice and fewer than three months are a `UserError`.
    """
    table = read_table(path, ["word"])
    columns = [str(age) for age in AGES if str(age) in table.rows[0]]
    if (count := len(columns)) < 3:
        raise UserError(f"{path} has {count} columns of the months {AGES[0]} to {AGES[-1]}; at least 3 are needed")
    shares_NA = np.column_stack([table.numbers(column) for column in columns])
    outside = (shares_NA < 0) | (shares_NA > 1)
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        raise UserError(f"{path}:{row + 2}: '{columns[column]}' is {shares_NA[row, column]}, not a share from 0 to 1")
    found: dict[str, Floats] = {}
    for line, (word, shares) in enumerate(zip(table.words("word"), shares_NA, strict=True), start=2):
        if word in found:
            raise UserError(f"{path}:{line} has the word '{word}' again; remove one of its lines")
        found[word] = shares
    return np.array([float(column) for column in columns]), found


def read_predictors(path: Path) -> Predictors:
    """Read a table of 2023: BabyLM's `word_list.csv`, or a list with unigram surprisals instead of frequencies.

    Columns: `word_clean` or `definition`; `aoa` or `aoa_months`; `lexical_category` (nouns, predicates,
    function_words); `concreteness`; `frequency` or `unigram_surprisal_scaled`. A missing or broken file, column or
    cell, another category and a frequency below 1 are a `UserError`.
    """
    # BabyLM's own list puts cells with commas between bars.
    table = read_table(path, ["lexical_category", "concreteness"], barred="word_clean")
    word, age = _either(table, "word_clean", "definition"), _either(table, "aoa", "aoa_months")
    unigram = _either(table, "frequency", "unigram_surprisal_scaled")
    categories = table.words("lexical_category")
    for line, category in enumerate(categories, start=2):
        if category not in CATEGORIES:
            raise UserError(f"{path}:{line}: 'lexical_category' is '{category}' (known: {', '.join(CATEGORIES)})")
    numbers = {column: table.numbers(column) for column in (age, "concreteness", unigram)}
    for column, values in numbers.items():
        if np.isnan(values).any():
            raise UserError(f"{path}:{int(np.argmax(np.isnan(values))) + 2} has no '{column}'; fill or remove the line")
    if unigram == "frequency" and (numbers[unigram] < 1).any():
        line = int(np.argmax(numbers[unigram] < 1)) + 2
        raise UserError(f"{path}:{line}: 'frequency' is {numbers[unigram][line - 2]:g}, not a count of at least 1")
    words, scaled = tuple(table.words(word)), unigram != "frequency"
    return Predictors(words, numbers[age], tuple(categories), numbers["concreteness"], numbers[unigram], scaled)


def _either(table: CsvTable, one: str, other: str) -> str:
    for column in (one, other):
        if column in table.rows[0]:
            return column
    raise UserError(f"{table.path} has neither '{one}' nor '{other}' (its columns: {', '.join(table.rows[0])})")
