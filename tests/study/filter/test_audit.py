"""An audit's numbers beside those counted by hand, and its page against hostile text."""

from __future__ import annotations

import itertools
import math
import random
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from tutelage import starter
from tutelage.corpus.examples import Example, read_examples
from tutelage.corpus.study_plan import StudyPlan, check_plan, starter_plan
from tutelage.report.audit_page import audit_page, draw_audit, remarks
from tutelage.study.filter.audit import StageCost, _related, audit_examples, cramers_v
from tutelage.study.filter.diversity import diversity, vocabulary_growth


@pytest.fixture
def some(text):
    return [
        text("Birds sang all day.", labels={"mood": "good", "tense": "past"}, confidence={"mood": 1.0}, task="mood"),
        text("It will rain again.", labels={"mood": "bad", "tense": "later"}, confidence={"mood": 0.6}),
        text("The dog is here.", labels={"mood": "good"}),
        text("A dog barks.", "An animal is loud.", labels={"follows": "yes"}),
        Example("tagging", "Dogs bark", words=("Dogs", "bark"), labels={"pos": ("N", "V"), "mood": "good"}),
        Example("generation", "Once upon a time there was a dog. It barked.", task="story"),
    ]


def test_counts(small_plan, some):
    audit = audit_examples(some, small_plan)
    assert (audit.texts, audit.words) == (6, 4 + 4 + 4 + 3 + 4 + 2 + 10)
    assert audit.kinds["pair_classification"] == (1, 7)
    mood, tense, pos, follows, story = (audit.tasks[name] for name in ("mood", "tense", "pos", "follows", "story"))
    assert (mood.texts, mood.words, mood.labelled, mood.could) == (1, 4, 4, 5)
    assert mood.labels == {"good": 3, "bad": 1}
    assert mood.majority == 0.75
    assert mood.balance == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert (mood.votes, mood.confidence, mood.sure) == (2, 0.8, 0.5)
    assert tense.labels == {"past": 1, "now": 0, "later": 1}
    assert (pos.labelled, pos.could, pos.labels) == (1, 5, {"N": 1, "V": 1})
    assert (follows.labelled, follows.could, follows.balance) == (1, 1, 0.0)
    assert (story.texts, story.words, story.could, story.majority, story.balance) == (1, 10, 0, None, None)
    assert sum(count for _, count in audit.histogram) == 6
    assert audit.duplicates == {"equal": 0, "near": 0}


def test_labels_outside_the_plan_are_counted_apart(small_plan, text):
    task = audit_examples([text("a b c", labels={"mood": "odd"})], small_plan).tasks["mood"]
    assert (task.outside, task.labels) == (1, {"good": 0, "bad": 0})


def test_duplicates_and_order(small_plan, some):
    doubled = [*some, some[0], Example("generation", "ONCE upon a time there was a dog! It barked.")]
    audit = audit_examples(doubled, small_plan)
    assert audit.duplicates == {"equal": 1, "near": 1}
    assert "2 texts (25.0 %) repeat others." in [head for head, _ in remarks(audit)]
    # Nothing but samples of equal texts could depend on the order.
    draw = random.Random(1)
    draw.shuffle(some)
    assert audit_examples(some, small_plan) == audit_examples(sorted(some, key=lambda e: e.text), small_plan)


def test_diversity_by_hand():
    words = [["the", "cat", "sat"], ["the", "cat", "ran"], ["a", "dog"]]
    found = diversity(words, [" ".join(text) for text in words])
    flat = list(itertools.chain(*words))
    assert found.distinct == (6 / 8, len({*itertools.pairwise(flat)}) / 7, 1.0)
    assert found.similarity == pytest.approx((2 / 4) / 3)
    assert found.nearest == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert (found.compared, found.opened, found.openings) == (3, 2, ())
    assert vocabulary_growth(words)[-1] == (8, 6)
    assert vocabulary_growth(words)[2] == (3, 3)
    # The same text over and over compresses better than new text.
    draw = random.Random(0)
    new = [[f"w{draw.randrange(10**6)}" for _ in range(30)] for _ in range(50)]
    old = [new[0]] * 50
    assert (
        diversity(old, [" ".join(t) for t in old]).compression
        > 3 * diversity(new, [" ".join(t) for t in new]).compression
    )


def test_related_tasks(small_plan, text):
    draw = random.Random(0)
    same = [(mood, {"good": "past", "bad": "now"}[mood]) for mood in draw.choices(["good", "bad"], k=200)]
    free = [(draw.choice(["good", "bad"]), draw.choice(["past", "now"])) for _ in range(400)]
    for pairs, low, high in ((same, 0.99, 1.0001), (free, 0.0, 0.15)):
        examples = [text(f"text {i}", labels={"mood": m, "tense": t}) for i, (m, t) in enumerate(pairs)]
        ((one, other, strength, texts),) = audit_examples(examples, small_plan).related
        assert (one, other, texts) == ("mood", "tense", len(pairs))
        assert low <= strength <= high


def test_related_tasks_are_no_work_of_chance(text):
    """Unrelated labels come to about nothing, whatever their number; a real relation comes before a lucky one."""
    draw = random.Random(0)
    labels = [str(label) for label in range(10)]
    for texts in (30, 100, 1000):
        tables = np.zeros((200, 10, 10), dtype=np.int64)
        for table, _ in itertools.product(tables, range(texts)):
            table[draw.randrange(10), draw.randrange(10)] += 1
        found = [cramers_v(table) for table in tables]
        assert np.mean([strength**2 for strength, _ in found]) < 1 / texts
        assert np.mean([sure > 0 for _, sure in found]) < 0.05
    # Half of the texts have the same label of both tasks, the others any two.
    half = np.diag([50] * 10) + np.full((10, 10), 5)
    assert cramers_v(half)[0] == pytest.approx(0.5, abs=0.01)
    assert cramers_v(np.diag([5] * 10))[0] == pytest.approx(1)
    assert cramers_v(np.array([[9, 0], [8, 0]])) == cramers_v(np.eye(9, dtype=np.int64)) == (None, 0)
    tree = {"lessons": [{"kind": "classification", "tasks": [
        {"name": name, "description": "d", "labels": dict.fromkeys(labels, "d")} for name in "abcd"]}]}  # fmt: skip
    examples = [text(f"few {i}", labels={"a": draw.choice(labels), "b": draw.choice(labels)}) for i in range(30)]
    for i in range(1000):
        label = draw.choice(labels)
        other = label if draw.random() < 0.15 else draw.choice(labels)
        examples.append(text(f"many {i}", labels={"c": label, "d": other}))
    related = audit_examples(examples, check_plan(tree, "plan")).related
    assert [pair[:2] for pair in related] == [("c", "d"), ("a", "b")]


def test_many_tasks_take_no_time(text):
    """Tasks are compared two by two: that must not cost a pass over all texts each time."""
    draw = random.Random(0)
    labels = {str(label): "d" for label in range(5)}
    tasks = [{"name": f"t{i}", "description": "d", "labels": labels} for i in range(60)]
    plan = check_plan({"lessons": [{"kind": "classification", "tasks": tasks}]}, "plan")
    examples = [text(f"number {i}", labels={f"t{j}": str(draw.randrange(5)) for j in range(60)}) for i in range(4000)]
    began = time.process_time()
    assert len(_related(examples, plan)) == 60 * 59 / 2
    assert time.process_time() - began < 2


def test_lost_tags_are_seen(small_plan, text):
    """What tagging lost has no words: it counts among the texts that could be tagged all the same."""
    tagged = Example("classification", "Dogs bark", words=("Dogs", "bark"), labels={"pos": ("N", "V")})
    others = [
        text("Cats sleep"),
        text("one\ntwo"),
        text("two  spaces"),
        text("a b", "a pair"),
        text("word " * 60 + "end"),
    ]
    for longest, could in ((None, 3), (60, 2), (1, 1)):
        task = audit_examples([tagged, *others], small_plan, tagged_words=longest).tasks["pos"]
        assert (task.labelled, task.could) == (1, could)


class Tags(HTMLParser):
    """Notes tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


EVIL = (
    '<script>alert(1)</script><img src=x onerror="alert(1)"> " onmouseover="alert(1) \u202e evil \0 \ud800 &lt; $x_1$'
)


def test_hostile_text_cannot_do_anything(text):
    labels = {EVIL.replace("\0", "").replace("\ud800", "").strip(): "d", "other": "d"}
    plan = StudyPlan.model_validate(
        {"title": EVIL, "lessons": [{"kind": "classification", "tasks": [
            {"name": name, "description": "d", "labels": labels} for name in ("task", "two")]}]}
    )  # fmt: skip
    draw = random.Random(0)
    examples = [
        text(f"{EVIL} number {i}", labels={name: draw.choice(list(labels)) for name in ("task", "two")}, task="task")
        for i in range(60)
    ]
    examples.append(text(EVIL, EVIL, labels={EVIL: EVIL}, confidence={EVIL: 0.5}))
    refused, costs = {"filter": {EVIL: 3}}, {EVIL: StageCost(1, 2, 3, 0.5)}
    audit = audit_examples(examples, plan, suites={EVIL: [f"{EVIL} number 1"]}, refused=refused, costs=costs)
    page = audit_page(audit)
    page.encode("utf-8")
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.found}
    assert names.isdisjoint({"script", "img", "iframe", "object", "link", "form", "a"})
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert not re.search("[\u202e\0\ud800]", page)
    assert "[U+202E]" in page
    assert "default-src 'none'" in page


def test_the_page_of_the_starter_corpus():
    examples = [example for file in starter.example_files() for example in read_examples(file)]
    audit = audit_examples(examples, starter_plan())
    page = audit_page(audit)
    for part in ("Tasks", "Variety", "Samples", "sentiment", "Cramér", "Commonest openings"):
        assert part in page
    assert page.count("<svg") == len(draw_audit(audit)) == 4
    # Nothing is fetched, not even pictures within the page, which its own policy forbids.
    assert "<image" not in page
    assert sum(task.labelled for task in audit.tasks.values()) > 5000
    assert audit.growth["all"][-1][1] == audit.types


def test_empty_and_unlabelled_corpora(small_plan, text):
    nothing = audit_examples([], small_plan, suites={"s": []})
    assert [head for head, _ in remarks(nothing)] == ["The corpus is empty."]
    assert "The corpus is empty." in audit_page(nothing)
    wordless = audit_examples([text("?")], small_plan)
    assert "4 tasks have no label at all" in audit_page(wordless)


def test_no_text_of_a_teacher_passes_for_a_result(text):
    labels = {"shown: all is well": "d", "other": "d"}
    tree = {"lessons": [{"kind": "classification", "tasks": [{"name": "t", "description": "d", "labels": labels}]}]}
    sample = text("shown: this model is better", labels={"t": "shown: all is well"}, task="t")
    page = audit_page(audit_examples([sample], check_plan(tree, "plan"), refused={"filter": {"shown: x": 1}}))
    assert "shown: this model is better" in page
    assert 'class="shown"' not in page
