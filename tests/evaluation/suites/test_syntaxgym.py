"""Formulas about surprisals, and suites made of them."""

from __future__ import annotations

import copy
import json
from math import log, log2

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.suites.formulas import parse
from tutelage.evaluation.suites.suites import evaluate_suite, find_suite

VALUES = {("1", "a"): 5.0, ("2", "a"): 3.0, ("1", "b"): 2.0, ("2", "b"): 3.0004, ("*", "a"): 8.0}


@pytest.mark.parametrize(
    ("formula", "margin"),
    [
        ("(1;%a%) > (1;%b%)", 3),
        ("(1;%a%)<(1;%b%)", -3),
        ("(2;%a%) = (2;%b%)", 1e-3 + 1e-5 * 3.0004 - 0.0004),
        ("(1;%a%) = (1;%b%)", 1e-3 + 2e-5 - 3),
        ("(1;%a%) - (2;%a%) - (1;%b%) > -1", 5 - 3 - 2 + 1),
        ("(1;%a%) - ((2;%a%) - (1;%b%)) > 0.5", 5 - (3 - 2) - 0.5),
        ("((1;%a%) > (1;%b%)) & ((1;%a%) < (1;%b%))", -3),
        ("(1;%a%) < (1;%b%) | (1;%a%) > (1;%b%) & (2;%a%) > 1", 2),
        ("( ( (1;%a%) + (2;%a%) ) ) = (*;%a%)", 1e-3 + 8e-5),
        ("(((((1;%a%)))) > .5)", 4.5),
        ("(01;%a%) > 0", 5),
        # As all but one of the published suites write it.
        ("[ (1;%a%) > (1;%b%) ] & [(1;%a%) < (1;%b%)]", -3),
        ("[(1;%a%) - [(2;%a%) - (1;%b%)]] > 0.5", 5 - (3 - 2) - 0.5),
    ],
)
def test_what_formulas_mean(formula, margin):
    found = parse(formula).margin({region: np.array([value, value]) for region, value in VALUES.items()})
    np.testing.assert_allclose(found, [margin, margin], atol=1e-9)


@pytest.mark.parametrize(
    ("formula", "complaint"),
    [
        ("(1;%a%)", "a comparison .* is missing"),
        ("(1;%a%) > ", "a region such as .* is missing"),
        ("(1;%a%) > (1;%b%", "a region such as|not closed"),
        ("((1;%a%) > (1;%b%)", "a bracket `\\(` is not closed"),
        ("(1;%a%) > (1;%b%) (2;%a%)", "something follows"),
        ("((1;%a%) > (1;%b%)) > 2", "a comparison where a number belongs"),
        ("(1;%a%) & (1;%b%)", "a comparison .* is missing"),
        ("__import__('os').system('x') > 1", "a region such as"),
        ("(1;%a%) > 1 ** 9", "something follows"),
        ("[(1;%a%) > (1;%b%))", r"a bracket `\[` is not closed"),
        ("", "a region such as"),
        ("(" * 300, "more than 200 brackets"),
    ],
)
def test_what_is_no_formula(formula, complaint):
    with pytest.raises(UserError, match=complaint):
        parse(formula)


def test_the_regions_of_a_formula():
    assert parse("(2;%x-y%) + (*;%b%) > (2;%x-y%) - (1;%b%)").regions == (("2", "x-y"), ("*", "b"), ("1", "b"))


def region(number, content):
    return {"region_number": number, "content": content}


def item(number, subject, one, other, end="here"):
    sides = {"match": one, "mismatch": other}
    return {
        "item_number": number,
        "conditions": [
            {"condition_name": name, "regions": [region(1, subject), region(2, verb), region(3, ""), region(4, end)]}
            for name, verb in sides.items()
        ],
    }


SUITE = {
    "meta": {"name": "agreement", "metric": "sum"},
    "region_meta": {"1": "subject", "2": "verb", "3": "nothing", "4": "end"},
    "predictions": [
        {"type": "formula", "formula": "(2;%mismatch%) > (2;%match%)"},
        {"type": "formula", "formula": "(*;%mismatch%) - (*;%match%) > 0.5"},
    ],
    "items": [item(1, "the cats", "sleep", "sleeps"), item(2, "the cat", "sleeps", "sleep")],
}


def put(folder, suite):
    folder.mkdir(exist_ok=True)
    (folder / "agreement.json").write_text(json.dumps(suite), encoding="utf-8")
    return f"syntaxgym:{folder}"


def test_a_suite_becomes_questions_about_regions(tmp_path):
    paradigm = find_suite(put(tmp_path, SUITE)).paradigms[0]
    assert (paradigm.uid, [question.name for question in paradigm.questions]) == ("agreement", ["1", "2"])
    assert paradigm.questions[0].options == (
        Item(" sleeps", "the cats"), Item(" sleep", "the cats"),
        Item("the cats sleeps here"), Item("the cats sleep here"),
    )  # fmt: skip


def test_a_suite_scored_by_hand(world, tmp_path):
    tokenizer = world.spaced_tokenizer("the cat cats sleep sleeps here")
    likely = {
        "the": {" cat": 0.5, " cats": 0.4},
        " cats": {" sleep": 0.4, " sleeps": 0.1},
        " cat": {" sleep": 0.25, " sleeps": 0.3},
        " sleep": {" here": 0.5},
        " sleeps": {" here": 0.5},
    }
    suite = find_suite(put(tmp_path, SUITE))
    result = evaluate_suite(world.bigram(tokenizer, likely), tokenizer, suite, CONVENTIONS["2025"])
    # In bits: 2 and log2(0.3 / 0.25) = 0.26 for the verb, the same for the whole; the second prediction wants 0.5.
    margins = [2 - 0.5, log2(0.3 / 0.25) - 0.5]
    np.testing.assert_allclose(result.log_probs["agreement"], [[m * log(2), 0] for m in margins], atol=1e-5)
    assert (result.macro("accuracy"), result.macro("strict")) == (0.5, 0.5)
    assert result.chosen["agreement"].tolist() == [0, 1]


def test_equal_surprisals_are_no_prediction_fulfilled_in_any_year(world, tmp_path):
    tokenizer = world.spaced_tokenizer("the cat cats sleep sleeps here")
    suite = {**SUITE, "predictions": SUITE["predictions"][:1]}
    for year in ("2025", "2026"):
        result = evaluate_suite(
            world.bigram(tokenizer, {}), tokenizer, find_suite(put(tmp_path, suite)), CONVENTIONS[year]
        )
        assert (result.macro("accuracy"), result.macro("strict")) == (0, 0)


def changed(path, value):
    suite = copy.deepcopy(SUITE)
    place = suite
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return suite


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (["meta"], None, r"agreement\.json: 'meta' must be a dict"),
        (["meta", "metric"], "mean", "its metric is 'mean'"),
        (["predictions"], [], "has no predictions"),
        (["predictions"], None, "'predictions' must be a list"),
        (["predictions", 0, "formula"], "1 + 1", "prediction 1: formula '1 [+] 1'"),
        (["predictions", 1, "type"], "code", "prediction 2 is of the type 'code'"),
        (["predictions", 0, "formula"], "(2;%other%) > 1", r"item 1: a prediction speaks of region 2 of 'other'"),
        (["predictions", 0, "formula"], "(9;%match%) > 1", r"item 1: a prediction speaks of region 9 of 'match'"),
        (["items"], [], "has no items"),
        (["items", 1, "item_number"], "two", r"item 2: 'item_number' must be a int"),
        (["items", 1], "item", r"item 2: 'item_number' must be"),
        (["items", 0, "conditions", 0, "regions"], None, r"item 1, condition 'match': 'regions' must be a list"),
        (["items", 0, "conditions", 0, "regions", 0, "content"], 3, r"'content' must be a str, and is '3'"),
    ],
)  # fmt: skip
def test_broken_suites_are_told(tmp_path, path, value, complaint):
    with pytest.raises(UserError, match=complaint):
        find_suite(put(tmp_path, changed(path, value)))


def test_no_suites(tmp_path):
    with pytest.raises(UserError, match=r"no \.json file"):
        find_suite(f"syntaxgym:{tmp_path}")
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json:1 is not JSON"):
        find_suite(f"syntaxgym:{tmp_path}")
