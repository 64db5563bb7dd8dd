"""Reading times: the table, the linear models against least squares by hand, and a whole score."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.psychometrics import reading, tables
from tutelage.evaluation.psychometrics.reading import (
    BASELINE,
    EYE_TRACKING,
    SELF_PACED,
    evaluate_reading,
    explained,
    find_reading,
    read_reading,
)
from tutelage.evaluation.psychometrics.surprisal import Following, surprisals

needs_statsmodels = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("statsmodels"), reason="statsmodels is not installed"
)
YEAR = CONVENTIONS["2025"]
SENTENCES = ["The cats sleep on the mat", "A dog that barks never bites its owner", "None of the cats sleep"]


def sentence_rows(seed=0, repeats=5):
    """Every word but each sentence's first, with reading times drawn at random."""
    draw = np.random.default_rng(seed)
    rows = []
    for sentence in SENTENCES * repeats:
        words = sentence.split()
        for place in range(1, len(words)):
            times = {name: f"{draw.uniform(150, 400):.3f}" for name in (*EYE_TRACKING, SELF_PACED)}
            previous = {"prev_item": " ".join(words[: place - 1]), "prev_word": words[place - 1] if place > 1 else ""}
            rows.append({"item": " ".join(words[:place]), "word": words[place], **previous,
                         "prev_length": str(len(words[place - 1]) if place > 1 else -1),
                         "Subtlex_log10": f"{draw.uniform(3, 14):.3f}", "length": str(len(words[place])),
                         "context_length": str(place), **times})  # fmt: skip
    return rows


def write(path, rows, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def by_hand(times, predictors, pred):
    """100 times the drop of the residual sum of squares, by least squares on columns written out one by one."""
    keep = ~(np.isnan(times) | np.isnan(np.column_stack(predictors)).any(1) | np.isnan(pred))
    y, p = times[keep], [column[keep] for column in predictors]
    X = [np.ones(len(y)), *p]
    for i in range(len(p)):
        for j in range(i):
            X.append(p[i] * p[j])
    left = []
    for columns in (X, [*X, pred[keep]]):
        matrix = np.column_stack(columns)
        matrix = matrix / np.abs(matrix).max(0)
        coefficients = np.linalg.lstsq(matrix, y, rcond=None)[0]
        left.append(((y - matrix @ coefficients) ** 2).sum())
    return 100 * (left[0] - left[1]) / left[0]


@needs_statsmodels
def test_the_gain_is_that_of_least_squares_by_hand(tmp_path):
    rows = sentence_rows()
    rows[3]["Subtlex_log10"] = rows[5]["RTgopast"] = ""
    data = read_reading(write(tmp_path / "r.csv", rows))
    draw = np.random.default_rng(1)
    pred = draw.uniform(1, 12, len(rows))
    prev = np.where([pair is None for pair in data.previous], np.nan, draw.uniform(1, 12, len(rows)))
    values = explained(data, pred, prev)
    base = [data.measures[name] for name in BASELINE]
    expected = {name: by_hand(data.measures[name], base, pred) for name in EYE_TRACKING}
    for name, number in expected.items():
        assert values[name].value == pytest.approx(number, abs=1e-8)
    assert values["eye_tracking"].value == pytest.approx(np.mean(list(expected.values())), abs=1e-8)
    assert [values[name].n for name in EYE_TRACKING] == [len(rows) - 1, len(rows) - 1, len(rows) - 2, len(rows) - 1]
    spilled = by_hand(data.measures[SELF_PACED], [*base, data.measures["prev_length"], prev], pred)
    assert values["self_paced_reading"].value == pytest.approx(spilled, abs=1e-8)
    assert values["self_paced_reading"].n == sum(pair is not None for pair in data.previous) - 1


@needs_statsmodels
def test_a_surprisal_that_decides_the_times_explains_them_all(tmp_path):
    rows = sentence_rows()
    pred = np.random.default_rng(2).uniform(1, 12, len(rows))
    for row, one in zip(rows, pred, strict=True):
        row["RTfirstfix"] = repr(100 + 3 * float(row["length"]) + 20 * float(one))
    values = explained(read_reading(write(tmp_path / "r.csv", rows)), pred, np.full(len(rows), np.nan))
    assert values["RTfirstfix"].value == pytest.approx(100)
    assert values["RTgopast"].value < 50


@needs_statsmodels
def test_numbers_that_cannot_be_told_have_a_reason(tmp_path):
    rows = sentence_rows()
    for row in rows:
        row["RTfirstpass"] = "200"
    data = read_reading(write(tmp_path / "r.csv", rows))
    pred = np.random.default_rng(3).uniform(1, 12, len(rows))
    pred[4] = np.inf
    values = explained(data, pred, np.full(len(rows), np.nan))
    assert values["RTfirstpass"].value is None
    assert values["RTfirstpass"].note == "RTfirstpass is the same for all words"
    assert (values["eye_tracking"].value, values["self_paced_reading"].value) == (None, None)
    assert "0 words are too few" in values["self_paced_reading"].note
    assert values["RTgopast"].value is not None
    assert values["RTgopast"].note == "1 words without a finite surprisal are left out"
    for row in rows:
        row["RTrightbound"] = repr(100 + 3 * float(row["length"]) - float(row["Subtlex_log10"]))
    done = explained(read_reading(write(tmp_path / "r.csv", rows)), pred, np.full(len(rows), np.nan))["RTrightbound"]
    assert (done.value, done.note) == (None, "nothing is left of RTrightbound to explain")
    few = read_reading(write(tmp_path / "few.csv", rows[:6]))
    assert "too few to fit" in explained(few, pred[:6], pred[:6])["eye_tracking"].note


@needs_statsmodels
@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_a_whole_score(world, tmp_path, architecture, as_published):
    rows = sentence_rows()
    data = read_reading(write(tmp_path / "r.csv", rows))
    ensemble = world.as_ensemble(world.hugging_face(architecture, len(world.PLAIN)), vocab_size=len(world.PLAIN))
    result = evaluate_reading(ensemble, world.PLAIN, data, YEAR, as_published=as_published)
    predictions = result.predictions["reading"]["predictions"]
    assert [entry["id"] for entry in predictions] == list(range(len(rows)))
    words = [Following(row["word"], row["item"]) for row in rows]
    pred = surprisals(ensemble, world.PLAIN, words, as_published=as_published)
    np.testing.assert_allclose([entry["pred"] for entry in predictions], pred, rtol=1e-6)
    expected = []
    for row in rows:
        # The published code reads the context "None" as an empty cell.
        there = row["prev_item"] and not (as_published and row["prev_item"] == "None")
        one = [Following(row["prev_word"], row["prev_item"])] if there else []
        found = surprisals(ensemble, world.PLAIN, one, as_published=as_published) if there else [np.nan]
        expected.append(found[0])
    prev = np.array([np.nan if entry["prev_pred"] is None else entry["prev_pred"] for entry in predictions])
    np.testing.assert_allclose(prev, expected, rtol=1e-5)
    base = [data.measures[name] for name in BASELINE]
    mean = np.mean([by_hand(data.measures[name], base, pred) for name in EYE_TRACKING])
    assert (result.name, result.convention, result.headline) == ("reading", "2025", "eye_tracking")
    assert result.values["eye_tracking"].value == pytest.approx(mean, abs=1e-5)
    assert result.values["eye_tracking"].unit == "percent"
    assert set(result.to_json()["values"]) == {"eye_tracking", "self_paced_reading", *EYE_TRACKING}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda rows: [row.pop("RTgopast") for row in rows], r"no column 'RTgopast'.*its columns: item"),
        (lambda rows: rows[1].update(length="long"), r"r\.csv:3: 'length' is 'long', not a number"),
        (lambda rows: rows[0].update(RTgopast="inf"), r"r\.csv:2: 'RTgopast' is 'inf', not a number"),
        (lambda rows: rows[2].update(word=" "), r"r\.csv:4 has no 'word'"),
        (lambda rows: rows.clear(), "a header and no rows"),
    ],
)
def test_broken_tables_are_told_with_their_line(tmp_path, change, complaint):
    rows = sentence_rows()
    header = list(rows[0])
    change(rows)
    path = tmp_path / "r.csv"
    write(path, rows) if rows else path.write_text(",".join(header) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        read_reading(path)


def test_other_files_are_told(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_reading(tmp_path / "none.csv")
    rows = sentence_rows()
    rows[0]["word"] = "café"
    with pytest.raises(UserError, match=r"not UTF-8 text .* convert it first"):
        read_reading(write(tmp_path / "latin.csv", rows, "latin-1"))
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="its columns: none"):
        read_reading(tmp_path / "empty.csv")
    cut = write(tmp_path / "cut.csv", sentence_rows())
    cut.write_text(cut.read_text(encoding="utf-8")[:-60], encoding="utf-8")
    with pytest.raises(UserError, match="another number of cells"):
        read_reading(cut)
    (tmp_path / "quote.csv").write_text('item,word\n"open\n', encoding="utf-8")
    with pytest.raises(UserError, match="not a CSV file"):
        read_reading(tmp_path / "quote.csv")


def test_a_missing_library_is_told_before_anything_is_scored(monkeypatch, tmp_path):
    def refuse(name):
        raise ImportError(name)

    data = read_reading(write(tmp_path / "r.csv", sentence_rows()))
    monkeypatch.setattr(tables.importlib, "import_module", refuse)
    monkeypatch.setattr(reading, "surprisals", lambda *_: pytest.fail("scored"))
    with pytest.raises(UserError, match=r"pip install 'tutelage\[stats\]'"):
        evaluate_reading(None, None, data, YEAR)


def test_an_empty_context_is_the_word_none(tmp_path):
    rows = sentence_rows()
    rows[0]["item"] = ""
    assert read_reading(write(tmp_path / "r.csv", rows)).words[0] == Following(rows[0]["word"], "None")


def test_the_benchmark_is_looked_for_with_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"'reading' are not on this machine.*osf\.io/ryjfm"):
        find_reading()
    (tmp_path / "eval" / "reading").mkdir(parents=True)
    write(tmp_path / "eval" / "reading" / "reading_data.csv", sentence_rows())
    assert len(find_reading().words) == len(sentence_rows())


@pytest.mark.data
def test_the_real_table(real_data):
    data = read_reading(real_data / "eval" / "reading" / "reading_data.csv")
    assert len(data.words) == 1726
    assert [pair.word for pair in data.words if pair.context == "None"] == ["of"]
    # 205 sentences begin; pandas takes one more context, the word "None", for a missing cell.
    assert sum(pair is None for pair in data.previous) == 205
    assert [pair.word for pair in data.previous if pair and pair.context == "None"] == ["of"]
    assert np.isnan(data.measures["Subtlex_log10"]).sum() == 30
