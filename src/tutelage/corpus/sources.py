"""From the name of a corpus to its files: the catalogue, the starter, local folders and files, Hugging Face datasets.

Files come in sorted order, never in the directory's, so that every machine builds the same corpus. What must be
downloaded lies in `TUTELAGE_CACHE` (default `~/.cache/tutelage`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tutelage import recipe, starter
from tutelage.base.errors import UserError, nearest
from tutelage.corpus import catalogue, huggingface
from tutelage.corpus.archive import unpack
from tutelage.corpus.catalogue import CORPORA, RELEASES, PartName
from tutelage.corpus.cleaning import PUBLISHED
from tutelage.corpus.download import download
from tutelage.corpus.encodings import OPENERS
from tutelage.corpus.tables import TableFormat

FileFormat = Literal["text", "starter", "study"] | TableFormat

_HELD_OUT = ("dev", "val", "valid", "validation", "test")
"""Names of held-out files and folders; the first kind that is there becomes the test split."""
_FORMATS: dict[str, FileFormat] = {
    ".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
}  # fmt: skip
_CARVED = "no dev or test files: the test split is another 5 % (data.test_share) of the text, beside val"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a corpus."""

    name: str  # of the source, without the suffix: `childes`
    split: Literal["train", "test"]  # what it is for; val is cut from the training files
    path: Path  # where it lies
    cleaner: str  # source whose cleaning rules apply (`cleaning.cleaner`); others are left alone
    format: FileFormat = "text"  # or JSON lines, or examples of a study: the starter's, or of a folder with a plan


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus, resolved: its files and how they are split."""

    name: str  # as the recipe gives it
    files: tuple[SourceFile, ...]  # sorted, training files first
    notes: tuple[str, ...] = ()  # for the manifest and the user
    origin_of_test: str = ""  # where its test split comes from, for the user too
    plan: Path | None = None  # the study plan that its examples are labelled after; they are held out by hash
    share: float = 1.0  # its part of the words to train on, where several are mixed
    held: bool = True  # whether it gives a test split
    left_out: tuple[tuple[str, str], ...] = ()  # files of its folder that are not read, and why

    @property
    def brings_test(self) -> bool:
        """Whether there are test files; else the test split is carved from the training files."""
        return any(file.split == "test" for file in self.files)


def held_out_by(
    corpus: Corpus, asked: Literal["auto", "documents", "lines"]
) -> Literal["examples", "documents", "lines"]:
    """Return by what held-out text is cut: examples, documents, or lines, as published for the sources of BabyLM."""
    if corpus.plan is not None:
        return "examples"
    if asked != "auto":
        return asked
    return "lines" if all(file.cleaner in PUBLISHED for file in corpus.files) else "documents"


def cache_folder() -> Path:
    """Return the folder of downloads: `TUTELAGE_CACHE`, or `~/.cache/tutelage`."""
    return Path(os.environ.get("TUTELAGE_CACHE") or "~/.cache/tutelage").expanduser()


def is_local(corpus: str) -> bool:
    """Tell whether a corpus lies in a local folder or file, whose content may change."""
    return corpus != starter.NAME and not corpus.startswith("hf:") and corpus not in CORPORA


def resolve(corpus: str, text_field: str = "text") -> Corpus:
    """Find the files of a corpus, downloading what is not in the cache.

    It is a catalogue name, `starter`, `hf:dataset[:config]` (with its text in `text_field`), or a folder's or file's
    path.

    Raises:
        UserError: unknown name, missing or empty folder, failed download, missing `datasets` extra.
    """
    if corpus == starter.NAME:
        note = "test (data.test_share) and val are whole examples drawn by hash, since the files go from theme to theme"
        return _examples(corpus, starter.example_files(), "starter", starter.plan_file(), note)
    if corpus in CORPORA:
        return _babylm(corpus)
    if corpus.startswith("hf:"):
        return _hugging_face(corpus, text_field)
    check_name(corpus)
    path = Path(corpus).expanduser()
    if path.is_file():
        return Corpus(name=corpus, files=(_source(path, "train"),), origin_of_test=_CARVED)
    return _folder(corpus, path)


def check_name(corpus: str) -> None:
    """Refuse a name that is neither a corpus of the catalogue or the hub nor a path that is there; tell the nearest."""
    known = [starter.NAME, *CORPORA]
    if is_local(corpus) and not Path(corpus).expanduser().exists():
        raise UserError(f"data.corpus: '{corpus}' is neither a folder or file here nor a corpus of the catalogue"
                        f"{nearest(corpus, known)}; the catalogue has {', '.join(known)}")  # fmt: skip


def resolve_all(data: recipe.Data, only: Collection[str] | None = None) -> list[Corpus]:
    """Find the corpora of a recipe (or `only` some): its own first, then those mixed in, whose files are renamed."""
    corpora = []
    if only is None or data.corpus in only:
        own = resolve(data.corpus, data.text_field)
        corpora.append(replace(own, share=1 - sum(one.share for one in data.mix)))
    for number, one in enumerate(data.mix, start=1):
        if only is not None and one.corpus not in only:
            continue
        other = resolve(one.corpus, data.text_field)
        renamed = tuple(replace(file, name=f"{mix_prefix(number)}{file.name}") for file in other.files)
        notes = tuple(f"{one.corpus}: {note}" for note in other.notes)
        corpora.append(replace(other, files=renamed, notes=notes, origin_of_test="", share=one.share, held=False))
    return corpora


def mix_prefix(number: int) -> str:
    """Return what the names of the files of a mixed corpus begin with; they are counted from 1."""
    return f"mix{number}-"


def _examples(corpus: str, paths: Sequence[Path], format_: FileFormat, plan: Path, note: str) -> Corpus:
    files = tuple(SourceFile(name=path.stem, split="train", path=path, cleaner="", format=format_) for path in paths)
    return Corpus(name=corpus, files=files, origin_of_test=note, plan=plan)


def _babylm(corpus: str) -> Corpus:
    year, part = CORPORA[corpus]
    train = [_source(path, "train") for path in _fetch(year, part)]
    notes = (f"licences: {'; '.join(f'{file.name}: {catalogue.LICENCES[file.cleaner]}' for file in train)}",)
    carved = part in ("dev", "test")
    test = [] if carved else [_source(path, "test") for path in _fetch(year, "dev")]
    origin = _CARVED if carved else "the test split is the corpus's dev set"
    return Corpus(name=corpus, files=(*train, *test), notes=notes, origin_of_test=origin)


def _fetch(year: int, name: PartName) -> list[Path]:
    """Return the files of one published part, from the cache or the network."""
    part = RELEASES[year][name]
    home = cache_folder() / "babylm" / str(year)
    paths = [home / name / Path(file).name for file in part.files]
    if part.archived:
        remote = part.remotes[0]
        if not all(path.exists() for path in paths):
            archive = download(remote.url, home / remote.filename, sha256=remote.sha256, size=remote.bytes)
            unpack(archive, home / name, {file: Path(file).name for file in part.files})
        return paths
    return [
        download(remote.url, path, sha256=remote.sha256, size=remote.bytes)
        for remote, path in zip(part.remotes, paths, strict=True)
    ]


def _hugging_face(corpus: str, text_field: str) -> Corpus:
    splits = huggingface.export(corpus, text_field, cache_folder() / "hf")
    files = (SourceFile(name=key, split=key, path=path, cleaner="", format="jsonl") for key, path in splits.items())
    return Corpus(name=corpus, files=tuple(files), origin_of_test="" if "test" in splits else _CARVED)


def _study(corpus: str, folder: Path, plan: Path) -> Corpus:
    if (folder / "requests.jsonl").exists():
        raise UserError(f"data.corpus: {folder} is a study; what students read is its corpus, {folder / 'corpus'}, "
                        "which `tutelage study filter` makes")  # fmt: skip
    paths = sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"data.corpus: {folder} has a plan, but no examples (*.jsonl): `tutelage study run` makes them")
    return _examples(corpus, paths, "study", plan, "test and val are whole examples drawn by hash")


def _folder(corpus: str, folder: Path) -> Corpus:
    for name in ("plan.yaml", "plan.json"):
        if (folder / name).is_file():
            return _study(corpus, folder, folder / name)
    subfolders = {path.name: path for path in folder.iterdir() if path.is_dir()}
    if "train" in subfolders:
        inside = {kind: path for kind, path in subfolders.items() if kind in ("train", *_HELD_OUT)}
        held_out = {kind: sorted({*_readable(path, kind), *_readable(path, "")}) for kind, path in inside.items()}
        train = held_out.pop("train")
    else:
        # Where files say what they are for, others (a README.txt) are not part of the corpus.
        train = _readable(folder, "train") or _readable(folder, "")
        held_out = {kind: _readable(folder, kind) for kind in _HELD_OUT}
    if not train:
        raise UserError(f"data.corpus: {folder} holds no text: it needs *.train (with *.dev) or text files "
                        f"({', '.join(_FORMATS)}, also compressed), or sub-folders train/ and dev/ with "
                        "such files")  # fmt: skip
    kind = next((kind for kind in _HELD_OUT if held_out.get(kind)), None)
    at = {"train": folder / "train", **{name: folder / name for name in _HELD_OUT}} if "train" in subfolders else {}
    sources = [_source(path, "train", at.get("train", folder)) for path in train]
    sources += [_source(path, "test", at.get(kind, folder)) for path in held_out[kind]] if kind else []
    note = f"the test split is the corpus's {kind} files" if kind else _CARVED
    left_out = _left_out(folder, {source.path for source in sources}, kind)
    return Corpus(name=corpus, files=tuple(_distinct(sources)), origin_of_test=note, left_out=left_out)


def _left_out(folder: Path, read: Collection[Path], kind: str | None) -> tuple[tuple[str, str], ...]:
    """Return the files of a folder that are not read, and why."""
    found = []
    for path in _files(folder):
        if path in read:
            continue
        is_text = _name_and_kind(path)[1] is not None
        named = f"not named as text for train or {kind}" if kind else "not named as text for train"
        found.append((str(path.relative_to(folder)), named if is_text else "no format of text"))
    return tuple(found)


def _files(folder: Path) -> list[Path]:
    """Return the files in a folder and in those below it, sorted; hidden ones are none of a corpus."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _readable(folder: Path, kind: str) -> list[Path]:
    """Return a folder's text files of a kind, sorted: `train` finds `a.train` and `a.train.txt`, '' finds `a.txt`."""
    return [path for path in _files(folder) if _name_and_kind(path)[1] == kind]


def _name_and_kind(path: Path) -> tuple[str, str | None]:
    """Take a file's name apart: its source, and `train`, `dev`, ..., '' for plain text or None for what is no text."""
    plain = _uncompressed(path)
    text = plain.suffix.lower() in _FORMATS
    name = plain.stem if text else plain.name
    stem, _, kind = name.rpartition(".")
    return (stem, kind) if stem and kind in ("train", *_HELD_OUT) else (name, "" if text else None)


def _uncompressed(path: Path) -> Path:
    """Return the name that a file has, or had before it was compressed."""
    return path.with_suffix("") if path.suffix.lower() in OPENERS else path


def _source(path: Path, split: Literal["train", "test"], folder: Path | None = None) -> SourceFile:
    """Describe a file; the name of one in a sub-folder of the corpus tells the way there."""
    stem, format_ = _name_and_kind(path)[0], _FORMATS.get(_uncompressed(path).suffix.lower(), "text")
    name = "--".join([*(path.relative_to(folder).parts[:-1] if folder else ()), stem])
    return SourceFile(name=name, split=split, path=path, cleaner=stem if format_ == "text" else "", format=format_)


def _distinct(sources: list[SourceFile]) -> Iterator[SourceFile]:
    """Give files of one split that share a name (`a.txt` and `a.jsonl`) their whole file names, after the way there.

    Where a name is still taken, it gets a number: texts are cleaned into files of these names.
    """
    count = Counter((source.split, source.name) for source in sources)
    taken = set[tuple[str, str]]()
    for source in sources:
        name = source.name
        if count[source.split, name] > 1:
            name = name.removesuffix(_name_and_kind(source.path)[0]) + source.path.name
        whole, number = name, 1
        while (source.split, name) in taken:
            number += 1
            name = f"{whole}-{number}"
        taken.add((source.split, name))
        yield replace(source, name=name)
