"""Reading pairs, finding benchmarks, and what becomes of scores: ties, means, files."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, choose, strictly_right
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.results import ParadigmScore, SuiteResult
from tutelage.evaluation.suites.suites import evaluate_suite, find_suite

WORDS = "the a cat cats dog dogs sleep sleeps run runs here there"


def write_pairs(folder, name, rows):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def agreement(count=4, **extra):
    nouns, verbs = ("cat", "dog"), ("sleep", "run")
    pairs = [(f"the {noun}{s} {verb}{'' if s else 's'}", f"the {noun}{s} {verb}{'s' if s else ''}")
             for noun in nouns for verb in verbs for s in ("", "s")]  # fmt: skip
    return [{"sentence_good": good, "sentence_bad": bad, **extra} for good, bad in pairs[:count]]


def test_files_become_paradigms(tmp_path):
    write_pairs(
        tmp_path, "b", agreement(3, UID="agree", field="syntax_semantics", linguistics_term="verbs", pairID="1")
    )
    write_pairs(tmp_path, "a", agreement(2))
    plain, labelled = find_suite(f"pairs:{tmp_path}").paradigms
    assert (plain.uid, plain.field, plain.phenomenon, len(plain.questions)) == ("a", None, None, 2)
    assert (labelled.uid, labelled.field, labelled.phenomenon) == ("agree", "syntax/semantics", "verbs")
    assert labelled.questions[0].options == (Item("the cat sleeps"), Item("the cat sleep"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"sentence_good": "a"}\n', r"p\.jsonl:1 has no 'sentence_bad'"),
        ('{"sentence_good": "a", "sentence_bad": "b"}\n\n{"sentence_good": "", "sentence_bad": "b"}\n', r":3 .*good'"),
        ('{"sentence_good": "a", "sentence_bad": 3}\n', r":1: 'sentence_bad' is 3, not a text"),
        ('{"sentence_good": "a",\n', r":1 is not JSON"),
        ('["a", "b"]\n', r":1 is not a JSON object"),
        ("\n", r"p\.jsonl is empty"),
        ('{"sentence_good": "a", "sentence_bad": "b", "UID": "u", "field": "x"}\n'
         '{"sentence_good": "a", "sentence_bad": "b", "UID": "u", "field": "y"}\n', r":2: paradigm 'u'"),
    ],
)  # fmt: skip
def test_broken_files_are_told_with_their_line(tmp_path, content, complaint):
    (tmp_path / "p.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        find_suite(f"pairs:{tmp_path}")


def test_folders_without_pairs_and_other_encodings_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no \.jsonl or \.csv or .* file"):
        find_suite(f"pairs:{tmp_path}")
    with pytest.raises(UserError, match="no folder"):
        find_suite(f"pairs:{tmp_path}/none")
    (tmp_path / "p.jsonl").write_bytes('{"sentence_good": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        find_suite(f"pairs:{tmp_path}")


def test_benchmarks_are_looked_for_in_data_then_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    with pytest.raises(UserError, match=r"osf\.io/ryjfm.*licence: CC BY 4\.0.*cache/eval/blimp_fast"):
        find_suite("blimp-fast")
    write_pairs(tmp_path / "cache" / "eval" / "blimp_fast", "x", agreement(1))
    assert len(find_suite("blimp-fast").paradigms[0].questions) == 1
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    assert len(find_suite("blimp-fast").paradigms[0].questions) == 1
    write_pairs(tmp_path / "data" / "eval" / "blimp_fast", "x", agreement(2))
    assert len(find_suite("blimp-fast").paradigms[0].questions) == 2
    with pytest.raises(UserError, match="did you mean 'blimp-fast'"):
        find_suite("blimp-fats")


@pytest.mark.skipif(
    not (resources.files("tutelage") / "starter" / "pairs").is_dir(), reason="the starter is not in this installation"
)
def test_the_starter_pairs_come_with_the_package():
    suite = find_suite("starter-pairs")
    assert (len(suite.paradigms), sum(len(paradigm.questions) for paradigm in suite.paradigms)) == (16, 960)


def silent(world, tokenizer):
    """A model that finds every token equally likely."""
    hf = world.hugging_face("llama", len(tokenizer))
    hf.lm_head.weight.data.zero_()
    return world.as_ensemble(hf, vocab_size=len(tokenizer))


def test_a_model_that_knows_nothing_is_right_by_the_ties_of_2025(world, tmp_path):
    tokenizer = world.word_tokenizer(WORDS)
    nouns = [
        f"{a} {b} {c}" for a in ("the", "a") for b in ("cat", "dog", "cats", "dogs") for c in ("sleep", "run", "runs")
    ]
    rows = [{"sentence_good": f"{text} here", "sentence_bad": f"{text} there"} for text in nouns]
    write_pairs(tmp_path, "ties", rows * 4)
    suite = find_suite(f"pairs:{tmp_path}")
    results = {
        year: evaluate_suite(silent(world, tokenizer), tokenizer, suite, CONVENTIONS[year]) for year in CONVENTIONS
    }
    assert [results[year].macro("accuracy") for year in ("2023", "2024", "2025")] == [1, 1, 1]
    assert [result.macro("strict") for result in results.values()] == [0, 0, 0, 0]
    assert 0.2 < results["2026"].macro("accuracy") < 0.8
    again = evaluate_suite(silent(world, tokenizer), tokenizer, suite, CONVENTIONS["2026"], batch_tokens=16)
    assert again.to_json() == results["2026"].to_json()


def test_ties_and_nan_in_each_year():
    nan = float("nan")
    scores_NK = np.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [nan, nan], [-1.0, nan], [nan, -1.0]])
    keys = [str(index) for index in range(len(scores_NK))]
    assert choose(scores_NK, CONVENTIONS["2025"], keys).tolist() == [0, 1, 0, 0, 1, 0]
    drawn = choose(scores_NK, CONVENTIONS["2026"], keys)
    assert drawn[[0, 1, 4, 5]].tolist() == [0, 1, 0, 1]
    assert drawn.tolist() == choose(scores_NK, CONVENTIONS["2026"], keys).tolist()
    assert strictly_right(scores_NK).tolist() == [True, False, False, False, False, False]
    many = choose(np.zeros((3000, 3)), CONVENTIONS["2026"], [str(index) for index in range(3000)])
    assert np.bincount(many).min() > 900
    halves = choose(np.tile([-1.0, -1.0, -2.0], (3000, 1)), CONVENTIONS["2026"], [str(index) for index in range(3000)])
    assert set(halves) == {0, 1}


def test_accuracies_follow_from_the_slow_scores(world, tmp_path):
    write_pairs(tmp_path, "one", agreement(4, UID="one", field="syntax", linguistics_term="verbs"))
    write_pairs(tmp_path, "two", agreement(8, UID="two", field="syntax", linguistics_term="nouns"))
    tokenizer, hf = world.word_tokenizer(WORDS), world.hugging_face("llama", len(world.word_tokenizer(WORDS)))
    ensemble, suite = world.as_ensemble(hf, vocab_size=len(tokenizer)), find_suite(f"pairs:{tmp_path}")
    result = evaluate_suite(ensemble, tokenizer, suite, CONVENTIONS["2025"])
    shares = []
    for paradigm in suite.paradigms:
        right = []
        for question, kept in zip(paradigm.questions, result.log_probs[paradigm.uid], strict=True):
            rows = [tokenizer(option.completion)["input_ids"] for option in question.options]
            slow = [world.slow_causal([hf], ids, list(range(1, len(ids)))) for ids in rows]
            np.testing.assert_allclose(kept, slow, atol=1e-5)
            right.append(slow[0] > slow[1])
        shares.append(np.mean(right))
    published = result.to_json()
    assert published == {
        "convention": "2025",
        "accuracy": pytest.approx(np.mean(shares)),
        "strict": pytest.approx(np.mean(shares)),
        "items": 12,
        "chance": 0.5,
        "fields": {"syntax": pytest.approx(np.average(shares, weights=(4, 8)))},
        "phenomena": {"nouns": shares[1], "verbs": shares[0]},
        "paradigms": {
            uid: {"accuracy": share, "strict": share, "n": n, "field": "syntax", "phenomenon": term}
            for uid, share, n, term in zip(("one", "two"), shares, (4, 8), ("verbs", "nouns"), strict=True)
        },
    }
    assert json.loads(json.dumps(published)) == published


def test_2023_pools_phenomena_and_later_years_average_paradigms():
    scores = {
        "a": ParadigmScore(1.0, 0.5, 30, "f", "x"),
        "b": ParadigmScore(0.0, 0.0, 10, "f", "x"),
        "c": ParadigmScore(0.5, 0.5, 10, "g", "y"),
    }
    old, new = (SuiteResult("s", CONVENTIONS[year], scores, {}) for year in ("2023", "2025"))
    assert old.macro("accuracy") == pytest.approx((0.75 + 0.5) / 2)
    assert old.macro("strict") == pytest.approx((0.375 + 0.5) / 2)
    assert new.macro("accuracy") == pytest.approx(0.5)
    assert new.to_json()["phenomena"] == {"x": 0.75, "y": 0.5}  # over items, as the published report
    assert replace(new, nested=True).to_json()["phenomena"] == {"x": 0.5, "y": 0.5}
    bare = {"a": ParadigmScore(1.0, 1.0, 30, None, None), "b": ParadigmScore(0.0, 0.0, 10, None, None)}
    unlabelled = SuiteResult("s", CONVENTIONS["2023"], bare, {})
    assert (unlabelled.macro("accuracy"), unlabelled.to_json()["fields"]) == (0.5, {})


def test_margins_are_the_right_option_less_the_best_other():
    scores = {"a": ParadigmScore(0.5, 0.5, 2, None, None)}
    kept = {"a": np.array([[-1.0, -3.0, -2.5], [-2.0, -1.0, -9.0]])}
    result = SuiteResult("s", CONVENTIONS["2025"], scores, kept)
    assert {name: margin.tolist() for name, margin in result.margins().items()} == {"s/a": [1.5, -1.0]}


def test_chance_counts_the_options_that_are_there():
    scores = {uid: ParadigmScore(0.5, 0.5, 2, None, None) for uid in ("two", "mixed")}
    kept = {"two": np.zeros((2, 2)), "mixed": np.array([[-1.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -np.inf, -np.inf]])}
    chance = SuiteResult("s", CONVENTIONS["2025"], scores, kept).to_json()["chance"]
    assert chance == pytest.approx((1 / 2 + (1 / 4 + 1 / 2) / 2) / 2)


@pytest.mark.data
def test_the_published_sizes(real_data):
    sizes = {"blimp": 67000, "blimp-filtered": 59875, "blimp-fast": 13400, "blimp-supplement": 5218,
             "blimp-supplement-fast": 250}  # fmt: skip
    for name, size in sizes.items():
        paradigms = find_suite(name).paradigms
        assert sum(len(paradigm.questions) for paradigm in paradigms) == size
        blimp = "supplement" not in name
        assert len(paradigms) == (67 if blimp else 5)
        assert len({paradigm.phenomenon for paradigm in paradigms} - {None}) == (12 if blimp else 0)
        assert len({paradigm.field for paradigm in paradigms} - {None}) == (4 if blimp else 0)
