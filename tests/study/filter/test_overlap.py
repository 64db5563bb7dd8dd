"""Overlap with evaluation sets, beside a search through everything."""

from __future__ import annotations

import random

import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.suites.sentences import evaluation_sentences
from tutelage.study.filter.filters import filter_examples
from tutelage.study.filter.overlap import SHORTEST, find_overlap
from tutelage.study.filter.text import plain_words
from tutelage.study.settings import Filters


def shared(text, sentence, ngram):
    """Whether a text has that many words of a sentence in a row, or all of a shorter one."""
    there, words = f" {' '.join(plain_words(text))} ", plain_words(sentence)
    size = min(ngram, len(words))
    rows = [f" {' '.join(words[i : i + size])} " for i in range(len(words) - size + 1)]
    return len(words) >= min(SHORTEST, ngram) and any(row in there for row in rows)


@pytest.mark.parametrize("ngram", [3, 5, 8])
def test_equals_a_search_through_everything(ngram):
    draw = random.Random(ngram)

    def sentence(longest):
        return " ".join(draw.choice("abcd") for _ in range(draw.randint(0, longest)))

    texts = [tuple(sentence(20) for _ in range(draw.randint(1, 2))) for _ in range(150)]
    suites = {"one": [sentence(12) for _ in range(40)], "two": [sentence(7) for _ in range(30)], "none": []}
    hits, found = find_overlap(texts, suites, ngram)
    for parts, item in zip(texts, hits, strict=True):
        for suite, sentences in suites.items():
            expected = any(shared(text, s, ngram) for text in parts for s in sentences)
            assert any(suite in hit.suites for hit in item) == expected
    for overlap in found:
        sentences = suites[overlap.suite]
        assert overlap.sentences == len(sentences)
        assert overlap.compared == sum(len(plain_words(s)) >= min(SHORTEST, ngram) for s in sentences)
        assert overlap.found == sum(any(shared(t, s, ngram) for parts in texts for t in parts) for s in sentences)
        assert overlap.texts == sum(overlap.suite in {name for hit in item for name in hit.suites} for item in hits)
    assert sum(overlap.found for overlap in found) > 0


def test_words_in_a_row_do_not_run_from_one_text_into_the_other():
    sentence = "the cat sat on the old red mat"
    hits, _ = find_overlap(
        [("the cat sat on", "the old red mat"), (f"So {sentence.upper()}!", "x")], {"s": [sentence]}, 8
    )
    assert [bool(item) for item in hits] == [False, True]


def test_drop_or_count(small_plan, text):
    leak = "who did the small grey dog chase through the garden"
    examples = [text(f"Tell me: {leak}?"), text("Nothing of the kind stands here at all.")]
    dropped = filter_examples(examples, small_plan, Filters(), {"suite": [leak]})
    assert dropped.kept == (examples[1],)
    assert dropped.refused[0].reason == "overlap: suite: who did the small grey dog chase through"
    kept = filter_examples(
        examples, small_plan, Filters.model_validate({"overlap": {"drop": False}}), {"suite": [leak]}
    )
    assert kept.kept == tuple(examples)
    assert kept.overlap == dropped.overlap
    assert (kept.overlap[0].found, kept.overlap[0].texts) == (1, 1)


def test_sentences_of_sets(tmp_path):
    assert len(evaluation_sentences("starter-pairs")) > 1000
    (tmp_path / "a.txt").write_text("A sentence.\n\nAnother one.\n")
    (tmp_path / "b.jsonl").write_text('{"good": "Yes, it is.", "deep": [{"er": "A sentence.\\n"}], "label": 1}\n')
    assert evaluation_sentences(str(tmp_path)) == ["A sentence.", "Another one.", "Yes, it is."]
    assert len(evaluation_sentences(str(tmp_path / "b.jsonl"))) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="to compare a corpus with"):
        evaluation_sentences(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="unknown suite 'blmp'; did you mean"):
        evaluation_sentences("blmp")


@pytest.mark.data
def test_sentences_of_real_sets(real_data):
    assert len(evaluation_sentences("blimp")) > 100_000
    assert len(evaluation_sentences("boolq")) > 1000
    assert len(evaluation_sentences("glue")) > 10_000
