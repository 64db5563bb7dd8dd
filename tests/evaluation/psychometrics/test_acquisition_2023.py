"""The linear model of 2023 against one fitted word by word, and its table."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.psychometrics.acquisition_2023 import evaluate_acquisition_2023, mean_surprisals
from tutelage.evaluation.psychometrics.acquisition_data import CATEGORIES, Predictors, read_predictors

needs_statsmodels = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("statsmodels"), reason="statsmodels is not installed"
)


def table(n=60, seed=0, categories=CATEGORIES):
    draw = np.random.default_rng(seed)
    chosen = tuple(categories[index % len(categories)] for index in range(n))
    return Predictors(
        tuple(f"w{index}" for index in range(n)), draw.uniform(15, 33, n), chosen, draw.uniform(1, 5, n),
        draw.integers(1, 9000, n).astype(float), False,
    )  # fmt: skip


def surprisals_of(predictors, seed=1):
    draw = np.random.default_rng(seed)
    return {word: float(draw.uniform(2, 14)) for word in predictors.words}


def one_by_one(predictors, surprisals):
    """Months each word is missed by, from a model fitted to the others: every column written out."""
    unigram = -np.log(predictors.unigram / predictors.unigram.sum())
    surprisal = np.array([surprisals[word] for word in predictors.words])
    slope, intercept = np.polyfit(unigram, surprisal, 1)
    S, U, C = ((v - v.mean()) / v.std() for v in (surprisal - slope * unigram - intercept, unigram,
                                                  predictors.concreteness))  # fmt: skip
    F, P = (np.array([category == name for category in predictors.categories], dtype=float)
            for name in ("function_words", "predicates"))  # fmt: skip
    X = np.column_stack([np.ones_like(S), F, P, C, S, U, F * C, F * S, F * U, P * C, P * S, P * U])
    missed = []
    for left_out in range(len(S)):
        others = np.arange(len(S)) != left_out
        coefficients = np.linalg.lstsq(X[others], predictors.ages[others], rcond=None)[0]
        missed.append(abs(predictors.ages[left_out] - X[left_out] @ coefficients))
    return np.array(missed)


@needs_statsmodels
def test_each_word_is_left_out_in_turn():
    predictors = table()
    surprisals = surprisals_of(predictors)
    missed = one_by_one(predictors, surprisals)
    result = evaluate_acquisition_2023(surprisals, predictors)
    assert (result.convention, result.headline) == ("2023", "aoa")
    assert result.values["aoa"].value == pytest.approx(missed.mean())
    assert (result.values["aoa"].unit, result.values["aoa"].better, result.values["aoa"].n) == ("months", "lower", 60)
    for name in CATEGORIES:
        members = np.array([category == name for category in predictors.categories])
        assert result.values[f"aoa_{name}"].value == pytest.approx(missed[members].mean())
        assert result.values[f"aoa_{name}"].n == 20
    assert result.values["aoa_without_surprisal"].value != pytest.approx(missed.mean())


@needs_statsmodels
def test_a_surprisal_that_tells_the_age_misses_nothing():
    predictors = table()
    ages = dict(zip(predictors.words, predictors.ages.tolist(), strict=True))
    values = evaluate_acquisition_2023(ages, predictors).values
    assert values["aoa"].value < 1e-9
    assert values["aoa_without_surprisal"].value > 1


@needs_statsmodels
def test_words_without_surprisal_and_categories_without_words_are_left_out():
    predictors = table(categories=("nouns", "predicates"))
    surprisals = surprisals_of(predictors)
    del surprisals["w3"]
    surprisals["w5"] = float("nan")
    result = evaluate_acquisition_2023(surprisals, predictors)
    kept = [index for index in range(60) if index not in (3, 5)]
    part = Predictors(
        tuple(predictors.words[index] for index in kept), predictors.ages[kept],
        tuple(predictors.categories[index] for index in kept), predictors.concreteness[kept],
        predictors.unigram[kept], False,
    )  # fmt: skip
    assert result.values["aoa"].value == pytest.approx(one_by_one(part, surprisals).mean())
    assert result.values["aoa"].note == "2 words without surprisal are left out"
    assert "aoa_function_words" not in result.values
    with pytest.raises(UserError, match="none of the 60 words"):
        evaluate_acquisition_2023({}, predictors)


@needs_statsmodels
def test_a_scaled_unigram_gives_the_same():
    predictors = table()
    unigram = -np.log(predictors.unigram / predictors.unigram.sum())
    scaled = Predictors(predictors.words, predictors.ages, predictors.categories, predictors.concreteness,
                        (unigram - 4) / 3, True)  # fmt: skip
    surprisals = surprisals_of(predictors)
    plain, other = (evaluate_acquisition_2023(surprisals, one).values["aoa"].value for one in (predictors, scaled))
    assert plain == pytest.approx(other)


@needs_statsmodels
def test_what_cannot_be_told_has_a_reason():
    few = table(9)
    value = evaluate_acquisition_2023(surprisals_of(few), few).values["aoa"]
    assert (value.value, value.note[:25]) == (None, "9 words are too few, or o")
    lonely = table(40, categories=("nouns",))
    lonely = Predictors(lonely.words, lonely.ages, ("predicates", *lonely.categories[1:]), lonely.concreteness,
                        lonely.unigram, False)  # fmt: skip
    assert evaluate_acquisition_2023(surprisals_of(lonely), lonely).values["aoa"].value is None
    same = table()
    values = evaluate_acquisition_2023(dict.fromkeys(same.words, 7.0), same).values
    assert values["aoa"].value == pytest.approx(values["aoa_without_surprisal"].value)


def test_the_mean_of_a_words_contexts():
    entries = [{"target_word": word, "surprisal": value} for word, value in (("a", 1.0), ("b", 5.0), ("a", 2.0))]
    assert mean_surprisals(entries) == {"a": 1.5, "b": 5.0}


OFFICIAL = "language,uni_lemma,lexical_category,category,definition,word_clean,aoa,concreteness,frequency\n"
OTHER = "uni_lemma,definition,category,lexical_category,concreteness,aoa_months,unigram_surprisal_scaled\n"


def test_both_kinds_of_table_are_read(tmp_path):
    path = tmp_path / "w.csv"
    path.write_text(OFFICIAL + "English,a,nouns,x,|a, the|,a,20.5,1.5,17\n", encoding="utf-8")
    found = read_predictors(path)
    assert (found.words, found.ages[0], found.unigram[0], found.scaled) == (("a",), 20.5, 17, False)
    path.write_text(OTHER + '"a","a",x,predicates,1.5,20.5,-0.25\n', encoding="utf-8")
    found = read_predictors(path)
    assert (found.words, found.categories, found.unigram[0], found.scaled) == (("a",), ("predicates",), -0.25, True)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (OFFICIAL + "E,a,verbs,x,a,a,20.5,1.5,17\n", r"w\.csv:2: 'lexical_category' is 'verbs'.*known: nouns"),
        (OFFICIAL + "E,a,nouns,x,a,a,,1.5,17\n", r"w\.csv:2 has no 'aoa'"),
        (OFFICIAL + "E,a,nouns,x,a,a,20,1.5,0\n", r"w\.csv:2: 'frequency' is 0, not a count"),
        (OFFICIAL + "E,a,nouns,x,a,,20,1.5,3\n", r"w\.csv:2 has no 'word_clean'"),
        (OTHER.replace("aoa_months", "age") + "a,a,x,nouns,1,2,3\n", "neither 'aoa' nor 'aoa_months'"),
        (OTHER.replace("concreteness", "concrete") + "a,a,x,nouns,1,2,3\n", "did you mean 'concrete'"),
    ],
)
def test_broken_tables_are_told(tmp_path, content, complaint):
    path = tmp_path / "w.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        read_predictors(path)


@needs_statsmodels
@pytest.mark.data
def test_the_real_table(real_data):
    predictors = read_predictors(real_data / "eval" / "aoa" / "english_american_predictors.csv")
    assert len(predictors.words) == 88
    assert set(predictors.categories) == {"nouns", "predicates"}
    values = evaluate_acquisition_2023(surprisals_of(predictors), predictors).values
    assert 1 < values["aoa_without_surprisal"].value < 4
    assert 1 < values["aoa"].value < 4
