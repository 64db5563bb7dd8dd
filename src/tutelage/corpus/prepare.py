"""Words in, token stores out: read and clean each file, split, train the tokenizer, encode.

Everything is built in `<folder>/.building` and moved into place with the manifest last, so that a killed run leaves
nothing that looks finished; the next one starts again (downloads are kept). A finished folder is used as it is if its
settings are the same, and refused with the differences if not. `<folder>/lock` is held while building; who comes second
waits and uses the result.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tutelage import __version__, recipe
from tutelage.base import files
from tutelage.base.checksums import FileDigest, damage, digests
from tutelage.base.errors import OtherSettings, UserError
from tutelage.base.progress import console, progress
from tutelage.base.types import Json
from tutelage.corpus import aside, counting, tokenizer, tokens
from tutelage.corpus.choosing import choose
from tutelage.corpus.cleaned import STUDIED, CleanedFile, clean_file
from tutelage.corpus.differences import METHOD, described, differences, labelled_tasks, settings_of
from tutelage.corpus.encoding import Encoder
from tutelage.corpus.labels import FILES, LabelTask, LabelWriter
from tutelage.corpus.read_table import tell
from tutelage.corpus.reading import split_lines
from tutelage.corpus.repeats import repeats_of, shared_documents
from tutelage.corpus.sources import Corpus, resolve_all
from tutelage.corpus.splits import SPLITS, Split
from tutelage.corpus.tokens import StoreWriter, TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BUILDING = ".building"
PROBE_LINES = 200
"""Lines of the corpus on which a tokenizer is compared with itself as saved."""
_ENDS = (".bin", ".documents.npy", *(f".{name}.npy" for name in FILES))
_PARTS = ("tokenizer", *(f"{split}{end}" for split in SPLITS for end in _ENDS))


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to train on."""

    folder: Path
    tokenizer: PreTrainedTokenizerFast
    train: TokenStore
    val: TokenStore
    test: TokenStore
    manifest: Json  # settings, sources, counts, hashes and notes

    @property
    def unit(self) -> str:
        """What is counted as words, by its name in tables."""
        return counting.label(self.manifest["settings"].get("unit", "words"))

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Prepared:
        """Open what `prepare` made; `verify` also checks all hashes.

        Raises:
            UserError: nothing there, damaged files, or a tokenizer that is not the one the tokens were made with.
        """
        manifest = tokens.read_manifest(folder)
        stores = {split: TokenStore.open(folder, split, verify=verify) for split in SPLITS}
        again = f"delete {folder} and prepare again"
        files_of = {name: FileDigest(**of) for name, of in manifest.get("tokenizer_files", {}).items()}
        if fault := damage(folder, files_of):
            raise UserError(f"{folder}: {fault}; it is not the tokenizer these tokens were made with: {again}")
        try:
            loaded = tokenizer.load(str(folder / "tokenizer"))
        except UserError as error:
            raise UserError(f"{folder / 'tokenizer'} cannot be read: {again}. {error}") from error
        if tokenizer.tokenizer_id(loaded) != manifest["tokenizer_id"]:
            raise UserError(f"{folder / 'tokenizer'} is not the tokenizer these tokens were made with: {again}"
                            )  # fmt: skip
        return cls(folder, loaded, manifest=manifest, **stores)

    def check_test(self, rows: recipe.Rows) -> None:
        """Refuse a test split that does not fill one row; for recipes that evaluate `test`."""
        if fault := _fault("test", self.test, rows):
            raise UserError(f"{fault}, or leave `test` out of `evaluate`")


def prepare(data: recipe.Data, folder: Path) -> Prepared:
    """Make the corpus of a recipe ready in `folder`, or open it if that was done before.

    A test split too short for the rows is only told here: `Prepared.check_test` refuses it where it is needed.

    Raises:
        UserError: a corpus that is missing, empty or no text; a folder prepared with other settings; a disk that is
            full or read-only; rows that the train or val split does not fill.
    """
    settings = settings_of(data)
    if (folder / "manifest.json").exists() or not _build_alone(data, settings, folder):
        _refuse_differences(folder, settings, data)
    prepared = Prepared.open(folder)
    if fault := _fault("train", prepared.train, data.rows) or _fault("val", prepared.val, data.rows):
        raise UserError(fault)
    fault = _fault("test", prepared.test, data.rows)
    if fault and os.environ.get("RANK", "0") == "0":
        console.print(f"the test split is too short to be measured: {fault}")
    return prepared


def prepare_aside(data: recipe.Data, folder: Path) -> Prepared:
    """Make a corpus ready only to be looked at: open that in `folder` if it is the same, else one in the cache.

    `prepare` takes it over from there.
    """
    if (folder / "manifest.json").exists():
        try:
            return prepare(data, folder)
        except OtherSettings as error:
            console.print(f"{error.found}. A run with these settings needs another name (name=...)")
    place = aside.folder_of(settings_of(data))
    with suppress(OtherSettings):
        return prepare(data, place)
    # The texts have changed since.
    shutil.rmtree(place)
    return prepare(data, place)


def _build_alone(data: recipe.Data, settings: Json, folder: Path) -> bool:
    """Build while no other process does; return False if another one has built meanwhile."""
    waiting = f"waiting for another process that prepares {folder}"
    with files.locked(folder / "lock", str(folder), waiting=waiting), files.explain_disk_errors(folder):
        if (folder / "manifest.json").exists():
            return False
        files.sweep(folder)
        if _is_same(place := aside.folder_of(settings), settings, data) and place != folder:
            aside.take(place, folder)
            return True
        try:
            _build(data, settings, folder)
        finally:
            shutil.rmtree(folder / _BUILDING, ignore_errors=True)
    return True


def _is_same(folder: Path, settings: Json, data: recipe.Data) -> bool:
    """Tell whether a folder holds just this corpus."""
    return (folder / "manifest.json").is_file() and not differences(folder, settings, data)


def _refuse_differences(folder: Path, settings: Json, data: recipe.Data) -> None:
    if found := differences(folder, settings, data):
        raise OtherSettings(f"{folder} was prepared differently: {'; '.join(found)}",
                            ". Put it back, give the new run another name (name=...), or delete "
                            f"{folder} (and the models trained on it)")  # fmt: skip


def _fault(name: Split, store: TokenStore, rows: recipe.Rows) -> str | None:
    """Return why a split does not fill one row, and what helps."""
    if rows.kind == "chunks" and len(store) < rows.length:
        return (f"data.rows.length is {rows.length} tokens, but the {name} split has only {len(store)} "
                f"({store.words} words): take shorter rows, `kind: examples`, or more text")  # fmt: skip
    if rows.kind == "examples" and not np.any(np.diff(np.append(store.document_starts, len(store))) > 1):
        return (f"data.rows.kind is examples, but the {name} split holds no text of two tokens or more "
                f"({store.words} words): take more text")  # fmt: skip
    return None


def _build(data: recipe.Data, settings: Json, folder: Path) -> None:
    corpora = resolve_all(data)
    building = folder / _BUILDING
    shutil.rmtree(building, ignore_errors=True)
    (building / "clean").mkdir(parents=True)
    everything, notes = _clean(corpora, data, building / "clean")
    cleaned, repeats = [file for file in everything if file.words], repeats_of(everything)
    choose(corpora, cleaned, data, notes)
    notes += shared_documents(cleaned)
    tasks = labelled_tasks(corpora, data)
    made = _make_tokenizer(cleaned, data, notes)
    tokenizer.save(made, building / "tokenizer", list(islice(_training_lines(cleaned, data), PROBE_LINES)))
    if data.tokenizer.kind == "bpe" and len(made) < data.tokenizer.vocab_size:
        notes.append(f"the vocabulary is full at {len(made)} tokens: no more pairs occur often enough")
    frame = _frame(made, data)
    encoder = Encoder(made)
    if not encoder.exact:
        notes.append("this tokenizer may split the places where long texts are cut in another way than the whole text")
    entries, outside = _encode(cleaned, data, encoder, building, tokenizer.vocabulary_size(made), frame, tasks)
    if outside:
        notes.append(f"{outside} labels are not in the plan, or of another kind of text, and were left out")
    lost = {key: sum(entry[key] for entry in entries.values()) for key in ("lost_bytes", "unknown_tokens")}
    if lost["lost_bytes"]:
        notes.append(f"{lost['lost_bytes']} bytes of text are not in the tokenizer's alphabet and were dropped")
    if lost["unknown_tokens"]:
        notes.append(f"{lost['unknown_tokens']} tokens are the tokenizer's unknown token")
    packages = ("tokenizers", "transformers", "numpy")
    versions = {"tutelage": __version__, "python": platform.python_version()}
    manifest = {
        "format": tokens.FORMAT,
        "method": METHOD,
        "settings": settings,
        "tokenizer_id": tokenizer.tokenizer_id(made),
        "tokenizer_files": {name: asdict(of) for name, of in digests(building, "tokenizer").items()},
        "vocab_size": tokenizer.vocabulary_size(made),
        "splits": entries,
        "sources": [_describe(file, count) for file, count in zip(everything, repeats, strict=True)],
        "left_out": [{"file": name, "reason": why} for corpus in corpora for name, why in corpus.left_out],
        "notes": notes,
        "versions": versions | {name: metadata.version(name) for name in packages},
    } | ({"tasks": described(tasks)} if tasks else {})
    _move_into_place(building, folder)
    files.write_json(folder / "manifest.json", manifest)
    tell(corpora, everything, repeats, entries, counting.label(data.unit))
    for note in notes:
        console.print(f"corpus {corpora[0].name}: {note}", soft_wrap=True)


def _clean(corpora: list[Corpus], data: recipe.Data, folder: Path) -> tuple[list[CleanedFile], list[str]]:
    """Clean every file; a note tells of empty ones."""
    cleaned = list[CleanedFile]()
    notes = [note for corpus in corpora for note in (*corpus.notes, corpus.origin_of_test) if note]
    total = sum(file.path.stat().st_size for corpus in corpora for file in corpus.files)
    with progress("clean", total, "B") as bar:
        for corpus in corpora:
            found = [clean_file(corpus, source, folder, data, bar) for source in corpus.files]
            cleaned += found
            notes += [f"{file.source.path.name} holds no words and was left out" for file in found if not file.words]
            if not any(file.words for file in found if file.source.split == "train"):
                raise UserError(f"data.corpus: the training files of '{corpus.name}' hold no words "
                                f"({', '.join(str(file.path) for file in corpus.files)})")  # fmt: skip
            share = counting.unspaced_share(file.opening for file in found)
            if data.unit == "words" and share > 0.5:
                notes.append(f"'{corpus.name}' is written without spaces ({share:.0%} of its letters are), so that "
                             "counts of words between blanks mean nothing: set data.unit=characters, or "
                             "data.unit=bytes with data.byte_premium")  # fmt: skip
    return cleaned, notes


def _make_tokenizer(cleaned: list[CleanedFile], data: recipe.Data, notes: list[str]) -> PreTrainedTokenizerFast:
    if data.tokenizer.path is not None:
        return tokenizer.load(data.tokenizer.path)

    with progress("train tokenizer", sum(file.words_of("train") for file in cleaned), "words") as bar:
        lines = _training_lines(cleaned, data, bar.advance)
        return tokenizer.train(lines, data.tokenizer, data.separator == "brackets", notes)


def _training_lines(
    cleaned: list[CleanedFile], data: recipe.Data, advance: Callable[[float], object] = lambda words: None
) -> Iterator[str]:
    """Yield the training text by lines, and tell how many words it was so far."""
    for file in cleaned:
        for text in file.texts("train", data.separator):
            for chunk in text.chunks:
                yield from split_lines(chunk)
            advance(text.words)


def _frame(made: PreTrainedTokenizerFast, data: recipe.Data) -> tuple[int | None, int | None]:
    """Return the tokens that open a document and close a text."""
    if data.separator == "none":
        return None, None
    if data.separator == "brackets":
        if made.cls_token_id is None or made.sep_token_id is None:
            raise UserError(f"data.separator: the tokenizer '{data.tokenizer.path}' has no cls and sep token to put "
                            "around texts; set data.separator=end")  # fmt: skip
        return int(made.cls_token_id), int(made.sep_token_id)
    if made.eos_token_id is None:
        raise UserError(f"data.separator: the tokenizer '{data.tokenizer.path}' has no end token to close documents "
                        "with; set data.separator=none")  # fmt: skip
    return None, int(made.eos_token_id)


def _encode(cleaned: list[CleanedFile], data: recipe.Data, encoder: Encoder, folder: Path, vocab_size: int,
            frame: tuple[int | None, int | None],
            tasks: tuple[LabelTask, ...]) -> tuple[dict[str, Json], int]:  # fmt: skip
    """Write each split's tokens and labels; return the manifest's entries, and how many labels were left out."""
    entries: dict[str, Json] = {}
    outside = 0
    with progress("encode", sum(file.words_of(split) for file in cleaned for split in SPLITS), "words") as bar:
        for split in SPLITS:
            writer = StoreWriter(folder, split, encoder, vocab_size, frame[1], frame[0])
            labels = LabelWriter(folder, split, tasks) if tasks else None
            for file in (file for file in cleaned if file.chosen[split].any()):
                counts = writer.add(file.source.name, file.texts(split, data.separator))
                bar.advance(counts.words, f"{split} {file.source.name}")
                if labels is not None and file.source.format in STUDIED:
                    labels.add(file.examples(split), writer.starts[-1].tolist(), encoder)
                elif labels is not None:
                    labels.skip(counts.documents)
            entries[split] = writer.finish()
            if labels is not None:
                entries[split]["labels"] = labels.finish()
                outside += labels.outside
    return entries, outside


def _move_into_place(building: Path, folder: Path) -> None:
    """Flush what was built and move it up; the folder counts as prepared only once it has a manifest."""
    shutil.rmtree(building / "clean")
    files.sync_files(building)
    for name in _PARTS:
        target = folder / name
        if target.is_dir():
            shutil.rmtree(target)
        if (building / name).exists():
            (building / name).replace(target)
    files.sync_folder(folder)


def _describe(file: CleanedFile, repeats: int) -> Json:
    described = {key: getattr(file.source, key) for key in ("name", "split", "format", "cleaner")}
    lines = int(file.passages.lines.sum())
    described |= {"encoding": file.encoding, "records_left_out": len(file.left_out)}
    described |= {"documents": int((file.passages.document_words > 0).sum()), "repeated_documents": repeats}
    return described | {"bytes": file.size, "sha256": file.sha256, "words": file.words, "lines": lines}
