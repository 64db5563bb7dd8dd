"""The tokenizer does the same before saving, after loading, and in every mode; nothing is lost unnoticed."""

import json
import random

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tutelage.base.errors import UserError
from tutelage.corpus import tokenizer
from tutelage.corpus.encoding import Encoder, Text, segments
from tutelage.corpus.reading import split_lines
from tutelage.recipe import Tokenizer as Options

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "and",
    "a",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
]


def corpus(seed=0, lines=400):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, 9))) + ".\n" for _ in range(lines)]


def made(**options):
    return tokenizer.train(corpus(), Options(vocab_size=400, **options))


def ids(tok, text):
    return tok(text)["input_ids"]


@pytest.mark.parametrize("alphabet", ["bytes", "seen"])
@pytest.mark.parametrize("prefix_space", ["none", "training", "always"])
def test_saved_and_loaded_alike(tmp_path, alphabet, prefix_space):
    from transformers import AutoTokenizer

    tok = made(alphabet=alphabet, prefix_space=prefix_space)
    tokenizer.save(tok, tmp_path / "tok")
    loaded = AutoTokenizer.from_pretrained(str(tmp_path / "tok"))
    texts = ["The fox", " the fox", "the cat\n\nsat  on", "a</s>b", "naïve ﬁ 𝄞", ""]
    assert [ids(loaded, text) for text in texts] == [ids(tok, text) for text in texts]
    assert tokenizer.tokenizer_id(loaded) == tokenizer.tokenizer_id(tok)
    assert len(loaded) == len(tok) == tok.vocab_size == tok.backend_tokenizer.get_vocab_size()
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    assert (loaded.mask_token_id, loaded.cls_token_id, loaded.sep_token_id) == (3, 4, 5)
    # The class every version of transformers knows, and none that rebuilds the pre-tokenizer.
    assert (
        json.loads((tmp_path / "tok" / "tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )
    again = tokenizer.load(str(tmp_path / "tok"))
    assert tokenizer.tokenizer_id(again) == tokenizer.tokenizer_id(
        tokenizer.load(str(tmp_path / "tok" / "tokenizer.json"))
    )


def test_prefix_space_modes():
    first = {mode: made(prefix_space=mode).tokenize("the cat") for mode in ("none", "training", "always")}
    assert first["always"] == ["Ġthe", "Ġcat"]
    assert first["none"] == ["the", "Ġcat"]
    # Trained with a space before every line, `the` never stood alone at a line's start.
    assert "".join(first["training"]) == "theĠcat"
    assert made(prefix_space="training").tokenize(" the cat") == ["Ġthe", "Ġcat"]


def test_training_is_the_references(tmp_path):
    """`Tokenizer.train` on files, as the reference calls it, gives the same vocabulary and merges."""
    text = "".join(corpus()) + "\n\nCafé ½  end"
    (tmp_path / "a.train").write_text(text, encoding="utf-8")
    reference = Tokenizer(models.BPE())
    reference.normalizer = normalizers.NFKC()
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=350, min_frequency=2, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False
    )
    reference.train([str(tmp_path / "a.train")], trainer)
    ours = tokenizer.train(split_lines(text), Options(vocab_size=350, alphabet="seen", extra_tokens=()))
    theirs, mine = (json.loads(t.to_str())["model"] for t in (reference, ours.backend_tokenizer))
    assert mine["vocab"] == theirs["vocab"]
    assert mine["merges"] == theirs["merges"]


def test_every_byte_survives():
    tok = made()
    assert tokenizer.lost_bytes(tok) == frozenset()
    text = "".join(map(chr, [*range(1, 0x250), 0x3B1, 0x4E2D, 0xAC00, 0x1D11E, 0x10FFFD]))
    text = normalizers.NFKC().normalize_str(text)
    assert tok.decode(ids(tok, text)) == text
    assert tok.decode(ids(tok, "a , b . it 's  fine !\n")) == "a , b . it 's  fine !\n"


def test_lost_bytes_are_counted():
    tok = made(alphabet="seen")
    lost = tokenizer.lost_bytes(tok)
    assert ord("Z") in lost
    assert ord("a") not in lost
    assert tok.decode(ids(tok, "fox Z fox")) == "fox  fox"
    found = list(Encoder(tok).encode([Text(3, ["fox ZZ é fox"])]))
    assert sum(encoded.lost for encoded in found) == 4


def test_small_corpus_saturates():
    tok = tokenizer.train(["ab ab\n"] * 3, Options(vocab_size=16_000))
    assert len(tok) == tok.vocab_size < 300


def test_training_is_deterministic_and_id_sees_behaviour():
    assert tokenizer.tokenizer_id(made()) == tokenizer.tokenizer_id(made())
    others = [made(), made(prefix_space="always"), made(prefix_space="none"), made(alphabet="seen")]
    others += [made(extra_tokens=()), tokenizer.train(corpus(1), Options(vocab_size=400))]
    assert len({tokenizer.tokenizer_id(tok) for tok in others}) == len(others)


def test_errors(tmp_path):
    with pytest.raises(UserError, match="extra_tokens"):
        made(extra_tokens=("<s>",))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        tokenizer.load(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"no tokenizer at '.*nothing'"):
        tokenizer.load(str(tmp_path / "nothing"))


def whole(encoder, text):
    encoding = encoder._first.encode(text, add_special_tokens=False)
    return encoding.ids


@pytest.mark.parametrize("prefix_space", ["training", "always"])
def test_pieces_equal_the_whole(prefix_space, monkeypatch):
    """Wherever texts are cut, their tokens are those of one call, whatever they hold."""
    monkeypatch.setattr("tutelage.corpus.encoding.BATCH", 50)
    encoder = Encoder(made(prefix_space=prefix_space))
    assert encoder.exact
    draw = random.Random(0)
    bits = [*"\n \t\r\u00a0\u00a8\u037a\ufe70\u0301\u2028\x0ba.'é", "\n\n", "  ", "Bc", "'s", "12", "!?", "中文", "ﬁ"]
    bits += ["the quick", " brown fox\n", "</s>", "<mask>"]
    for _ in range(1500):
        text = "".join(draw.choices(bits, k=draw.randrange(1, 50)))
        cuts = sorted(draw.choices(range(len(text) + 1), k=3))
        chunks = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        parts = list(segments(Text(7, chunks), size=draw.randrange(1, 20)))
        assert "".join(part.text for part in parts) == text
        assert [part.opens for part in parts] == [True] + [False] * (len(parts) - 1)
        assert [part.closes for part in parts] == [False] * (len(parts) - 1) + [True]
        assert sum(part.words for part in parts) == 7
        monkeypatch.setattr("tutelage.corpus.encoding.segments", lambda _, parts=parts: iter(parts))
        found = [i for encoded in encoder.encode([Text(7, chunks)]) for i in encoded.ids.tolist()]
        assert found == whole(encoder, text), repr(text)


def test_text_never_makes_reserved_tokens():
    tok = made()
    found = [i for e in Encoder(tok).encode([Text(1, ["a</s>b <mask> <pad>"])]) for i in e.ids.tolist()]
    assert not set(found) & set(range(6))
    assert tok.decode(found) == "a</s>b <mask> <pad>"


@pytest.mark.parametrize("answer", ["y", "n"])
def test_foreign_code_is_never_run(tmp_path, monkeypatch, answer):
    """Neither run nor asked about, whatever the user would say."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    settings = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["code.Theirs", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": {"AutoConfig": "code.Theirs"}}))
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    with pytest.raises(UserError, match=r"data\.tokenizer\.path: .*(needs code of its own|no tokenizer at)"):
        tokenizer.load(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [tokenizer.LONGEST, 300_000, 1_000_000])
def test_a_damaged_very_long_word_is_cut_for_training_and_told(size):
    line, notes, long = "so it begins: " + "a" * size + " end\n", [], []
    pieces = list(tokenizer._pieces(["short\n", line], long))
    assert "".join(pieces) == "short\n" + line
    assert max(len(word) for piece in pieces for word in piece.split()) == tokenizer.LONGEST
    tokenizer.train([line] * 2, Options(vocab_size=300), notes=notes)
    if size == tokenizer.LONGEST:
        assert (notes, long, len(pieces)) == ([], [], 2)
    else:
        assert long == [size]
        assert f"(2, the longest of {size:,})" in notes[0]


def test_long_lines_of_short_words_are_not_cut():
    line = "some words " * 5000 + "\n"
    assert list(tokenizer._pieces([line], [])) == [line]
