"""What is counted as words: between blanks, characters, bytes; and what is said where words mean nothing."""

import random

import pytest

from tutelage import recipe
from tutelage.corpus import counting, splits
from tutelage.corpus.prepare import prepare
from tutelage.corpus.reading import split_lines

ALPHABETS = {
    "Japanese": "あいうえおかきくけこ日本語学校新聞カタカナ",
    "Chinese": "我们在学校里读书写字天地人口手",
    "Thai": "กขคงจฉชซญดตถทธนบปผฝพ",
    "Lao": "ກຂຄງຈຊຍດຕຖທນບປຜຝພ",
    "Burmese": "ကခဂဃငစဆဇဈညဋဌဍဎဏတထ",
    "Khmer": "កខគឃងចឆជឈញដឋឌឍណតថ",
}
SPACED = {
    "English": ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "the", "dog", "run", "by"],
    "Korean": ["나는", "학교에", "갔다", "그리고", "책을", "읽었다", "친구와", "함께"],
    "Russian": ["мама", "мыла", "раму", "и", "пела", "песню", "о", "море"],
}


def sentence(draw, language):
    if language in SPACED:
        return " ".join(draw.choices(SPACED[language], k=12)) + "."
    return "".join(draw.choices(ALPHABETS[language], k=draw.randrange(20, 60))) + "。"


def write(folder, language, files=40, documents=5, lines=8):
    draw = random.Random(language)
    folder.mkdir()
    for number in range(files):
        texts = ("\n".join(sentence(draw, language) for _ in range(lines)) for _ in range(documents))
        (folder / f"{number:02}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return folder


def data(folder, **more):
    settings = {"corpus": str(folder), "tokenizer": {"vocab_size": 400}, "rows": {"length": 16}}
    return recipe.Data.model_validate(settings | more)


def test_units_by_example():
    made = {name: counting.unit_of(recipe.Data(unit=name)) for name in ("words", "characters")}
    made["bytes"] = counting.unit_of(recipe.Data(unit="bytes", byte_premium=2))
    text = "日本 語。 ab\n"
    assert [made[name].of(text) for name in ("words", "characters", "bytes")] == [3, 6, round(17 / 10.86)]


@pytest.mark.parametrize("unit", [{}, {"unit": "characters"}, {"unit": "bytes", "byte_premium": "zho"}])
def test_passages_count_what_the_whole_text_counts(unit):
    counted, draw = counting.unit_of(recipe.Data.model_validate(unit)), random.Random(0)
    for _ in range(50):
        kinds = ["", "  ", "a", "日本語", "some words here", "x " * 400]
        lines = draw.choices(kinds, k=draw.randrange(40))
        text = "\n".join(lines)
        indexer = splits.Indexer(counted)
        for line in split_lines(text):
            indexer.line(line)
        whole = "".join(line for line in split_lines(text) if line.strip())
        assert indexer.passages().words.sum() == counted.of(whole)
        assert indexer.passages().bytes.sum() == len(text.encode())


def test_a_budget_of_20k_characters_of_japanese_is_kept(tmp_path):
    made = prepare(data(write(tmp_path / "ja", "Japanese"), words="20K", unit="characters"), tmp_path / "out")
    taken = made.train.words + made.val.words
    # A passage is closed at the end of a line of up to 60 characters, once it holds 500.
    assert 20_000 - 2 * 560 <= taken <= 20_000
    letters = sum(len("".join(made.tokenizer.decode(store.tokens, skip_special_tokens=True).split()))
                  for store in (made.train, made.val))  # fmt: skip
    assert letters == taken


@pytest.mark.parametrize(("language", "premium"), [("English", "eng"), ("Chinese", "zho"), ("Chinese", 1.25)])
def test_a_budget_by_bytes_is_words_of_english_times_the_premium(tmp_path, language, premium):
    folder = write(tmp_path / "text", language)
    made = prepare(data(folder, words=2000, unit="bytes", byte_premium=premium), tmp_path / "out")
    factor = {"eng": 1, "zho": 0.935966}.get(premium, premium)
    asked = 2000 * 5.43 * factor
    assert asked - 2 * 550 * 5.43 * factor <= made.train.bytes + made.val.bytes <= asked
    assert made.train.words == pytest.approx(made.train.bytes / 5.43 / factor, rel=0.02)


@pytest.mark.parametrize("language", [*ALPHABETS, *SPACED])
def test_text_without_spaces_is_told_with_the_key(tmp_path, language):
    made = prepare(data(write(tmp_path / "text", language, files=3)), tmp_path / "out")
    told = [note for note in made.manifest["notes"] if "set data.unit=characters" in note]
    assert len(told) == (language in ALPHABETS)


def test_nothing_is_told_where_a_unit_is_declared(tmp_path):
    made = prepare(data(write(tmp_path / "text", "Thai", files=3), unit="characters"), tmp_path / "out")
    assert not any("data.unit" in note for note in made.manifest["notes"])


def test_the_unit_is_named_where_words_are_counted(tmp_path, capsys):
    folder = write(tmp_path / "text", "Thai", files=3)
    made = prepare(data(folder, unit="characters"), tmp_path / "out")
    told = capsys.readouterr().err
    assert f"train {made.train.words:,} characters, " in told
    assert "words" not in told.replace("\n", " ").split("for  remark")[-1]
    assert made.unit == "characters"
    assert prepare(data(folder, unit="bytes", byte_premium=3), tmp_path / "b").unit == "words by bytes"


def test_a_premium_goes_with_bytes():
    for given in ({"unit": "bytes"}, {"byte_premium": "zho"}, {"unit": "characters", "byte_premium": 1.0}):
        with pytest.raises(ValueError, match="`byte_premium` goes with `unit: bytes`"):
            recipe.Data.model_validate(given)
