"""What a word is: with the marks of its letters, however they are written, in every script."""

from __future__ import annotations

import time
import unicodedata

from tutelage.study.filter.duplicates import near_duplicates
from tutelage.study.filter.overlap import find_overlap
from tutelage.study.filter.text import plain_words, word_forms
from tutelage.study.write.vocabulary import WordList, read_words


def test_marks_belong_to_words() -> None:
    for text in ("हिन्दी नदी दूध", "বাংলা ভাষা", "தமிழ் மொழி", "שָׁלוֹם עוֹלָם", "می\u200cخواهم كِتاب", "q\u0303a x̱a"):
        assert plain_words(f"{text}!") == list(word_forms(f"{text}!")) == text.split()
    # A mark without a letter is no word, and an emoji is none with its selector either.
    assert plain_words("\u0301 \u2764\ufe0f ?") == []


def test_the_same_letters_are_the_same_word() -> None:
    for text in ("Été à Zürich", "Don’t! O'Neil's", "NAÏVE", "Größe"):
        split, whole = (unicodedata.normalize(form, text) for form in ("NFD", "NFC"))
        assert plain_words(split) == plain_words(whole) == list(word_forms(split))
    assert plain_words("Été") == ["été"]


def test_numbers_are_plain_words_and_no_forms() -> None:
    assert plain_words("Well-known: 3 dogs, w3c_x") == ["well", "known", "3", "dogs", "w3c_x"]
    assert list(word_forms("Well-known: 3 dogs, w3c_x")) == ["well", "known", "dogs", "w", "c", "x"]


def test_vowel_signs_count_in_lists_duplicates_and_overlaps(tmp_path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("हिन्दी 9\nनदी 8\nदूध 7\n", encoding="utf-8")
    words = read_words(file, 10)
    assert words == WordList(("हिन्दी", "नदी", "दूध"))
    assert words.outside("नदी हाथी दौड़ा") == [unicodedata.normalize("NFC", word) for word in ("हाथी", "दौड़ा")]
    one, other = "हाथी मेरा साथी है", "हथ मर सथ ह"
    assert near_duplicates([(one, None), (other, None)], 0.8) == [None, None]
    assert find_overlap([[one]], {"suite": [other]}, 3)[0] == [()]
    assert find_overlap([[one]], {"suite": [one]}, 3)[0] != [()]


def test_a_flood_of_marks_takes_no_time() -> None:
    began = time.process_time()
    assert len(plain_words("a" + "\u0301" * 200_000 + "'" + "\u0301" * 200_000)) == 1
    assert time.process_time() - began < 1
