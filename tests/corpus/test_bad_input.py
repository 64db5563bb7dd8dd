"""Whatever a user's files or disk may be: a sentence that names the file, the place and the remedy."""

import errno
import os

import pytest

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus import prepare as module
from tutelage.corpus.prepare import prepare

LINES = "some words in a line of text\n" * 200


@pytest.fixture
def attempt(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()

    def run(files, target=None, **options):
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        options = {"corpus": str(folder), "tokenizer": {"vocab_size": 300}, "rows": {"length": 16}} | options
        return prepare(recipe.Data.model_validate(options), target or tmp_path / "out")

    yield run
    # Nothing half-made is left, and nothing that looks finished.
    out = tmp_path / "out"
    assert not (out / "manifest.json").exists() or not (out / ".building").exists()


def refused(attempt, tmp_path, message, files, **options):
    with pytest.raises(UserError, match=message):
        attempt(files, **options)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / ".building").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\n\0\1\2", r"a\.txt, line 2.*binary file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r"a\.txt: byte 0.*binary"),
        ("naïve text of old\n".encode("latin-1"), r"a\.txt: byte 2 \(0xef\).*data\.encoding"),
        ("text\n".encode("utf-16"), r"a\.txt: .*data\.encoding=utf-16"),
        (b"x" * (17 << 20), r"a\.txt, line 1: longer than 16 MiB"),
    ],
)
def test_files_that_are_no_text(attempt, tmp_path, content, message):
    refused(attempt, tmp_path, message, {"a.txt": content}, encoding="utf-8")


def test_missing_and_empty(attempt, tmp_path):
    refused(attempt, tmp_path, "neither a folder", {}, corpus=str(tmp_path / "nowhere"))
    refused(attempt, tmp_path, "holds no text", {})
    refused(attempt, tmp_path, r"hold no words.*a\.txt", {"a.txt": "", "b.txt": "\n \n"})


def test_an_empty_file_beside_others_is_told(attempt):
    made = attempt({"a.txt": LINES, "b.txt": ""})
    assert "b.txt holds no words and was left out" in made.manifest["notes"]


def test_bom_and_crlf_change_nothing(attempt, tmp_path):
    plain = attempt({"a.txt": LINES}, target=tmp_path / "plain")
    other = attempt({"a.txt": b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()})
    assert other.train.digest == plain.train.digest


def test_encoding_is_heeded(attempt):
    made = attempt({"a.txt": ("naïve words of old\n" * 200).encode("latin-1")}, encoding="latin-1")
    assert "naïve" in made.tokenizer.decode(made.train.tokens[:20])


def test_json_lines(attempt, tmp_path):
    good = '{"text": "some words of text here"}\n' * 200
    refused(attempt, tmp_path, r"a\.jsonl, line 201: not valid JSON", {"a.jsonl": good + "{"})
    refused(attempt, tmp_path, r"a\.jsonl, line 201: no 'text' .*data\.text_field", {"a.jsonl": good + '{"body": "x"}'})
    made = attempt({"a.jsonl": good.replace('"text"', '"body"')}, text_field="body")
    assert len(made.train.document_starts) == 180


def test_row_longer_than_the_corpus(attempt):
    with pytest.raises(
        UserError, match=r"data\.rows\.length is 1000 tokens, but the val split has only \d+ \(\d+ words\)"
    ):
        attempt({"a.txt": LINES}, rows={"length": 1000})
    # The corpus itself is fine, and kept.
    attempt({}, rows={"length": 32})


def test_literal_reserved_tokens_are_text(attempt):
    made = attempt({"a.txt": "an </s> and <mask> in text\n" * 200})
    assert int((made.train.tokens == made.tokenizer.eos_token_id).sum()) == len(made.train.document_starts)


def test_dropped_bytes_are_told(attempt, tmp_path):
    files = {"a.train": LINES, "a.dev": "words é Z\n" * 30}
    made = attempt(files, tokenizer={"vocab_size": 300, "alphabet": "seen"})
    assert made.manifest["splits"]["test"]["lost_bytes"] == 90
    assert any("90 bytes of text are not in the tokenizer's alphabet" in note for note in made.manifest["notes"])


def test_folder_that_cannot_be_written(attempt, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to"):
        attempt({"a.txt": LINES}, target=tmp_path / "file" / "out")


def test_full_disk(attempt, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.StoreWriter, "add", full)
        refused(attempt, tmp_path, "disk of .* is full", {"a.txt": LINES})
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        refused(attempt, tmp_path, "disk of .* is full", {"a.txt": LINES})
    assert attempt({"a.txt": LINES}).train.words > 0


def test_full_disk_for_real(attempt, tmp_path):
    """On a file system of 256 kB, where the test may make one."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=256k tmpfs {small} 2>/dev/null"):
        pytest.skip("only root may mount a small disk")
    try:
        with pytest.raises(UserError, match=r"disk of .* is full"):
            attempt({"a.txt": LINES * 100}, target=small / "out")
        assert not (small / "out" / "manifest.json").exists()
    finally:
        os.system(f"umount {small}")
