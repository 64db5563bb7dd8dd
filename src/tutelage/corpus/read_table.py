"""What was read of a corpus and what was not: the table at the end of preparing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from tutelage.base.progress import console
from tutelage.base.types import Json
from tutelage.corpus.cleaned import CleanedFile
from tutelage.corpus.sources import Corpus
from tutelage.corpus.splits import SPLITS

MOST = 30
"""Files that are told one by one, those with a remark first; the manifest has them all."""


def tell(
    corpora: Sequence[Corpus], cleaned: Sequence[CleanedFile], repeats: Sequence[int], splits: Mapping[str, Json],
    unit: str,
) -> None:  # fmt: skip
    """Print the files that were read and left out, with reasons, and the words and tokens of each split.

    Args:
        repeats: documents of each file that were met before.
        splits: the manifest's entries.
        unit: what is counted as words.
    """
    rows: list[tuple[str, int, int, int, str, str]] = []
    for file, count in zip(cleaned, repeats, strict=True):
        rows.append((_shown(file), file.words, _tokens(file, splits), count, file.source.split, _remark(file)))
    rows += [(name, 0, 0, 0, "left out", why) for corpus in corpora for name, why in corpus.left_out]
    table = Table("file", unit, "tokens", "repeats", "for", "remark", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    told = sorted(rows, key=lambda row: not row[-1])[:MOST]
    for name, words, tokens, again, use, remark in told:
        counts = (f"{count:,}" if count else "" for count in (words, tokens, again))
        table.add_row(name, *counts, use, remark)
    console.print(table)
    if any(repeats):
        console.print(f"repeats: {sum(repeats):,} documents stand in the files more than once, word for word")
    if len(rows) > len(told):
        console.print(f"and {len(rows) - len(told):,} more files; manifest.json has them all")
    counts = (f"{split} {splits[split]['words']:,} {unit}, {splits[split]['tokens']:,} tokens" for split in SPLITS)
    console.print("; ".join(counts), soft_wrap=True)


def _tokens(file: CleanedFile, splits: Mapping[str, Json]) -> int:
    """Return the tokens of a file in all splits, after the budgets."""
    mine = [split for split in SPLITS if file.chosen and file.chosen[split].any()]
    return sum(splits[split]["sources"].get(file.source.name, {}).get("tokens", 0) for split in mine)


def _shown(file: CleanedFile) -> str:
    """Return a file's way from the folder of its corpus, which tells files of equal names apart."""
    folder, path = Path(file.corpus.name).expanduser(), file.source.path
    return str(path.relative_to(folder)) if path != folder and path.is_relative_to(folder) else path.name


def _remark(file: CleanedFile) -> str:
    return "; ".join(_remarks(file))


def _remarks(file: CleanedFile) -> Iterator[str]:
    if not file.words:
        yield "holds no words"
    if file.encoding != "utf-8":
        yield f"read as {file.encoding}; data.encoding names another"
    if file.left_out:
        first = ", ".join(map(str, file.left_out[:3])) + (", ..." if len(file.left_out) > 3 else "")
        yield f"{len(file.left_out)} records without text were left out ({first})"
