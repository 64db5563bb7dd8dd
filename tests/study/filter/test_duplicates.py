"""Near duplicates: equal to comparing every text with every other, whatever the texts."""

import random
import time

import pytest

from tutelage.study.filter.duplicates import near_duplicates
from tutelage.study.filter.text import plain_words


def triples(text):
    words = plain_words(text)
    words += [""] * (3 - len(words))
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def similarity(a, b):
    """Of two texts or pairs; a part that one of them lacks is shared by nobody."""
    least = 1.0
    for mine, yours in zip(a, b, strict=True):
        mine, yours = (set() if text is None else triples(text) for text in (mine, yours))
        if mine or yours:
            least = min(least, len(mine & yours) / len(mine | yours))
    return least


def naive(texts, threshold):
    kept, found = [], []
    for i, text in enumerate(texts):
        match = next((j for j in kept if similarity(texts[j], text) >= threshold - 1e-9), None)
        found.append(match)
        if match is None:
            kept.append(i)
    return found


def mutated(draw, words):
    words = list(words)
    for _ in range(draw.randint(0, 2)):
        words[draw.randrange(len(words))] = draw.choice("abcdefgh")
    return words[: draw.randint(1, len(words))] if draw.random() < 0.3 else words


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("letters", ["ab", "abcdefgh", "abcdefghijklmnopqrstuvwxyz"])
def test_equals_comparing_all_with_all(threshold, letters):
    draw = random.Random(f"{threshold}{letters}")
    texts = []
    for _ in range(120):
        words = [draw.choice(letters) for _ in range(draw.randint(1, 25))]
        texts.append((" ".join(words), None))
        if draw.random() < 0.5:
            texts.append((" ".join(mutated(draw, words)), None))
        if draw.random() < 0.4:
            texts.append((" ".join(mutated(draw, words)), " ".join(mutated(draw, words))))
    draw.shuffle(texts)
    found = near_duplicates(texts, threshold)
    assert [item and item.of for item in found] == naive(texts, threshold)
    for text, item in zip(texts, found, strict=True):
        assert item is None or item.similarity == pytest.approx(similarity(texts[item.of], text))


def test_case_and_punctuation_do_not_matter_but_numbers_do():
    texts = [("Don’t go, Tom!", None), ("don't go -- TOM", None), ("Room 12 is free", None), ("Room 13 is free", None)]
    assert [item and item.of for item in near_duplicates(texts, 0.8)] == [None, 0, None, None]


def test_of_pairs_both_texts_must_be_alike():
    long = "the quick brown fox jumps over the lazy dog near the river bank every single morning before sunrise"
    texts = [(long, "It is an animal."), (long, "It is a stone thing."), (long, "It is an animal!"), (long, None)]
    assert [item and item.of for item in near_duplicates(texts, 0.8)] == [None, None, 0, None]


def test_nothing_and_wordless_texts():
    assert near_duplicates([], 0.8) == []
    assert [item and item.of for item in near_duplicates([("?", None), ("a", None), ("!!", None)], 0.8)] == [
        None,
        None,
        0,
    ]


@pytest.mark.slow
def test_a_flood_costs_no_square():
    flood = [(f"my cat number {i} sat on the old red mat in the hall and looked at the cold rain all day long", None)
             for i in range(20_000)]  # fmt: skip
    # Few different words, none similar enough: the rarest triples are shared by thousands.
    draw = random.Random(0)
    crowd = [(" ".join(draw.choice("abcdef") for _ in range(30)), None) for _ in range(5_000)]
    began = time.process_time()
    found = near_duplicates(flood + crowd, 0.7)
    assert [item and item.of for item in found[:20_000]] == [None] + [0] * 19_999
    assert time.process_time() - began < 30
