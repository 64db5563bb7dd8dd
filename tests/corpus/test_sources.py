"""From a corpus's name to its files."""

import json
import sys
import types

import pytest

from tutelage import starter
from tutelage.base.errors import UserError
from tutelage.corpus import catalogue, cleaning, huggingface, sources


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("some words\n")


def found(folder):
    return [(file.split, file.name, file.format) for file in sources.resolve(str(folder)).files]


def test_train_and_dev_files(tmp_path):
    write(tmp_path, "b.train", "a.train", "a.dev", "b.dev", "a.test", "README.txt", ".hidden.train")
    assert [(split, name) for split, name, _ in found(tmp_path)] == [
        ("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")
    ]  # fmt: skip


def test_names_of_2026(tmp_path):
    write(tmp_path, "childes.train.txt", "childes.dev.txt")
    assert found(tmp_path) == [("train", "childes", "text"), ("test", "childes", "text")]
    assert sources.resolve(str(tmp_path)).files[0].cleaner == "childes"


def test_test_files_where_there_is_no_dev(tmp_path):
    write(tmp_path, "a.train", "a.test")
    assert found(tmp_path) == [("train", "a", "text"), ("test", "a", "text")]


def test_subfolders(tmp_path):
    write(tmp_path, "train/x.txt", "train/y.jsonl", "dev/x.txt", "test/x.txt")
    assert found(tmp_path) == [("train", "x", "text"), ("train", "y", "jsonl"), ("test", "x", "text")]


def test_plain_folder_and_file(tmp_path):
    write(tmp_path, "b.txt", "a.jsonl", "a.txt", "picture.png")
    corpus = sources.resolve(str(tmp_path))
    assert [file.name for file in corpus.files] == ["a.jsonl", "a.txt", "b"]
    assert not corpus.brings_test
    assert "another 5 %" in corpus.origin_of_test
    assert found(tmp_path / "b.txt") == [("train", "b", "text")]


def test_errors(tmp_path):
    with pytest.raises(UserError, match="did you mean 'babylm-2024-10m'"):
        sources.resolve("babylm-2024-10")
    with pytest.raises(UserError, match="neither a folder"):
        sources.resolve(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="holds no text"):
        sources.resolve(str(tmp_path))


def test_starter():
    corpus = sources.resolve("starter")
    assert [file.name for file in corpus.files] == list("abcdef")
    assert sources.held_out_by(corpus, "lines") == "examples"
    assert len(list(starter.pairs_folder().glob("*.jsonl"))) == 16
    assert json.loads(starter.plan_file().read_text())["lessons"]


def test_every_source_of_babylm_is_held_out_by_lines():
    names = {name for release in catalogue.RELEASES.values() for part in release.values() for name in part.files}
    assert {name.split("/")[-1].split(".")[0] for name in names} <= set(cleaning.PUBLISHED)


def test_catalogue_is_complete():
    parts = ("10m", "100m", "dev", "test")
    assert set(catalogue.CORPORA) == {f"babylm-{year}-{part}" for year in range(2023, 2027) for part in parts}
    for release in catalogue.RELEASES.values():
        for part in release.values():
            assert part.archived or len(part.files) == len(part.remotes)
            assert all(remote.url.startswith("https://") for remote in part.remotes)
    for year, names in ((2023, catalogue.SOURCES_2023), (2024, catalogue.SOURCES_2024)):
        assert set(names) <= set(catalogue.LICENCES), year


def test_catalogue_corpus_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    asked = []

    def fake_download(url, target, *, sha256, size):
        asked.append(url)
        write(target.parent, target.name)
        return target

    monkeypatch.setattr(sources, "download", fake_download)
    corpus = sources.resolve("babylm-2026-10m")
    assert len(asked) == 12
    assert [file.split for file in corpus.files] == ["train"] * 6 + ["test"] * 6
    assert {file.cleaner for file in corpus.files} == set(catalogue.SOURCES_2024)
    monkeypatch.setattr(sources, "unpack", lambda archive, target, wanted: write(target, *wanted.values()))
    asked.clear()
    corpus = sources.resolve("babylm-2023-10m")
    assert len(corpus.files) == 20
    assert len(set(asked)) == 1
    asked.clear()
    sources.resolve("babylm-2023-10m")
    assert not asked


def test_hugging_face_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface, "_revision", lambda dataset: "abc")
    library = types.SimpleNamespace(
        load_dataset=lambda name, config, revision, streaming: {
            "train": [{"body": "one\ntwo"}, {"body": "three"}], "test": [{"body": "t"}], "validation": [{"body": "v"}]
        }
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "datasets", library)
    corpus = sources.resolve("hf:some/set:en", "body")
    assert [(file.split, file.format) for file in corpus.files] == [("train", "jsonl"), ("test", "jsonl")]
    assert json.loads(corpus.files[1].path.read_text()) == {"body": "v"}
    with pytest.raises(UserError, match=r"data.text_field"):
        sources.resolve("hf:some/set:en", "text")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert sources.resolve("hf:some/set:en", "body") == corpus
    with pytest.raises(UserError, match=r"pip install 'tutelage\[data\]'"):
        sources.resolve("hf:other/set")
