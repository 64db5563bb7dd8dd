"""Zip files from the network: taken apart with care, refused when hostile."""

import stat
import zipfile

import pytest

from tutelage.base.errors import UserError
from tutelage.corpus import archive
from tutelage.corpus.archive import unpack


def make(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_members_by_name(tmp_path):
    path = make(
        tmp_path / "a.zip", {"d/10M/x.train": "ten", "d/100M/x.train": "hundred", "__MACOSX/d/10M/._x.train": "no"}
    )
    unpack(path, tmp_path / "out", {"d/10M/x.train": "x.train"})
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [("x.train", "ten")]


def test_moved_member_is_found_if_unique(tmp_path):
    path = make(tmp_path / "a.zip", {"elsewhere/x.train": "ten", "__MACOSX/x.train": "no"})
    unpack(path, tmp_path / "out", {"d/x.train": "x.train"})
    with pytest.raises(UserError, match=r"has no 'd/y.train'"):
        unpack(path, tmp_path / "out", {"d/y.train": "y.train"})


@pytest.mark.parametrize("name", ["/etc/x.train", "../x.train", "a/../../x.train", "..\\x.train"])
def test_paths_out_of_the_folder(tmp_path, name):
    path = make(tmp_path / "a.zip", {name: "bad"})
    with pytest.raises(UserError, match="refused as unsafe"):
        unpack(path, tmp_path / "out", {name: "x.train"})
    with pytest.raises(UserError, match="refused as unsafe"):
        unpack(make(tmp_path / "b.zip", {"x": "fine"}), tmp_path / "out", {"x": "../x"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_links_and_bombs(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("x.train")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="no plain file"):
        unpack(tmp_path / "a.zip", tmp_path / "out", {"x.train": "x.train"})
    make(tmp_path / "b.zip", {"x.train": b"\0" * (10 << 20)})
    with pytest.raises(UserError, match=r"grows .* times"):
        unpack(tmp_path / "b.zip", tmp_path / "out", {"x.train": "x.train"})
    monkeypatch.setattr(archive, "MAX_BYTES", 10)
    make(tmp_path / "c.zip", {"x.train": "eleven bytes"})
    with pytest.raises(UserError, match="refused as unsafe"):
        unpack(tmp_path / "c.zip", tmp_path / "out", {"x.train": "x.train"})
    assert not (tmp_path / "out").exists()


def test_damaged(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>Not found</html>")
    with pytest.raises(UserError, match="not a sound zip file"):
        unpack(tmp_path / "a.zip", tmp_path / "out", {"x": "x"})
    path = make(tmp_path / "b.zip", {"x": "some text " * 100}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a sound zip file"):
        unpack(path, tmp_path / "out", {"x": "x"})
    assert not (tmp_path / "out").exists()


def test_members_of_a_folder(tmp_path):
    names = {"r-1/data/a.jsonl": "1", "r-1/data/b.jsonl": "2", "r-1/data/c.txt": "3", "r-1/old/data.jsonl": "4"}
    path = make(tmp_path / "a.zip", {**names, "__MACOSX/data/a.jsonl": "no"})
    assert archive.list_members(path, "data", ".jsonl") == ["r-1/data/a.jsonl", "r-1/data/b.jsonl"]
    with pytest.raises(UserError, match=r"no \.csv files in a folder 'data'"):
        archive.list_members(path, "data", ".csv")
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a sound zip file"):
        archive.list_members(tmp_path / "b.zip", "data", ".csv")
