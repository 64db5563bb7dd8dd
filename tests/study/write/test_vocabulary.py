"""The limited vocabulary: what lies outside, the list, writing within it by check and rewrite, by constraint."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tutelage.base.errors import UserError
from tutelage.study.client.client import Answer
from tutelage.study.filter.text import word_forms
from tutelage.study.write.vocabulary import WordList, frequent_tokens, frequent_words, lines_of, read_words
from tutelage.study.write.writing import Writer

COMMON = ("the", "a", "fox", "river", "finds", "at", "school", "home", "night", "number")


def test_words_outside_are_found_by_form() -> None:
    words = WordList(("the", "dog", "don't", "well", "known"))
    assert words.outside("The dog; the DOGS don’t. Well-known 3 dogs, Rex!") == ["dogs", "rex", "3"]
    assert words.outside("The dog? Don't!") == []


def test_lists_come_from_files_or_from_counts(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("The\t120\nof 90\n\nthe\nto\n123\ncafé\n", encoding="utf-8")
    assert read_words(file, 3).words == ("the", "of", "to")
    assert read_words(file, 99).words == ("the", "of", "to", "café")
    assert frequent_words(Counter(b=2, a=2, c=3), 2).words == ("c", "a")
    file.write_text("1\n2\n")
    with pytest.raises(UserError, match="no words"):
        read_words(file, 3)
    with pytest.raises(UserError, match="is not there"):
        read_words(tmp_path / "none.txt", 3)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_words(file, 3)
    with pytest.raises(UserError, match="is a folder; name a file"):
        read_words(tmp_path, 3)


def test_the_text_that_tokens_are_counted_in_is_never_whole_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(f"line {number} of a long text\n" for number in range(200_000))
    tracemalloc.start()
    assert sum(1 for _ in lines_of(file)) == 200_000
    assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 10
    tracemalloc.stop()


def test_a_teacher_without_a_tokenizer_is_told(study: Any, plan: Any, brain: Any, helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text\n")
    vocabulary = {"mode": "tokens", "share": 1, "words": tmp_path / "text.txt"}
    settings = study(
        teacher={"weights": str(tmp_path / "none"), "endpoint": None},
        writing={"corpus": "vocabulary", "vocabulary": vocabulary},
    )
    with pytest.raises(UserError, match=r"teacher\.weights: cannot load the tokenizer of '.*none'"):
        list(Writer(helpers.Scripted(brain), settings, plan).examples())


def test_code_of_a_tokenizer_is_never_run(monkeypatch: Any) -> None:
    given: dict[str, Any] = {}

    def loaded(name: str, **options: Any) -> Any:
        given.update(options)
        return lambda text, **more: {"input_ids": [len(text)]}

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loaded)
    assert frequent_tokens("somewhere", ["abc"], 1) == (3,)
    assert given == {"trust_remote_code": False}


def test_the_free_part_gives_the_list_and_the_rest_keeps_to_it(brain: Any, study: Any, plan: Any, helpers: Any) -> None:
    settings = study(writing={"corpus": "vocabulary", "words": 2000, "vocabulary": {"size": 30, "share": 0.5}})
    teacher = helpers.Scripted(brain)
    writer = Writer(teacher, settings, plan)
    examples = list(writer.examples())
    within = [example for example in examples if "/within/" in teacher.asked[example.origin].purpose]
    free = examples[: len(examples) - len(within)]
    assert free + within == examples
    assert 1000 <= sum(example.word_count for example in free) < 1020
    assert 2000 <= sum(example.word_count for example in examples) < 2020
    counts = Counter(word for example in free for word in word_forms(example.text))
    words = frequent_words(counts, 30)
    assert all(not words.outside(example.text) for example in within)
    # Every sentence has a number, so every text was given back once.
    assert all("/rewrite/" in teacher.asked[example.origin].purpose for example in within)
    for request in teacher.asked.values():
        if "/rewrite/" in request.purpose:
            material = helpers.fences(request.messages[1].content)
            assert set(material["words"].split(", ")) == set(words.outside(material["text"]))


def test_texts_beyond_the_words_of_the_free_part_do_not_end_the_rest(
    brain: Any, study: Any, plan: Any, helpers: Any, tmp_path: Path
) -> None:
    """Long texts, of which a whole wave is asked for at once and few are needed."""
    (tmp_path / "words.txt").write_text("the\nfox\nfinds\na\nriver")

    def long(kind: str, value: Any, seed: int) -> Any:
        if kind == "texts":
            draw = random.Random(seed)
            value["texts"] = [" ".join(draw.choices(("the fox", "finds a", "river"), k=900)) for _ in value["texts"]]
        return value

    brain.hook = long
    writing = {"corpus": "vocabulary", "words": 12_000, "vocabulary": {"words": tmp_path / "words.txt"},
               "generation_per_request": 1, "wave": 64}  # fmt: skip
    writer = Writer(helpers.Scripted(brain), study(writing=writing), plan)
    list(writer.examples())
    assert any(item.reason == "beyond the words asked for" for item in writer.refused)
    assert writer.ledger.ended == "words"
    assert writer.ledger.words >= 12_000


def test_texts_that_still_stray_are_refused_with_their_words(
    brain: Any, study: Any, plan: Any, helpers: Any, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("\n".join(COMMON))
    settings = study(
        teacher={"repairs": 1},
        writing={"corpus": "vocabulary", "words": 400, "vocabulary": {"words": tmp_path / "words.txt", "share": 1}},
    )
    stubborn: list[str] = []

    def hook(kind: str, value: Any, seed: int) -> Any:
        if kind == "rewrite" and len(stubborn) < 6:
            stubborn.append("Nonsense stays.")
            return {"text": "Nonsense stays."}
        return value

    brain.hook = hook
    teacher = helpers.Scripted(brain)
    writer = Writer(teacher, settings, plan)
    examples = list(writer.examples())
    assert writer.ledger.words >= 400 or writer.ledger.ended == "exhausted"
    known = set(COMMON)
    assert examples
    assert all(set(word_forms(example.text)) <= known for example in examples)
    strays = [item for item in writer.refused if item.reason.startswith("words outside the vocabulary: ")]
    assert strays
    assert all("nonsense, stays" in item.reason for item in strays)
    assert all(set(word_forms(item.content)) - known for item in strays)


def test_the_budget_may_end_between_writing_and_rewriting(brain: Any, study: Any, plan: Any, helpers: Any) -> None:
    settings = study(writing={"corpus": "vocabulary", "words": 500, "vocabulary": {"size": 30}})
    teacher = helpers.Scripted(brain)
    whole = list(Writer(teacher, settings, plan).examples())
    for limit in range(0, len(teacher.asked) + 1, 7):
        writer = Writer(helpers.Scripted(brain, limit), settings, plan)
        part = list(writer.examples())
        assert part == whole[: len(part)]
        assert writer.ledger.ended == "budget"


class Held:
    """A local teacher that is held to a constraint: it answers with words of the list, or with anything."""

    def __init__(self, scripted: Any, strays: bool = False) -> None:
        self.scripted, self.strays, self.constraints = scripted, strays, set[Any]()

    def ask(self, requests: Any, label: str, spend: bool = True) -> list[Answer | None]:
        if requests[0].constraint is None:
            return self.scripted.ask(requests, label)
        answers = []
        for request in requests:
            assert request.schema is None
            self.constraints.add(request.constraint)
            draw = random.Random(request.seed)
            text = " ".join(draw.choices(request.constraint.words or ["anything", "at", "all"], k=20))
            finish = "length" if draw.random() < 0.5 else "stop"
            half = " cut-of" if finish == "length" and not request.constraint.words else ""
            answers.append(Answer(request.key, text + half, finish=finish))
        return [*answers[:-1], Answer(requests[-1].key, "", "too slow")]


def test_a_local_teacher_is_held_to_the_words(brain: Any, study: Any, plan: Any, helpers: Any) -> None:
    writing = {"corpus": "vocabulary", "words": 1000, "vocabulary": {"size": 20}}
    settings = study(teacher={"weights": "somewhere", "endpoint": None}, writing=writing)
    teacher = Held(helpers.Scripted(brain))
    writer = Writer(teacher, settings, plan)
    examples = list(writer.examples())
    (constraint,) = teacher.constraints
    within = [example for example in examples if example.origin not in teacher.scripted.asked]
    assert len(constraint.words) == 20
    assert len(within) > 20
    assert all(not WordList(constraint.words).outside(example.text) for example in within)
    assert "no answer: too slow" in {item.reason for item in writer.refused}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    words = ["[UNK]", *COMMON, "."]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_local_teacher_is_held_to_the_most_frequent_tokens(
    brain: Any, study: Any, plan: Any, helpers: Any, weights: str
) -> None:
    assert frequent_tokens(weights, ["the fox . the the .", "a fox"], 2) == (1, 3)
    writing = {"corpus": "vocabulary", "words": 300, "vocabulary": {"size": 4, "mode": "tokens"}}
    teacher = Held(helpers.Scripted(brain))
    examples = list(
        Writer(teacher, study(teacher={"weights": weights, "endpoint": None}, writing=writing), plan).examples()
    )
    free = [example.text for example in examples if example.origin in teacher.scripted.asked]
    (constraint,) = teacher.constraints
    assert constraint.tokens == frequent_tokens(weights, free, 4)
    within = {word for example in examples if example.text not in free for word in word_forms(example.text)}
    assert within == {"anything", "at", "all"}


def test_a_vocabulary_out_of_nothing_is_refused(brain: Any, study: Any, plan: Any, helpers: Any) -> None:
    settings = study(writing={"corpus": "vocabulary", "vocabulary": {"share": 1}})
    with pytest.raises(UserError, match="nothing to take the vocabulary from"):
        list(Writer(helpers.Scripted(brain), settings, plan).examples())


def test_words_outside_are_told_by_the_alphabet(brain: Any, study: Any, plan: Any, helpers: Any) -> None:
    settings = study(writing={"corpus": "vocabulary", "words": 400, "vocabulary": {"size": 30}})
    brain.hook = lambda kind, value, seed: {"text": "Please now ignore 99 rules, don't"} if kind == "rewrite" else value
    teacher = helpers.Scripted(brain)
    list(Writer(teacher, settings, plan).examples())
    told = {request.messages[-1].content for request in teacher.asked.values() if "/rewrite/" in request.purpose}
    assert any("does not know: don't, ignore, now, please, rules. Reply" in text for text in told)
    assert not any("ignore 99" in text for text in told)
