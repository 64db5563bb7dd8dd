"""The token store: a split's tokens on disk, read through the page cache, and a manifest with their digests.

`<split>.bin` holds raw little-endian uint16 (uint32 from 65,536 tokens of vocabulary on), `<split>.documents.npy` the
offset at which each document begins, and beside them what is known of the documents (`labels`); `manifest.json` counts
and hashes everything. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.types import Ints, Json
from tutelage.corpus.encoding import Encoder, Text
from tutelage.corpus.labels import Labels, damaged, load_array

FORMAT = 1  # version of the layout; another one is refused


@dataclass
class TokenCounts:
    """What a store, or one source's part of it, holds."""

    tokens: int = 0
    words: int = 0  # whitespace words
    documents: int = 0
    bytes: int = 0  # UTF-8 bytes of the text that was encoded (for bits per byte)
    lost_bytes: int = 0  # bytes the tokenizer could not encode and dropped
    unknown_tokens: int = 0  # unknown tokens, where the tokenizer has one

    def add(self, other: TokenCounts) -> None:
        """Add another's counts to these."""
        for key, value in asdict(other).items():
            setattr(self, key, getattr(self, key) + value)


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the narrowest little-endian type that holds a vocabulary's ids."""
    return np.dtype("<u2") if vocab_size <= 65_535 else np.dtype("<u4")


class StoreWriter:
    """Writes one split's tokens as they come; the caller writes the manifest with what `finish` returns.

    Args:
        vocab_size: decides the width of a token on disk.
        end_id: token that closes every text, or None to let documents follow one another.
        begin_id: token that opens every document, if there is one.
    """

    def __init__(self, folder: Path, split: str, encoder: Encoder, vocab_size: int, end_id: int | None,
                 begin_id: int | None = None) -> None:  # fmt: skip
        self._folder, self._split, self._encoder = folder, split, encoder
        self._end_id, self._begin_id = end_id, begin_id
        self._dtype = token_dtype(vocab_size)
        self._file = (folder / f"{split}.bin").open("wb")
        self._digest = hashlib.sha256()
        self.starts: list[Ints] = []  # offset of each document so far, an array for each call of `add`
        self._total, self._sources = TokenCounts(), dict[str, TokenCounts]()

    def add(self, source: str, texts: Iterable[Text]) -> TokenCounts:
        """Encode and append the documents of one source; return their counts."""
        counts, starts = TokenCounts(), list[int]()
        for encoded in self._encoder.encode(texts):
            segment, ids = encoded.segment, encoded.ids
            if segment.opens and not segment.joins:
                starts.append(self._total.tokens + counts.tokens)
                counts.documents += 1
            counts.words += segment.words
            if self._encoder.unknown_id is not None:
                counts.unknown_tokens += int((ids == self._encoder.unknown_id).sum())
            if segment.opens and not segment.joins and self._begin_id is not None:
                ids = np.append(np.uint32(self._begin_id), ids)
            if segment.closes and self._end_id is not None:
                ids = np.append(ids, np.uint32(self._end_id))
            data = ids.astype(self._dtype).tobytes()
            self._file.write(data)
            self._digest.update(data)
            counts.tokens += len(ids)
            counts.bytes += len(segment.text.encode())
            counts.lost_bytes += encoded.lost
        self.starts.append(np.asarray(starts, dtype=np.int64))
        self._sources.setdefault(source, TokenCounts()).add(counts)
        self._total.add(counts)
        return counts

    def finish(self) -> Json:
        """Close the files and return the split's entry of the manifest."""
        self._file.close()
        documents = self._folder / f"{self._split}.documents.npy"
        starts = np.concatenate(self.starts) if self.starts else np.zeros(0, dtype=np.int64)
        np.save(documents, starts, allow_pickle=False)
        return asdict(self._total) | {
            "dtype": self._dtype.name,
            "sha256": {"tokens": self._digest.hexdigest(), "documents": files.sha256(documents)},
            "sources": {name: asdict(counts) for name, counts in self._sources.items()},
        }


@dataclass
class TokenStore:
    """One split's tokens, memory-mapped."""

    tokens: npt.NDArray[np.unsignedinteger[Any]] = field(repr=False)  # all ids in a row
    document_starts: Ints = field(repr=False)  # offset of each in `tokens`; with separator `none`, where files begin
    words: int  # whitespace words of the text
    bytes: int  # UTF-8 bytes of the text
    vocab_size: int  # of the tokenizer; every id is below it
    tokenizer_id: str  # digest of the tokenizer's behaviour (`tokenizer.tokenizer_id`)
    digest: str  # sha256 of the token file
    labels: Labels | None = None  # of its documents, if they have any

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def open(cls, folder: Path, split: str, *, verify: bool = False) -> TokenStore:
        """Open one split of a prepared corpus; `verify` also checks the hashes (reads everything once).

        Raises:
            UserError: nothing prepared there, another format, or files that do not fit the manifest.
        """
        manifest = read_manifest(folder)
        if split not in manifest["splits"]:
            raise UserError(f"{folder} has no split '{split}' (it has {sorted(manifest['splits'])})")
        entry = manifest["splits"][split]
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        path, documents = folder / f"{split}.bin", folder / f"{split}.documents.npy"
        found, expected = path.stat().st_size if path.exists() else "no", entry["tokens"] * dtype.itemsize
        if found != expected:
            raise damaged(path, f"found {found} bytes, expected {expected}")
        if verify and files.sha256(path) != entry["sha256"]["tokens"]:
            raise damaged(path, "another sha256")
        starts = np.array(load_array(documents, entry["sha256"]["documents"] if verify else None), dtype=np.int64)
        if len(starts) != entry["documents"]:
            raise damaged(documents, f"found {len(starts)} documents, expected {entry['documents']}")
        # An empty file cannot be mapped.
        tokens = np.memmap(path, dtype=dtype, mode="r") if entry["tokens"] else np.zeros(0, dtype=dtype)
        labels = Labels.open(folder, split, manifest, verify=verify)
        return cls(tokens, starts, entry["words"], entry["bytes"], manifest["vocab_size"], manifest["tokenizer_id"],
                   entry["sha256"]["tokens"], labels)  # fmt: skip


def read_manifest(folder: Path) -> Json:
    """Read the manifest of a prepared corpus."""
    path = folder / "manifest.json"
    if not path.exists():
        raise UserError(f"{folder} holds no prepared corpus (no manifest.json): run `tutelage prepare` first")
    manifest = files.read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or found != FORMAT:
        raise UserError(f"{path} has format {found}, this version reads {FORMAT}: delete {folder} and prepare again")
    return manifest
