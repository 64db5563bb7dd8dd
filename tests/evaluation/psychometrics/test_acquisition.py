"""Age of acquisition: fits of known curves, each year's rule on examples worked by hand, and a whole score."""

from __future__ import annotations

import json
import math
import weakref

import numpy as np
import pytest
import torch

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, next_token_by_mask
from tutelage.evaluation.benchmarks.measurement import Checkpoint
from tutelage.evaluation.psychometrics.acquisition import (
    RULES,
    ages,
    child_age,
    evaluate_acquisition,
    learning_curves,
    model_age,
    uniform_surprisal,
)
from tutelage.evaluation.psychometrics.acquisition_data import (
    AcquisitionData,
    find_acquisition,
    read_contexts,
    read_shares,
)
from tutelage.evaluation.psychometrics.trajectory import checkpoint_surprisals, contexts_cut, trajectory

MONTHS = np.arange(16.0, 31.0)
SEEN = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]) * 1e6
X = np.log10(SEEN + 1)


def sigmoid(x, height, slope, middle, floor):
    return height / (1 + np.exp(-slope * (x - middle))) + floor


def falling(middle, top=12.0, bottom=4.0, slope=3.0):
    """Surprisal that falls from `top` to `bottom`, half way at log10 words `middle`."""
    return top - sigmoid(X, top - bottom, slope, middle, 0)


def entries(curves, contexts=1):
    """A `surprisal.json` of words with the same curve in every context, one nat apart between two."""
    results = [
        {"step": f"chck_{int(count / 1e6)}M", "word_count": int(count), "target_word": word, "context_id": number,
         "context": "the", "surprisal": float(value + number - (contexts - 1) / 2)}
        for word, curve in curves.items()
        for count, value in zip(SEEN, curve, strict=True)
        for number in range(contexts)
    ]  # fmt: skip
    return {"metadata": {}, "results": results}


def children(ages):
    shares = {word: sigmoid(MONTHS, 1, 0.6, age, 0) for word, age in ages.items()}
    return AcquisitionData(dict.fromkeys(ages, ("the",)), MONTHS, shares)


class Vocabulary:
    """A tokenizer of one token a letter, with the space that begins a word a part of its first letter."""

    vocab_size = 1000

    def __call__(self, text, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": list(text.replace(" ", ""))}


@pytest.mark.parametrize("age", [17.0, 21.5, 28.0])
def test_childrens_age_is_where_a_known_sigmoid_is_one_half(age):
    assert child_age(MONTHS, sigmoid(MONTHS, 1, 0.7, age, 0)) == pytest.approx(age, abs=1e-4)
    # Another height and floor: one half is no more the middle.
    shares = sigmoid(MONTHS, 0.9, 0.5, age, 0.02)
    expected = age - math.log(0.9 / 0.48 - 1) / 0.5
    assert child_age(MONTHS, shares) == pytest.approx(expected, abs=1e-3)
    gaps = shares.copy()
    gaps[[2, 9]] = np.nan
    assert child_age(MONTHS, gaps) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "shares",
    [
        np.full(15, 0.2),
        np.full(15, 0.9),
        sigmoid(MONTHS, 0.4, 0.5, 22, 0),
        sigmoid(MONTHS, 1, 0.5, 40, 0),
        np.array([0.1, 0.9] + [np.nan] * 13),
    ],
)
def test_words_that_children_never_or_always_say_have_no_age(shares):
    assert child_age(MONTHS, shares) is None


def crossing(height, slope, middle, floor, level):
    """Where `height / (1 + exp(-slope (x - middle))) + floor` is `level`, by bisection."""
    low, high = middle - 20, middle + 20
    for _ in range(200):
        half = (low + high) / 2
        low, high = (half, high) if sigmoid(half, height, slope, middle, floor) < level else (low, half)
    return low


def test_the_rule_of_2025_on_a_known_curve():
    """Ignorance costs log2(300,000), which is taken for nats."""
    surprisal = falling(7.0)
    level = -(math.log2(300_000) + surprisal.min()) / 2
    expected = crossing(8, 3, 7, -12, level)
    assert model_age(SEEN, surprisal, math.log2(300_000), RULES["2025"]) == pytest.approx(expected, abs=1e-5)
    assert RULES["2025"].ceiling == pytest.approx(18.1946, abs=1e-4)


@pytest.mark.parametrize(("word", "tokens"), [("a", 1), ("cat", 3)])
def test_the_rule_of_2026_on_a_known_curve(word, tokens):
    """Ignorance costs a uniform guess at each token."""
    ceiling = uniform_surprisal(Vocabulary(), word)
    assert ceiling == pytest.approx(tokens * math.log(1000))
    surprisal = falling(7.0, top=ceiling, bottom=ceiling / 3)
    level = -(ceiling + surprisal.min()) / 2
    expected = crossing(ceiling * 2 / 3, 3, 7, -ceiling, level)
    assert model_age(SEEN, surprisal, ceiling, RULES["2026"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("year", ["2025", "2026"])
@pytest.mark.parametrize(
    "surprisal",
    [
        np.full(19, 10.0),
        falling(7.0)[::-1],
        falling(7.0, top=18, bottom=17.5),
        falling(11.0),
        np.random.default_rng(0).uniform(9, 10, 19),
    ],
    ids=["flat", "rising", "hardly", "later", "noise"],
)
def test_no_age_lies_outside_the_checkpoints(year, surprisal):
    """A level that is not reached between the first and last checkpoint, or no curve at all."""
    ceiling = 5.0 if year == "2026" else RULES["2025"].ceiling
    age = model_age(SEEN, surprisal, ceiling, RULES[year])
    assert age is None or X[0] <= age <= X[-1]
    if np.ptp(surprisal) == 0 or surprisal[0] < surprisal[-1] - 1:
        assert age is None
    assert model_age(SEEN[:2], surprisal[:2], ceiling, RULES[year]) is None


def test_an_age_beyond_all_numbers_is_none(monkeypatch):
    """A nearly flat curve may cross its level where ten to that power is no float any more."""
    monkeypatch.setattr("tutelage.evaluation.psychometrics.acquisition._crossing", lambda *_: 400.0)
    assert model_age(SEEN, falling(7.0), 18.0, RULES["2025"]) is None


def test_a_curve_that_never_reaches_the_level_has_no_age():
    assert model_age(SEEN, falling(7.0)[::-1], 18.0, RULES["2026"]) is None
    assert model_age(SEEN, falling(7.0, top=6.0, bottom=4.0), 18.0, RULES["2026"]) is None
    assert model_age(SEEN, falling(7.0), 3.0, RULES["2026"]) is None


def test_the_years_take_another_lowest_surprisal():
    """2025 fits all contexts together and takes the lowest of any; 2026 their mean, and its lowest."""
    results = entries({"cat": falling(7.2)}, contexts=5)
    curves = learning_curves(results)
    seen, surprisal = curves["cat"]
    lowest = falling(7.2).min()
    assert len(seen) == 95
    assert surprisal.min() == pytest.approx(lowest - 2)
    data = children({"cat": 20.0})
    levels = {"2025": (math.log2(300_000) + lowest - 2) / 2, "2026": (3 * math.log(1000) + lowest) / 2}
    expected = {year: crossing(8, 3, 7.2, -12, -level) if level < 12 else None for year, level in levels.items()}
    assert expected["2026"] is None
    for year in ("2025", "2026"):
        ((model, child),) = ages(curves, data, RULES[year], Vocabulary()).values()
        assert child == pytest.approx(20, abs=1e-4)
        assert model == (None if expected[year] is None else pytest.approx(expected[year], abs=1e-4))
    short = learning_curves(entries({"a": falling(7.2)}, contexts=5))
    ((model, _),) = ages(short, children({"a": 20.0}), RULES["2026"], Vocabulary()).values()
    assert model == pytest.approx(crossing(8, 3, 7.2, -12, -(math.log(1000) + lowest) / 2), abs=1e-4)


def test_the_correlation_is_pearsons_of_both_ages():
    middles = [6.9, 7.1, 7.6, 7.3, 7.0]
    months = dict(zip("abcde", [19.0, 20.0, 27.0, 25.0, 22.0], strict=True))
    curves = {word: falling(middle, top=14) for word, middle in zip("abcde", middles, strict=True)}
    expected = []
    for middle, curve in zip(middles, curves.values(), strict=True):
        expected.append(crossing(10, 3, middle, -14, -(math.log2(300_000) + curve.min()) / 2))
    r = np.corrcoef(expected, list(months.values()))[0, 1]
    result = evaluate_acquisition(entries(curves), children(months), CONVENTIONS["2025"], None)
    assert result.values["aoa"].value == pytest.approx(r, abs=1e-4)
    assert (result.values["aoa"].unit, result.values["aoa"].n) == ("correlation", 5)


def test_2026_counts_what_is_not_significant_as_zero():
    middles = [7.0, 7.6, 7.1, 7.3, 6.9]
    months = dict(zip("abcde", [19.0, 20.0, 27.0, 25.0, 22.0], strict=True))
    curves = {word: falling(middle) for word, middle in zip("abcde", middles, strict=True)}
    found = {year: evaluate_acquisition(entries(curves), children(months), CONVENTIONS[year], Vocabulary()).values
             for year in ("2025", "2026")}  # fmt: skip
    assert found["2025"]["aoa"].value == found["2025"]["correlation"].value != 0
    assert found["2026"]["aoa"].value == 0
    assert 0 < abs(found["2026"]["correlation"].value) < 0.8
    assert "the rule counts it as 0" in found["2026"]["aoa"].note


def test_what_cannot_be_told_has_a_reason():
    months = dict(zip("abcde", [19.0, 20.0, 27.0, 25.0, 22.0], strict=True))
    curves = {word: falling(7.0) for word in months}
    results = entries(curves)
    early = {**results, "results": [entry for entry in results["results"] if entry["word_count"] <= 3e6]}
    for year in ("2025", "2026"):
        few = evaluate_acquisition(early, children(months), CONVENTIONS[year], Vocabulary()).values["aoa"]
        assert (few.value, few.note.split(":")[0]) == (None, "3 checkpoints are too few")
        flat = entries({word: np.full(19, 10.0) for word in months})
        never = evaluate_acquisition(flat, children(months), CONVENTIONS[year], Vocabulary())
        assert never.values["aoa"].value is None
        assert "0 words have an age" in never.values["aoa"].note
        assert never.values["words_learned"].value == 0
        alike = evaluate_acquisition(results, children(months), CONVENTIONS[year], Vocabulary()).values["aoa"]
        assert (alike.value, alike.note) == (None, "all words have the same age: no correlation")
    strangers = evaluate_acquisition(entries({"z": falling(7.0)}), children(months), CONVENTIONS["2026"], Vocabulary())
    assert strangers.values["words_learned"].value is None
    assert json.dumps(strangers.to_json())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "need a list 'results'"),
        ({"results": []}, "need a list 'results'"),
        ({"results": [{"target_word": "a", "surprisal": 1.0}]}, "entry 0 of 'results'.*needs target_word, word_count"),
        ({"results": [{"target_word": "a", "surprisal": "x", "word_count": 1}]}, "entry 0 of 'results'"),
    ],
)
def test_broken_surprisals_are_told(content, complaint):
    with pytest.raises(UserError, match=complaint):
        evaluate_acquisition(content, children({"a": 20.0}), CONVENTIONS["2025"], None)


def test_years_without_this_task_are_told():
    for year, hint in (("2023", "evaluate_acquisition_2023"), ("2024", "none")):
        with pytest.raises(UserError, match=f"for {year}: {hint}"):
            evaluate_acquisition(entries({"a": falling(7)}), children({"a": 20.0}), CONVENTIONS[year], None)


CONTEXTS = {"cats": ("Who saw the", " The dog and the two "), "sleep": ("The cats",), "owie": ()}


@pytest.mark.parametrize(("architecture", "backend"), [("llama", None), ("bert", None), ("bert", "mntp")])
def test_a_training_is_scored_one_checkpoint_at_a_time(world, architecture, backend):
    alive: list[weakref.ref] = []

    def load(seed):
        def make():
            assert all(reference() is None for reference in alive)
            made = world.as_ensemble(world.hugging_face(architecture, len(world.PLAIN), seed),
                                     vocab_size=len(world.PLAIN))  # fmt: skip
            alive.append(weakref.ref(made))
            return made

        return make

    checkpoints = [Checkpoint(f"chck_{seed}M", seed * 10**6, load(seed)) for seed in (1, 2)]
    found = trajectory(iter(checkpoints), world.PLAIN, CONTEXTS, "model", backend=backend)
    assert found["metadata"] == {"model_name": "model", "use_bos_only": False, "total_steps": 2, "completed_steps": 2}
    assert [(entry["step"], entry["word_count"], entry["target_word"], entry["context_id"], entry["context"])
            for entry in found["results"]] == [
        (f"chck_{seed}M", seed * 10**6, word, number, context)
        for seed in (1, 2) for word, texts in CONTEXTS.items() for number, context in enumerate(texts)
    ]  # fmt: skip
    for entry in found["results"]:
        hf = world.hugging_face(architecture, len(world.PLAIN), int(entry["step"][5]))
        context = entry["context"].strip() + " "
        before, ids = world.plain_ids(context.strip()), world.plain_ids(context + entry["target_word"])
        places = list(range(len(before), len(ids)))
        if backend == "mntp":
            expected = 0.0
            for place in places:
                masked = torch.tensor([[*ids[:place], world.PLAIN.mask_token_id, *ids[place + 1 :]]])
                logits = hf.double()(masked).logits[0, place - 1].detach()
                expected += float(logits.log_softmax(-1)[ids[place]])
        elif architecture == "bert":
            expected = world.slow_masked([hf], ids, places, world.PLAIN.mask_token_id)
        else:
            expected = world.slow_causal([hf], ids, places)
        assert entry["surprisal"] == pytest.approx(-expected, abs=1e-4)


def test_contexts_beyond_the_positions_are_counted(world):
    contexts = {"cats": ("Who saw the", "The dog " * 40), "dog": ("x " * 100,)}
    for architecture, count in (("gpt2", 2), ("llama", 0)):
        ensemble = world.as_ensemble(world.hugging_face(architecture, len(world.PLAIN)), vocab_size=len(world.PLAIN))
        assert contexts_cut(ensemble, world.PLAIN, contexts) == count
        assert len(checkpoint_surprisals(ensemble, world.PLAIN, contexts, "chck_1M", 10**6)) == 3


def test_variants_of_a_year_have_its_rules(world):
    ensemble = world.as_ensemble(world.hugging_face("llama", len(world.PLAIN)), vocab_size=len(world.PLAIN))
    said = trajectory([Checkpoint("chck_1M", 10**6, lambda: ensemble)], world.PLAIN, CONTEXTS, "m")
    data = AcquisitionData(CONTEXTS, np.arange(16.0, 31.0), {})
    result = evaluate_acquisition(said, data, next_token_by_mask(CONVENTIONS["2025"]), world.PLAIN)
    assert (result.convention, result.values["aoa"].value) == ("2025-mntp", None)


def test_a_backend_that_does_not_fit_is_told(world):
    ensemble = world.as_ensemble(world.hugging_face("llama", len(world.PLAIN)), vocab_size=len(world.PLAIN))
    with pytest.raises(UserError, match="'mntp' does not fit a causal model"):
        trajectory([Checkpoint("chck_1M", 10**6, lambda: ensemble)], world.PLAIN, CONTEXTS, "m", backend="mntp")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[1]", "not a JSON object of words"),
        ('{"a": [{"context": "x"}', r"words\.json:1 is not JSON"),
        ('{"a": "x"}', "'a' has no list of objects"),
        ('{"a": ["x"]}', "'a' has no list of objects"),
        ('{"a": [{"context": "x"}, {"contexts": "x"}]}', "context 1 of 'a' is None, not a text"),
        ('{"a": [{"context": " "}]}', "context 0 of 'a' is ' ', not a text"),
        ('{"a": [], "b": []}', "no word with a context"),
    ],
)
def test_broken_contexts_are_told(tmp_path, content, complaint):
    path = tmp_path / "words.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        read_contexts(path)


def test_contexts_in_another_encoding_or_nowhere_are_told(tmp_path):
    (tmp_path / "words.json").write_bytes('{"a": [{"context": "café"}]}'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_contexts(tmp_path / "words.json")
    with pytest.raises(UserError, match="there is no file"):
        read_contexts(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("word,16,17\na,0.1,0.2\n", "has 2 columns of the months 16 to 30"),
        ("words,16,17,18\na,0.1,0.2,0.3\n", r"no column 'word'; did you mean 'words'\?"),
        ("word,16,17,18\na,0.1,0.2,1.3\n", r"cdi\.csv:2: '18' is 1\.3, not a share"),
        ("word,16,17,18\na,0.1,0.2,x\n", r"cdi\.csv:2: '18' is 'x', not a number"),
        ("word,16,17,18\na,0.1,0.2,0.3\na,0.1,0.2,0.3\n", r"cdi\.csv:3 has the word 'a' again"),
    ],
)
def test_broken_shares_are_told(tmp_path, content, complaint):
    path = tmp_path / "cdi.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        read_shares(path)


@pytest.mark.data
def test_the_real_words(real_data, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(real_data))
    data = find_acquisition()
    assert (len(data.contexts), sum(map(len, data.contexts.values()))) == (504, 8005)
    assert sum(not texts for texts in data.contexts.values()) == 19
    assert set(data.contexts) == set(data.shares)
    months = {word: child_age(data.ages, shares) for word, shares in data.shares.items()}
    known = {word: age for word, age in months.items() if age is not None}
    assert 300 < len(known) < 504
    assert known["airplane"] < known["alligator"]
