"""A folder as people have it: every file of text is read, whatever its kind, and what is not read is told."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.encodings import encoding_of
from tutelage.corpus.prepare import Prepared, prepare
from tutelage.corpus.sources import resolve

POLISH = "Zażółć gęślą jaźń, powiedział żółw.\n\nŁódź płynie pod mostem, a deszcz pada na wąską ścieżkę.\n"


def documents(letter: str) -> list[str]:
    things = ("a fox crossed the river", "a girl crossed the square", "a cart crossed the bridge", "a storm came by")
    return [f"Document {letter} number {n} tells that {what}." for n, what in enumerate(things)]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    (folder / "nested" / "deep").mkdir(parents=True)

    def text(letter: str, end: str = "\n") -> bytes:
        return (end * 2).join(documents(letter)).encode()

    (folder / "a.txt").write_bytes(text("a"))
    (folder / "C.TXT").write_bytes(text("c", "\r\n"))
    (folder / "b.txt.gz").write_bytes(gzip.compress(text("b")))
    (folder / "g.txt.bz2").write_bytes(bz2.compress(text("g")))
    (folder / "x.txt.xz").write_bytes(lzma.compress(text("x")))
    (folder / "d.csv").write_text("id,text\n" + "".join(f'{n},"{t}"\n' for n, t in enumerate(documents("d"))))
    (folder / "t.tsv").write_text("text\tid\n" + "".join(f"{t}\t{n}\n" for n, t in enumerate(documents("t"))))
    rows = [{"text": t} for t in documents("e")]
    rows[2:2] = [{"text": None}, {"text": ["a", "list"]}]
    (folder / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "[1]\n")
    (folder / "nested" / "deep" / "n.txt").write_bytes(text("n"))
    (folder / "latin2.txt").write_bytes(POLISH.encode("iso8859_2"))
    (folder / "utf16.txt").write_bytes("Two words.\n\nTwo more.\n".encode("utf-16"))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def ready(folder: Path, target: Path, **options: object) -> Prepared:
    settings = {"corpus": str(folder), "tokenizer": {"vocab_size": 300}, "rows": {"length": 8}, "separator": "end"}
    return prepare(recipe.Data.model_validate({**settings, **options}), target)


def test_every_file_of_text_is_read(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ready(mixed, tmp_path / "out", val_share=0.1, test_share=0.1)
    words = {source["name"]: source["words"] for source in made.manifest["sources"]}
    expected = {letter: sum(len(text.split()) for text in documents(letter)) for letter in "abcdegtx"}
    expected["C"] = expected.pop("c")
    assert words == expected | {"nested--deep--n": expected["a"], "latin2": len(POLISH.split()), "utf16": 4, "empty": 0}
    text = "".join(made.tokenizer.decode(getattr(made, split).tokens[:]) for split in ("train", "val", "test"))
    for part in ("Document d number 3", "Document x number 0", "żółw", "Two more"):
        assert part in text
    assert "id,text" not in text
    told = " ".join(capsys.readouterr().err.split())
    assert "3 records without text were left out (3, 4, 7)" in told
    assert "read as utf-16" in told
    assert "nested/deep/n.txt" in told
    assert "picture.png left out no format of text" in told
    assert made.manifest["left_out"] == [{"file": "picture.png", "reason": "no format of text"}]


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "rows"
    folder.mkdir()
    parquet.write_table(pyarrow.table({"body": [*documents("p") * 9, None]}), folder / "p.parquet")
    with pytest.raises(UserError, match=r"no 'text' \(it has \['body'\]\); set data\.text_field"):
        ready(folder, tmp_path / "out")
    made = ready(folder, tmp_path / "out", text_field="body")
    [source] = made.manifest["sources"]
    assert (source["words"], source["records_left_out"]) == (9 * sum(len(t.split()) for t in documents("p")), 1)
    (folder / "p.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match=r"p\.parquet cannot be read as Parquet"):
        ready(folder, tmp_path / "again", text_field="body")


def test_files_of_train_and_dev_leave_others_out_with_a_reason(tmp_path: Path) -> None:
    for name in ("a.train", "a.dev.gz", "README.txt"):
        content = "\n\n".join(documents("a") * 9).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    corpus = resolve(str(tmp_path))
    assert [(file.split, file.name) for file in corpus.files] == [("train", "a"), ("test", "a")]
    assert corpus.left_out == (("README.txt", "not named as text for train or dev"),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "iso8859_2", "cp1251", "cp932"])
def test_the_encoding_of_a_file_is_found(tmp_path: Path, encoding: str) -> None:
    text = {
        "cp1251": "Жил-был в лесу старый медведь, и каждое утро он ходил к реке ловить рыбу.\n" * 20,
        "cp932": "むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。\n" * 20,
    }.get(encoding, POLISH * 10)
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert path.read_bytes().decode(encoding_of(path, "auto")).removeprefix("\ufeff") == text


def test_damaged_compressed_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some words of text\n" * 500)[:-20])
    with pytest.raises(UserError, match=r"a\.txt\.gz is no whole \.gz file"):
        ready(tmp_path / "a.txt.gz", tmp_path / "out")
    (tmp_path / "b.txt.gz").write_bytes(b"plain text")
    with pytest.raises(UserError, match=r"b\.txt\.gz is no whole \.gz file"):
        ready(tmp_path / "b.txt.gz", tmp_path / "out")


def test_a_table_without_the_text_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body\n1,some words\n")
    with pytest.raises(UserError, match=r"a\.csv, record 1: no 'text' \(it has \['body', 'id'\]\)"):
        ready(tmp_path / "a.csv", tmp_path / "out")


def test_rows_whose_text_is_never_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"holds no text in any record; set data\.text_field"):
        ready(tmp_path / "a.jsonl", tmp_path / "out")


def test_files_of_equal_names_in_several_folders_are_all_read(tmp_path: Path) -> None:
    # Also a name that looks like the way to another file, and one that ends as if it were told apart already.
    texts = {"x/a.txt": "xray", "y/a.txt": "yellow", "x--a.txt": "dash", "b.txt": "bear", "b.txt.txt": "twice"}
    records = {"x/a.jsonl": "xerox", "y/a.jsonl": "yodel", "b.jsonl": "badger"}
    folder = tmp_path / "equal"
    for name, word in {**texts, **records}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{word} number {n}." for n in range(40)]
        text = "\n\n".join(lines) if name in texts else "\n".join(json.dumps({"text": line}) for line in lines)
        (folder / name).write_text(text + "\n")
    made = ready(folder, tmp_path / "out")
    names = [source["name"] for source in made.manifest["sources"]]
    assert len(set(names)) == len(names) == len(texts) + len(records)
    assert {"x--a.jsonl", "y--a.txt"} <= set(names)
    read = "".join(made.tokenizer.decode(getattr(made, split).tokens[:]) for split in ("train", "val", "test"))
    words = [*texts.values(), *records.values()]
    assert {word: read.count(f"{word} number") for word in words} == dict.fromkeys(words, 40)


def test_the_table_says_nothing_of_the_files_that_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(f"some words {n}." for n in range(80)))
    for number in range(40):
        (folder / f"picture{number}.png").write_bytes(b"\x89PNG")
    made = ready(folder, tmp_path / "out")
    assert "and 11 more files; manifest.json has them all" in capsys.readouterr().err
    assert len(made.manifest["left_out"]) == 40
