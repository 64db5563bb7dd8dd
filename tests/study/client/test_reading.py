"""Answers as models give them: read by the schema they were asked with, or told as a fault."""

import contextlib
import json
import random
import time

import pytest

from tutelage.study.client.answers import MAX_CONTAINERS, Unusable
from tutelage.study.client.asking import list_of, one_of, record
from tutelage.study.client.reading import label_of, read_answer

GIVEN = {"texts": ["A hen, [or two], {ran}.", 'He said "go" , ]']}
JSON = json.dumps(GIVEN)
MOODS = ("glad", "grim", "very grim", "N/A")


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"I will think of hens [2] {{so}}.</think>{JSON}",
        f"<thinking>Two {{texts}}?\n</thinking>\n\n{JSON}",
        f"<think>{json.dumps({'texts': ['a draft']})}</think>{JSON}",
        f"<|channel|>analysis<|message|>hens<|end|><|channel|>final<|message|>{JSON}<|end|>",
        f'The list [of two], as {{"texts": [...]}}:\n{JSON}',
        f"{JSON}\nNotes: [1] easy; {{all}} short.",
        JSON.replace("]}", ",]}"),
        JSON.replace("]}", "\n, ]\n,}"),
        json.dumps(GIVEN["texts"]),
        f"Here:\n{json.dumps(GIVEN['texts'])}",
        json.dumps({"result": GIVEN}),
        json.dumps({"output": {"answer": GIVEN}}),
        json.dumps(JSON),
        f"```json\n{JSON}\n```\nMore?",
        f'{{"count": 2}}\n{JSON}',
        f"{JSON}\n{JSON}",
    ],
)
def test_what_was_asked_for_is_found(text: str) -> None:
    assert read_answer(text, list_of("texts")) == GIVEN


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("</think>", "empty"),
        ("<think>I should write", "not valid JSON"),
        ('{"texts": ["A hen ran.", "Nine he', "not valid JSON"),
        ('{"texts": "A hen ran."}', "should be of type array"),
        ('{"other": ["A hen ran."], "texts": 1}', "not asked for|of type array"),
        ('{"texts": ["a"]} {"texts": ["b"]}', "more JSON after the first"),
        ("[" * 100_000, "nested"),
        ("[" + "[]," * (MAX_CONTAINERS + 1) + "[]]", "lists and objects"),
        ('{"texts": ["a\\u0007"]}', "U\\+0007"),
        ('{"texts": [NaN]}', "NaN"),
    ],
)
def test_what_cannot_be_used_is_told(text: str, fault: str) -> None:
    with pytest.raises(Unusable, match=fault):
        read_answer(text, list_of("texts"))


def test_a_list_is_not_put_where_two_were_asked_for() -> None:
    schema = record({name: {"type": "array", "items": {"type": "string"}} for name in ("one", "two")})
    with pytest.raises(Unusable):
        read_answer('["a"]', schema)


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("glad", "glad"), ("Glad", "glad"), (" GLAD.\n", "glad"), ('"glad"', "glad"), ("['glad']", "glad"),
        ("Mood: glad", "glad"), ("glad: the hen is glad", "glad"), ("**glad**", "glad"), ("very grim", "very grim"),
        ("Very Grim!", "very grim"), ("n/a", "N/A"), ("grim", "grim"),
        ("neither", None), ("glad or grim", None), ("", None), ("gladly", None), ("not glad", None),
        ("It is hard to say, but glad", None), ("glad " + "x" * 300, None),
    ],
)  # fmt: skip
def test_a_label_is_read_whatever_its_case_and_marks(said: str, label: str | None) -> None:
    assert label_of(said, MOODS) == label
    schema = record({"mood": one_of(MOODS)})
    for text in (said, json.dumps({"mood": said})):
        if label is None:
            with pytest.raises(Unusable):
                read_answer(text, schema)
        else:
            assert read_answer(text, schema) == {"mood": label}


def test_labels_that_differ_by_case_alone_are_read_as_they_stand() -> None:
    schema = record({"tags": {"type": "array", "items": one_of(("No", "NO", "x"))}})
    assert read_answer('{"tags": ["NO", "No"]}', schema) == {"tags": ["NO", "No"]}
    with pytest.raises(Unusable, match=r"tags\[0\] is not one of"):
        read_answer('{"tags": ["no"]}', schema)


@pytest.mark.parametrize(
    "part", ["</think>", "<think>", "```", "```\n", '\\"', '"', "{", '{"', "[", ",", ", ", ",]", "1"]
)
@pytest.mark.parametrize("begin", ["", '["', "```\n", '{"a": "', "<|channel|>final<|message|>"])
def test_time_is_in_proportion_to_length(begin: str, part: str) -> None:
    began = time.process_time()
    with contextlib.suppress(Unusable):
        read_answer(begin + part * (60_000 // len(part)), list_of("texts"))
    assert time.process_time() - began < 5


def test_random_pieces_never_do_more_than_being_refused() -> None:
    draw = random.Random(0)
    pieces = ["[", "]", "{", "}", '"', "\\", "texts", ":", ",", "1", "null", "```", "\n", "</think>", JSON, "é", " "]
    for _ in range(2000):
        with contextlib.suppress(Unusable):
            assert set(read_answer("".join(draw.choices(pieces, k=draw.randrange(20))), list_of("texts"))) == {"texts"}
