"""One source file, cleaned onto the disk and known by its passages: the temporary middle of preparing a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from tutelage import recipe
from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.progress import Tracker
from tutelage.base.types import Bools, Ints
from tutelage.corpus import reading, splits
from tutelage.corpus.cleaning import clean_blocks, cleaner
from tutelage.corpus.counting import Unit, unit_of
from tutelage.corpus.encoding import Text
from tutelage.corpus.encodings import encoding_of
from tutelage.corpus.examples import Example, read_examples
from tutelage.corpus.sources import Corpus, SourceFile
from tutelage.corpus.splits import Passages, Split
from tutelage.corpus.tables import texts

OPENING = 1 << 14  # characters of a file by which its script is told
STUDIED: tuple[Literal["starter", "study"], ...] = ("starter", "study")  # formats whose records are examples of a study


@dataclass
class CleanedFile:
    """A cleaned source file and its passages, which tile it."""

    corpus: Corpus
    source: SourceFile
    path: Path
    passages: Passages
    size: int  # bytes of the original
    sha256: str  # of the original
    encoding: str  # of the original's text
    left_out: tuple[int, ...]  # records without text, by number
    unit: Unit  # what is counted as its words
    chosen: dict[Split, Bools] = field(default_factory=dict)  # the passages of each split (see `choosing`)

    @property
    def words(self) -> int:
        """Words after cleaning, or what else is counted."""
        return int(self.passages.words.sum())

    def words_of(self, split: Split) -> int:
        """Return the words of a split's passages."""
        return int(self.passages.words[self.chosen[split]].sum())

    @property
    def opening(self) -> str:
        """The first characters after cleaning."""
        with self.path.open(encoding="utf-8") as file:
            return file.read(OPENING)

    def cut(self, lines: tuple[int, int]) -> None:
        """Cut passages at two line numbers, so that each lies in one split."""
        with self.path.open("rb") as file:
            self.passages = splits.cut_at_lines(self.passages, file, lines, self.unit)

    def examples(self, split: Split) -> Iterator[Example]:
        """Yield the examples of a split's passages, each of which is a whole one."""
        wanted = set(self.passages.documents[self.chosen[split]].tolist())
        for number, example in enumerate(read_examples(self.source.path)):
            if number in wanted:
                yield example

    def texts(self, split: Split, separator: Literal["none", "end", "brackets"]) -> Iterator[Text]:
        """Yield the texts to encode, from a split's passages in their order.

        With `end`, a text is a document without the blanks around it; where passages were left out, the parts on both
        sides are documents of their own, so that nothing is joined that did not stand together. `brackets` does the
        same, and takes the two texts of a pair apart. With `none`, the file is one text.
        """
        chosen = self.chosen[split]
        if not chosen.any():
            return
        if separator == "brackets" and self.source.format in STUDIED:
            for example in self.examples(split):
                for index, text in enumerate(filter(None, (example.text, example.text_pair))):
                    yield Text(self.unit.of(text), [text.strip()], joins=index > 0)
            return
        words, starts = self.passages.words, self.passages.starts
        with self.path.open("rb") as file:
            if separator == "none":
                yield Text(int(words[chosen].sum()), self._chunks(file, starts, splits.runs(chosen)))
                return
            for first, end in splits.runs(chosen, self.passages.documents):
                count = int(words[first:end].sum())
                # Blank lines alone are no text; a few letters may be less than one word by bytes.
                if count or any(map(str.strip, self._chunks(file, starts, [(first, end)]))):
                    yield Text(count, _stripped(self._chunks(file, starts, [(first, end)])))

    def _chunks(self, file: BinaryIO, starts: Ints, runs: Iterable[tuple[int, int]]) -> Iterator[str]:
        for first, end in runs:
            file.seek(int(starts[first]))
            for passage in range(first, end):
                yield file.read(int(self.passages.bytes[passage])).decode()


def clean_file(corpus: Corpus, source: SourceFile, folder: Path, data: recipe.Data, bar: Tracker) -> CleanedFile:
    """Clean one file of a corpus into `folder`; between brackets, each example of a study stays in one passage.

    Raises:
        UserError: bytes, lines or records that are no text (see `reading`).
    """
    path = folder / f"{source.split}-{source.name}.txt"
    size, done = source.path.stat().st_size, 0
    unit = unit_of(data)
    indexer, left_out = splits.Indexer(unit), list[int]()
    encoding = "utf-8" if source.format in (*STUDIED, "parquet") else encoding_of(source.path, data.encoding)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for text in _cleaned(source, data, encoding, indexer, left_out):
            file.write(text)
            done += (step := min(len(text), size - done))
            bar.advance(step, source.name)
    bar.advance(size - done)
    digest = files.sha256(source.path)
    return CleanedFile(corpus, source, path, indexer.passages(), size, digest, encoding, tuple(left_out), unit)


def _cleaned(
    source: SourceFile, data: recipe.Data, encoding: str, indexer: splits.Indexer, left_out: list[int]
) -> Iterator[str]:
    """Yield cleaned text and tell the indexer its lines or records."""
    if source.format == "text":
        blocks = clean_blocks(reading.blocks(source.path, encoding), source.cleaner, data.cleaning)
        rest = ""
        for block in blocks:
            # A block may end inside a line where newlines were deleted.
            *lines, rest = (rest + block).split("\n")
            for line in lines:
                indexer.line(line + "\n")
            yield block
        if rest:
            indexer.line(rest)
        return
    for record in _records(source, data, encoding, left_out):
        text = record.strip("\n") + "\n\n"
        indexer.record(text, whole=data.separator == "brackets" and source.format in STUDIED)
        yield text


def _records(source: SourceFile, data: recipe.Data, encoding: str, left_out: list[int]) -> Iterator[str]:
    if source.format != "starter" and source.format != "study" and source.format != "text":
        found = texts(source.path, source.format, data.text_field, encoding, left_out)
        yield from map(cleaner(source.cleaner, data.cleaning), found)
        return
    for example in read_examples(source.path):
        # Pairs become two lines; words are joined by single spaces, so that tags stay aligned with them.
        text = "\n".join(filter(None, (example.text, example.text_pair)))
        if fault := reading.unsound(text):
            raise UserError(f"{source.path}: {fault} in the example {text[:40]!r}; take it out, or filter the corpus "
                            "first (`tutelage study filter`)")  # fmt: skip
        yield text


def _stripped(chunks: Iterable[str]) -> Iterator[str]:
    """Take the blanks off both ends of a text in chunks."""
    held, begun = "", False
    for chunk in chunks:
        text = held + chunk if begun else chunk.lstrip()
        body = text.rstrip()
        held, begun = text[len(body) :], begun or bool(body)
        if body:
            yield body
