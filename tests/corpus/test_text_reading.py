"""What is text is read alike whatever its bytes; what is not is refused by file and place."""

import random
import tracemalloc

import pytest

from tutelage.base.errors import UserError
from tutelage.corpus import reading, tables


def read(path, encoding="utf-8"):
    return "".join(reading.blocks(path, encoding))


def test_bom_and_newlines(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\r\nfour")
    for block in (1, 2, 3, 4, 5, 1 << 20):
        monkeypatch.setattr(reading, "BLOCK_BYTES", max(block, 4))
        assert read(path) == "one\ntwo\nthree\n\nfour"


def test_multibyte_characters_across_blocks(tmp_path, monkeypatch):
    text = "aé€𝄞\n" * 7
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    for block in range(4, 12):
        monkeypatch.setattr(reading, "BLOCK_BYTES", block)
        assert read(path) == text
        assert list(reading.lines(path)) == reading.split_lines(text)


def test_other_encodings(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("naïve\n".encode("latin-1"))
    assert read(path, "latin-1") == "naïve\n"
    path.write_bytes("naïve\n".encode("utf-16"))
    assert read(path, "utf-16") == "naïve\n"


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_wrong_encoding_names_the_byte(tmp_path, monkeypatch, bom):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 16)
    for before in range(40):
        data = bom + "ä".encode() * before + "x naïve text follows here".encode("latin-1")
        path = tmp_path / "old.txt"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read(path)
        message = str(caught.value)
        assert f"byte {len(bom) + 2 * before + 4} (0xef)" in message
        assert "old.txt" in message
        assert "data.encoding" in message


def test_utf16_is_recognised(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("words\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.txt.*utf-16.*data\.encoding=utf-16"):
        read(path)


def test_binary_is_recognised(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nELF\0\0")
    with pytest.raises(UserError, match=r"line 2.*binary"):
        read(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01")
    with pytest.raises(UserError, match=r"byte 0.*binary"):
        read(path)


def test_unknown_encoding(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"data\.encoding.*utf8x"):
        read(path, "utf8x")


def test_endless_line_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.write(b"one\ntwo\n")
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.txt, line 3: longer than 16 MiB"):
        for _ in reading.blocks(path):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\r\\ntwo"}\n\n{"text": "three", "n": 1}\n')
    assert list(tables.texts(path, "jsonl", "text", "utf-8", [])) == ["one\ntwo", "three"]
    for line, message in [
        ('{"text": "x"', "line 2: not valid JSON"),
        ('{"body": "x"}', r"line 2: no 'text' \(it has \['body'\]\).*data\.text_field"),
        ('{"text": "a\\u0000"}', "line 2: a NUL"),
        ("[" * 100_000, "line 2: not valid JSON"),
    ]:
        path.write_text('{"text": "x"}\n' + line + "\n")
        with pytest.raises(UserError, match=message):
            list(tables.texts(path, "jsonl", "text", "utf-8", []))
    left_out: list[int] = []
    path.write_text('{"text": "x"}\n[1]\n{"text": 3}\n{"text": null}\n{"text": "y"}\n')
    assert list(tables.texts(path, "jsonl", "text", "utf-8", left_out)) == ["x", "y"]
    assert left_out == [2, 3, 4]


def test_lines_only_end_at_newlines():
    text = "a\x0bb\x0cc\x85d\u2028e\n\nf"
    assert reading.split_lines(text) == ["a\x0bb\x0cc\x85d\u2028e\n", "\n", "f"]
    draw = random.Random(0)
    for _ in range(100):
        text = "".join(draw.choices("ab\n", k=draw.randrange(20)))
        assert "".join(reading.split_lines(text)) == text
