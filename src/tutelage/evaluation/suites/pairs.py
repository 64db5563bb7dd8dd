"""Minimal pairs: as rows of files (BLiMP and its kin in many languages), and as alternating sentences (Zorro)."""

from __future__ import annotations

from importlib.resources.abc import Traversable

from tutelage.base.errors import UserError
from tutelage.base.types import Json
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.reading import read_text
from tutelage.evaluation.suites.pair_rows import ENDINGS, Columns, columns_of, pair_rows
from tutelage.evaluation.suites.questions import Paradigm, Question, json_files, optional_text, text

AS_PUBLISHED = {"syntax_semantics": "syntax/semantics", "s-selection": "argument_structure"}
"""BLiMP's files write one field in two ways, and one of the paper's 12 phenomena under two names."""


def read_pairs(folder: Traversable, columns: Columns | None = None) -> tuple[Paradigm, ...]:
    """Read the paradigms of a folder of `.jsonl`, `.csv`, `.tsv` and `.parquet` files, or of one file, sorted by name.

    One pair a row; unless `columns` are given, each file's are recognised (`pair_rows.KNOWN`). `field` and
    `linguistics_term` say what a paradigm belongs to; other keys are ignored.

    Raises:
        UserError: no folder, no such file, an empty file, a row without two non-empty sentences, or a paradigm with two
            fields; with file and line. (A pair of equal sentences is a tie; BLiMP has some.)
    """
    questions: dict[str, list[Question]] = {}
    kinds: dict[str, tuple[str | None, str | None]] = {}
    what = "minimal pairs (rows with sentence_good and sentence_bad, or other columns that are known or named)"
    for file in json_files(folder, what, ENDINGS):
        rows = list(pair_rows(file))
        of_file = columns or columns_of(rows[0][1], rows[0][0])
        for where, row in rows:
            named = (optional_text(row, key, where) for key in of_file.paradigm)
            uid = next(filter(None, named), file.name.rpartition(".")[0])
            labels = [optional_text(row, key, where) for key in ("field", "linguistics_term")]
            field, phenomenon = (AS_PUBLISHED.get(label, label) if label else None for label in labels)
            kind = (field, phenomenon)
            if kinds.setdefault(uid, kind) != kind:
                raise UserError(f"{where}: paradigm '{uid}' has field and linguistics_term {kind}, before it had "
                                f"{kinds[uid]}; give the two kinds two UIDs")  # fmt: skip
            good, bad = (Item(text(row, key, where)) for key in _in_order(of_file, row, where))
            questions.setdefault(uid, []).append(Question((good, bad)))
    return tuple(Paradigm(uid, tuple(questions[uid]), *kinds[uid]) for uid in sorted(questions))


def _in_order(columns: Columns, row: Json, where: str) -> tuple[str, str]:
    """Return the columns of the good and of the bad sentence of a row."""
    if columns.right is None:
        return columns.good, columns.bad
    said = str(row.get(columns.right)).strip()
    if said not in ("0", "1"):
        raise UserError(f"{where}: '{columns.right}' is {said!r}; it says which is right: 0 the first, 1 the second")
    return (columns.good, columns.bad) if said == "0" else (columns.bad, columns.good)


def read_zorro(folder: Traversable) -> tuple[Paradigm, ...]:
    """Read a folder of Zorro's text files (Huebner et al. 2021; github.com/phueb/Zorro, `sentences/<vocabulary>`).

    One sentence a line: the odd lines (first, third, ...) are ungrammatical, each even one is its grammatical
    counterpart, says its README. A file is a paradigm, named `<phenomenon>-<paradigm>.txt`
    (a phenomenon may have a dash itself: `island-effects-adjunct_island`). Its sentences are written
    with a space before the full stop; they are scored as they are. (UnMasked, its sequel, has good sentences first.)

    Raises:
        UserError: no folder, no text file, an odd number of lines, or an empty line.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with .txt files as Zorro has them in sentences/")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".txt")), key=lambda file: file.name)
    if not files:
        raise UserError(f"no .txt file in {folder}: Zorro's files hold a bad and a good sentence in turn, one a line")
    paradigms = []
    for file in files:
        lines = [line.strip() for line in read_text(file).rstrip().split("\n")]
        for number, line in enumerate(lines, start=1):
            if not line:
                raise UserError(f"{file}:{number} is empty: Zorro's files hold a bad and a good sentence in turn")
        if len(lines) % 2:
            raise UserError(f"{file} has {len(lines)} lines, and bad and good sentences in turn make an even number")
        pairs = zip(lines[1::2], lines[::2], strict=True)
        uid = file.name.removesuffix(".txt")
        questions = tuple(Question((Item(good), Item(bad))) for good, bad in pairs)
        paradigms.append(Paradigm(uid, questions, phenomenon=uid.rpartition("-")[0] or uid))
    return tuple(paradigms)
