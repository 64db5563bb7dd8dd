"""Each text and each label is taken or refused, once, for the right reason; floods and hostile text included."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest

from tutelage import starter
from tutelage.corpus.examples import Example, read_examples
from tutelage.corpus.study_plan import check_plan, starter_plan
from tutelage.study.filter.filters import filter_examples
from tutelage.study.filter.quarantine import write_refused
from tutelage.study.filter.text import visible
from tutelage.study.settings import Filters

SOUND = "A quiet street with seven old trees."


def items(examples, refused=()):
    """All texts and all labels, refused ones taken apart."""
    found = Counter()
    records = [example.record() for example in examples]
    for item in refused:
        content = item.content
        if "kind" in content:
            records.append(content)
        else:
            found[content["id"], content["task"], json.dumps(content["label"])] += 1
    for record in records:
        found[record["id"], record["kind"]] += 1
        for task, label in record.get("labels", {}).items():
            found[record["id"], task, json.dumps(label)] += 1
    return found


def hostile(draw: random.Random) -> Example:
    """An example that may be wrong in any way."""
    text = draw.choice(
        [
            SOUND, SOUND.upper(), SOUND + " Indeed.", "Two words", "", "word " * 300, "\x07ring the bell three times",
            "an \u202eevil\u202c text of words", "zero\u200bwidth in the middle here",
            "lone \ud800 surrogate in this text",
            "<script>alert(1)</script> is a text", "это по-русски и довольно длинно", "a b c d e f g h",
            f"number {draw.randrange(10**6)} of a long row of numbers",
        ]
    )  # fmt: skip
    pair = draw.choice([None, None, SOUND, "a b c"])
    words = tuple(text.split()) if pair is None and text.split() and draw.random() < 0.4 else None
    labels = {}
    for task in draw.sample(["mood", "tense", "follows", "pos", "story", "unknown"], 3):
        labels[task] = draw.choice(["good", "past", "yes", "nonsense", ("N",) * draw.randint(1, 6), ("X", "N")])
    return Example(
        kind="classification" if pair is None else "pair_classification",
        text=text if words is None else " ".join(words),
        text_pair=pair,
        words=words,
        labels=labels,
        confidence=dict.fromkeys(labels, 0.5),
        origin=f"request {draw.randrange(9)}",
        label_origins={task: ("first", f"of {task}") for task in labels},
    )


@pytest.mark.parametrize("near", [0.8, None])
def test_everything_is_taken_or_refused_once(small_plan, near):
    draw = random.Random(0)
    examples = [hostile(draw) for _ in range(600)]
    settings = Filters.model_validate({"near_duplicates": near, "overlap": {"ngram": 5}})
    suites = {"set": ["some number of a long row of numbers"]}
    found = filter_examples(examples, small_plan, settings, suites)
    assert items(examples) == items(found.kept, found.refused)
    assert found.faults.total() == len(found.refused)
    # What is kept is sound, and in its order.
    again = filter_examples(found.kept, small_plan, settings, suites)
    assert again.kept == found.kept
    assert not again.refused
    order = [example.id for example in examples]
    places = [order.index(example.id) for example in found.kept]
    assert places == sorted(places)


def test_the_starter_corpus_is_sound():
    examples = [example for file in starter.example_files() for example in read_examples(file)]
    found = filter_examples(examples, starter_plan(), Filters())
    assert found.kept == tuple(examples)
    assert not found.refused


def reasons(found):
    return [item.reason for item in found.refused]


@pytest.mark.parametrize(
    "character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\xad", "\u200b", "\u200d", "\u202e", "\u2066", "\u2028",
                  "\ue000", "\ufeff", "\ufffd", "\U000e0041", chr(0xD800)]
)  # fmt: skip
def test_control_characters(small_plan, text, character):
    found = filter_examples([text(f"a text with {character} inside it")], small_plan, Filters())
    assert reasons(found) == [f"control character: U+{ord(character):04X}"]
    assert visible(f"a{character}b") == f"a[U+{ord(character):04X}]b"


def test_layout_and_typography_are_fine(small_plan, text):
    examples = [
        text("Two lines\n\tof text\r\nand a “quote” – with a dash… ✓ 🙂 5 €"),
        text(SOUND, "Café, naïve, Ærø, e\u0301."),
    ]
    assert filter_examples(examples, small_plan, Filters()).kept == tuple(examples)


def test_joiners_pass_where_all_letters_may(small_plan, text):
    persian = text("می\u200cخواهم به خانه بروم")
    found = filter_examples([persian], small_plan, Filters(letters="any"))
    assert found.kept == (persian,)
    bidi = text("می\u202eخواهم به خانه بروم")
    assert not filter_examples([bidi], small_plan, Filters(letters="any")).kept


@pytest.mark.parametrize(
    ("letters", "words", "kept"),
    [
        ("ascii", "plain English words", True), ("ascii", "a café for all", False), ("latin", "a café for all", True),
        ("latin", "кот и собака", False), ("any", "кот и собака", True),
        ("latin", "caf\u0435 with one Cyrillic letter", False),
        ("latin", "ｆullwidth is no Latin", False), ("ascii", "“curly” – marks are no letters", True),
    ],
)  # fmt: skip
def test_letters(small_plan, text, letters, words, kept):
    found = filter_examples([text(words)], small_plan, Filters(letters=letters))
    assert len(found.kept) == kept
    assert all(reason.startswith("letter: U+") for reason in reasons(found))


def test_letters_of_the_second_text_count(small_plan, text):
    found = filter_examples([text("three plain words", "кот")], small_plan, Filters())
    assert not found.kept


def test_lengths(small_plan, text):
    examples = [text("one two"), text("one two three"), text("one", "two three four"), text("w " * 21)]
    found = filter_examples(examples, small_plan, Filters(max_words=20, near_duplicates=None))
    assert found.kept == tuple(examples[1:3])
    assert reasons(found) == ["too short: 2 words", "too long: 21 words"]


def test_duplicates_name_the_text_that_stays(small_plan, text):
    examples = [text(SOUND), text(SOUND, origin="second"), text(SOUND.upper()), text(SOUND, SOUND)]
    found = filter_examples(examples, small_plan, Filters())
    assert found.kept == (examples[0], examples[3])
    first = examples[0].id
    assert reasons(found) == [f"duplicate: of {first}", f"near duplicate: 1.00 of {first}"]
    assert found.refused[0].origin == "second"
    kept = filter_examples(examples, small_plan, Filters(near_duplicates=None)).kept
    assert kept == (examples[0], examples[2], examples[3])


def test_a_flood_of_duplicates_is_cheap(small_plan, text):
    flood = [text(SOUND, labels={"mood": "good"}) for _ in range(100_000)]
    began = time.process_time()
    found = filter_examples(flood, small_plan, Filters())
    assert time.process_time() - began < 60
    assert len(found.kept) == 1
    assert found.faults == {"duplicate": 99_999}


def test_another_language(small_plan, text):
    examples = [example for file in starter.example_files() for example in read_examples(file)]
    others = [
        "El perro corre por el parque y no quiere volver a casa, porque hace calor y las niñas juegan con la pelota.",
        "Der Hund läuft durch den Park und will nicht nach Hause, weil es warm ist und die Kinder dort spielen.",
        "Le chien court dans le parc et ne veut pas rentrer à la maison parce qu'il fait chaud et que tous jouent.",
    ]
    foreign = [text(other) for other in others]
    found = filter_examples([*examples, *foreign], starter_plan(), Filters())
    assert found.kept == tuple(examples)
    assert found.faults == {"language": 3}
    assert filter_examples([*examples, *foreign], starter_plan(), Filters(common_words=None)).faults == {}
    # Words drawn alike are no language, so none can be another.
    draw = random.Random(0)
    noise = [text(" ".join(f"w{draw.randrange(5000)}" for _ in range(40))) for _ in range(300)]
    assert not filter_examples(noise, small_plan, Filters()).refused


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"mood": "good"}, None),
        ({"mood": "Good"}, "label outside the plan: mood: Good"),
        ({"mood": ("good",)}, "label of the wrong form: mood"),
        ({"follows": "yes"}, "label of another kind of text: follows"),
        ({"story": "yes"}, "label of no task: story"),
        ({"gone": "yes"}, "label of no task: gone"),
        ({"pos": ("N", "V", "N")}, None),
        ({"pos": ("N", "V")}, "tags of the wrong length: pos: 2 for 3 words"),
        ({"pos": ("N", "V", "Z")}, "label outside the plan: pos: Z"),
        ({"pos": "N"}, "label of the wrong form: pos"),
    ],
)
def test_a_bad_label_goes_alone(small_plan, text, labels, reason):
    more = {
        "labels": {"tense": "past", **labels},
        "label_origins": {"tense": ("x",), **dict.fromkeys(labels, ("a", "b"))},
    }
    example = text("birds sing songs", words=("birds", "sing", "songs"), confidence=dict.fromkeys(labels, 0.5), **more)
    found = filter_examples([example], small_plan, Filters())
    if reason is None:
        assert found.kept == (example,)
        return
    assert [(item.reason, item.origin) for item in found.refused] == [(reason, "b")]
    (kept,) = found.kept
    assert (dict(kept.labels), dict(kept.confidence), dict(kept.label_origins)) == (
        {"tense": "past"},
        {},
        {"tense": ("x",)},
    )
    assert kept.text == example.text


def test_nothing_comes_of_nothing(small_plan, tmp_path):
    found = filter_examples([], small_plan, Filters(), {"empty": []})
    assert (found.kept, found.refused) == ((), ())
    write_refused(tmp_path / "filter.jsonl", found.refused)
    assert (tmp_path / "filter.jsonl").read_text() == ""


def test_many_tasks_take_no_time(text):
    """The plan is looked through once, not once for each label."""
    draw = random.Random(0)
    tasks = [{"name": f"t{i}", "description": "d", "labels": {"a": "d", "b": "d"}} for i in range(200)]
    plan = check_plan({"lessons": [{"kind": "classification", "tasks": tasks}]}, "plan")
    examples = [text(f"number {i} of a row", labels={f"t{j}": draw.choice("ab") for j in range(200)})
                for i in range(500)]  # fmt: skip
    settings = Filters(near_duplicates=None, common_words=None)
    began = time.process_time()
    assert len(filter_examples(examples, plan, settings).kept) == 500
    assert time.process_time() - began < 1
