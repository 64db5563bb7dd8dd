"""Every rule that changed from year to year, on items worked out by hand: a bigram table says how likely tokens are."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, next_token_by_mask
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.likelihood.causal import log_probs
from tutelage.evaluation.suites.suites import evaluate_suite, find_suite, judge

WORDS = "the a cat cats sleep sleeps red blue box nothing"
YEARS = ("2023", "2024", "2025", "2026")


def write(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    return tmp_path / "eval"


def sums(ensemble, tokenizer, items, convention):
    return log_probs(ensemble, tokenizer, items, convention)


def test_what_stands_before_a_sentence_and_whether_its_first_token_is_scored(world):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(
        tokenizer, {"</s>": {" the": 0.5}, "<s>": {" the": 0.25}, " the": {" cat": 0.4}, "the": {" cat": 0.1}}
    )
    by_hand = {
        "2023": log(0.5) + log(0.4),  # </s>, then the sentence with a space
        "2024": log(0.25) + log(0.4),  # <s>, then the same
        "2025": log(0.1),  # nothing in front, no space; the first token is context only
        "2026": log(0.1),
    }
    for year in YEARS:
        found = sums(ensemble, tokenizer, [Item("the cat")], CONVENTIONS[year])
        assert found.sum_N[0] == pytest.approx(by_hand[year], abs=1e-6)
        assert found.tokens_N[0] == (2 if year in ("2023", "2024") else 1)


def test_since_2025_a_token_that_the_tokenizer_itself_prepends_lets_the_first_word_count(world):
    tokenizer = world.spaced_tokenizer(WORDS, template="<s> $A </s>")
    ensemble = world.bigram(tokenizer, {"<s>": {"the": 0.25}, "the": {" cat": 0.4}, " cat": {"</s>": 0.125}})
    found = sums(ensemble, tokenizer, [Item("the cat")], CONVENTIONS["2025"])
    assert (found.sum_N[0], found.tokens_N[0]) == (pytest.approx(log(0.25) + log(0.4), abs=1e-6), 2)


def test_a_completion_after_a_prefix_has_neither_start_token_nor_space_in_any_year(world):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(tokenizer, {"the": {" cat": 0.4}, " cat": {" sleeps": 0.2}})
    for year in YEARS:
        found = sums(ensemble, tokenizer, [Item(" sleeps", prefix="the cat")], CONVENTIONS[year])
        assert found.sum_N[0] == pytest.approx(log(0.2), abs=1e-6)


def test_masked_models_sum_in_every_year_but_2024(world):
    tokenizer = world.spaced_tokenizer(WORDS)
    # What stands at the mask decides: the mask's own row.
    ensemble = world.bigram(tokenizer, {"<mask>": {"the": 0.3, " the": 0.2, " cat": 0.1, " ": 0.05}}, kind="masked")
    items = [Item("the cat")]
    found = {year: sums(ensemble, tokenizer, items, CONVENTIONS[year]) for year in YEARS}
    reduced = {year: found[year].reduced(CONVENTIONS[year].masked.reduction)[0] for year in YEARS}
    assert reduced["2023"] == pytest.approx(log(0.2) + log(0.1), abs=1e-6)
    # "</s>" and the separator before " the": a space of its own, which is scored as well.
    assert reduced["2024"] == pytest.approx((log(0.05) + log(0.2) + log(0.1)) / 3, abs=1e-6)
    assert reduced["2025"] == reduced["2026"] == pytest.approx(log(0.3) + log(0.1), abs=1e-6)


def test_masked_models_ignored_the_prefix_in_2023_only(world):
    tokenizer = world.spaced_tokenizer(WORDS)
    seen = {}
    ensemble = world.bigram(tokenizer, {}, kind="masked")
    signal = ensemble.dense_signal
    for year in YEARS:
        widths = seen.setdefault(year, [])
        ensemble.dense_signal = lambda tokens, *rest, widths=widths: (
            widths.append(tokens.shape[1]) or signal(tokens, *rest)
        )
        sums(ensemble, tokenizer, [Item(" sleeps", prefix="the cat")], CONVENTIONS[year])
    # 2024 puts a separator between, which here is a token.
    assert seen == {"2023": [1], "2024": [4], "2025": [3], "2026": [3]}


def test_masked_next_token_reads_the_position_before(world):
    likely = {"the": {" cat": 0.4}, " cat": {" sleeps": 0.2}, "<cls>": {"the": 0.25}, " sleeps": {"the": 0.125}}
    convention = next_token_by_mask(CONVENTIONS["2025"])
    assert convention.name == "2025-mntp"
    # A tokenizer that puts cls in front: every token is scored.
    framed = world.spaced_tokenizer(WORDS, template="<cls> $A <sep>")
    found = sums(world.bigram(framed, likely, "masked"), framed, [Item("the cat sleeps")], convention)
    assert found.sum_N[0] == pytest.approx(log(0.25) + log(0.4) + log(0.2), abs=1e-6)
    # One that defines no cls and no bos: the first token is not scored.
    bare = world.spaced_tokenizer(WORDS, {"pad_token": "<pad>", "mask_token": "<mask>"})
    rows = {before: after for before, after in likely.items() if before != "<cls>"}
    found = sums(world.bigram(bare, rows, "masked"), bare, [Item("the cat sleeps")], convention)
    assert (found.sum_N[0], found.tokens_N[0]) == (pytest.approx(log(0.4) + log(0.2), abs=1e-6), 2)
    # The caveat: defined, but not put in front. The code then reads index -1, the last position.
    caveat = world.spaced_tokenizer(WORDS)
    found = sums(world.bigram(caveat, likely, "masked"), caveat, [Item("the cat sleeps")], convention)
    assert found.sum_N[0] == pytest.approx(log(0.125) + log(0.4) + log(0.2), abs=1e-6)


def test_ties_were_right_until_2025_and_are_drawn_in_2026(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(tokenizer, {"the": {" cat": 0.3, " cats": 0.3}})
    texts = [f"the cat{end}" for end in ("", " sleep", " sleeps", " red", " blue", " box", " the", " a")]
    rows = [{"sentence_good": text, "sentence_bad": text.replace("cat", "cats")} for text in texts * 8]
    write(benchmarks / "blimp_fast" / "p.jsonl", [{**row, "UID": f"u{i % 8}"} for i, row in enumerate(rows)])
    results = {year: evaluate_suite(ensemble, tokenizer, find_suite("blimp-fast"), CONVENTIONS[year]) for year in YEARS}
    assert [results[year].macro("accuracy") for year in YEARS[:3]] == [1, 1, 1]
    assert [result.macro("strict") for result in results.values()] == [0] * 4
    drawn = np.concatenate(list(results["2026"].chosen.values()))
    assert set(drawn) == {0, 1}
    assert results["2026"].macro("accuracy") == np.mean(drawn == 0)


EWOK = {"Domain": "boxes", "Context1": "the red", "Context2": "a blue", "Target1": "box", "Target2": "cat",
        "ContextType": "direct", "ContextDiff": "x", "TargetDiff": "y"}  # fmt: skip


def test_ewok_compares_targets_until_2025_and_contexts_in_2026(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    # After the first context target 1 is less likely than target 2, and more likely than after the second context.
    ensemble = world.bigram(tokenizer, {" red": {" box": 0.2, " cat": 0.5}, " blue": {" box": 0.1, " cat": 0.6}})
    swapped = {key.translate(str.maketrans("12", "21")): value for key, value in EWOK.items()}
    write(benchmarks / "ewok_filtered" / "boxes.jsonl", [EWOK, swapped])
    by_hand = {
        "2024": [[log(0.2), log(0.5)], [log(0.6), log(0.1)]],
        "2025": [[log(0.2), log(0.5)], [log(0.6), log(0.1)]],
        "2026": [[log(0.2), log(0.1)], [log(0.6), log(0.5)]],
    }
    accuracies = {}
    for year, expected in by_hand.items():
        convention = CONVENTIONS[year]
        result = evaluate_suite(ensemble, tokenizer, find_suite("ewok", convention), convention)
        np.testing.assert_allclose(result.log_probs["boxes"], expected, atol=1e-6)
        accuracies[year] = result.macro("accuracy")
    assert accuracies == {"2024": 0.5, "2025": 0.5, "2026": 1.0}


def test_ewok_in_whole_texts_is_an_option_of_2025(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(tokenizer, {"the": {" red": 0.3}, " red": {" box": 0.2, " cat": 0.5}, "a": {" blue": 0.25}})
    write(benchmarks / "ewok_filtered" / "boxes.jsonl", [EWOK])
    whole = replace(CONVENTIONS["2025"], name="2025-whole", items=replace(CONVENTIONS["2025"].items, ewok_whole=True))
    result = evaluate_suite(ensemble, tokenizer, find_suite("ewok", whole), whole)
    expected = [[log(0.3) + log(0.2), log(0.3) + log(0.5)]]
    np.testing.assert_allclose(result.log_probs["boxes"], expected, atol=1e-6)


def test_a_suite_read_by_one_year_is_not_scored_by_another(benchmarks):
    write(benchmarks / "ewok_filtered" / "boxes.jsonl", [EWOK])
    with pytest.raises(UserError, match=r"'ewok' was read by other rules than those of 2026.*find_suite"):
        judge(find_suite("ewok", CONVENTIONS["2025"]), np.zeros(2), CONVENTIONS["2026"])


def entity(prefix, options, operations):
    return {"input_prefix": prefix, "options": options, "numops": operations}


def test_entity_tracking_drops_nothing_in_2026_and_averages_operations_then_splits(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(tokenizer, {" box": {" red": 0.4, " blue": 0.3, " cat": 0.1, " nothing": 0.05}})
    right, wrong = [" red", " blue", " cat"], [" blue", " red", " cat"]
    with_nothing = [" nothing", " red"]
    folder = benchmarks / "entity_tracking"
    regular = [entity("the box", right, 0)] * 3 + [entity("the box", wrong, 0)]
    regular += [entity("the box", wrong, 1), entity("the box", with_nothing, 1)]
    write(folder / "regular.jsonl", regular)
    write(folder / "ambiref.jsonl", [entity("the box", right, 2)])
    found = {}
    for year in ("2025", "2026"):
        convention = CONVENTIONS[year]
        result = evaluate_suite(ensemble, tokenizer, find_suite("entity-tracking", convention), convention)
        found[year] = {uid: (score.accuracy, score.n) for uid, score in result.paradigms.items()}
        # regular: 3 of 4 without operations, none of 2 or 1 with one; ambiref: all.
        assert result.macro("accuracy") == pytest.approx(((0.75 + 0) / 2 + 1) / 2)
        assert result.to_json()["phenomena"] == {"ambiref": 1, "regular": 0.375}
    assert found["2025"] == {"ambiref_2_ops": (1, 1), "regular_0_ops": (0.75, 4), "regular_1_ops": (0, 2)}
    assert found["2026"] == {"ambiref_2_ops": (1, 1), "regular_0_ops": (0.75, 4), "regular_1_ops": (0, 1)}
    np.testing.assert_allclose(result.log_probs["ambiref_2_ops"], [[log(0.4), log(0.3), log(0.1)]], atol=1e-6)


def test_options_may_differ_in_number_within_a_paradigm(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(tokenizer, {" box": {" red": 0.4, " blue": 0.3, " cat": 0.1}})
    options = [[" red", " blue", " cat"], [" blue", " cat"], [" cat", " blue", " red"]]
    write(benchmarks / "entity_tracking" / "regular.jsonl", [entity("the box", option, 0) for option in options])
    result = evaluate_suite(ensemble, tokenizer, find_suite("entity-tracking"), CONVENTIONS["2025"])
    inf = float("inf")
    expected = [[log(0.4), log(0.3), log(0.1)], [log(0.3), log(0.1), -inf], [log(0.1), log(0.3), log(0.4)]]
    np.testing.assert_allclose(result.log_probs["regular_0_ops"], expected, atol=1e-6)
    assert result.chosen["regular_0_ops"].tolist() == [0, 0, 2]
    np.testing.assert_allclose(result.margins()["entity-tracking/regular_0_ops"][1], log(0.3) - log(0.1), atol=1e-6)


def test_global_piqa_takes_means_over_tokens(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(
        tokenizer, {"the": {" cat": 0.3, " box": 0.25}, " cat": {" sleeps": 0.5}, " sleeps": {" red": 0.5}}
    )
    row = {"prompt": "the", "solution0": "box", "solution1": "cat sleeps red", "label": 1, "example_id": "x1"}
    write(benchmarks / "global_piqa_nonparallel" / "eng_latn.jsonl", [row])
    suite = find_suite("global-piqa-nonparallel")
    result = evaluate_suite(ensemble, tokenizer, suite, CONVENTIONS["2026"])
    mean = (log(0.3) + 2 * log(0.5)) / 3
    # By sums the short solution would win: log 0.25 against log 0.075.
    np.testing.assert_allclose(result.log_probs["eng_latn"], [[mean, log(0.25)]], atol=1e-6)
    assert result.macro("strict") == 1
    summing = replace(CONVENTIONS["2026"], name="2026-sums", length_normalised=())
    assert evaluate_suite(ensemble, tokenizer, suite, summing).macro("strict") == 0
    assert suite.paradigms[0].questions[0].name == "x1"


def test_blimp_pooled_its_phenomena_in_2023(world, benchmarks):
    tokenizer = world.spaced_tokenizer(WORDS)
    ensemble = world.bigram(tokenizer, {"the": {" cat": 0.4, " cats": 0.3}})
    good, bad = {"sentence_good": "the cat", "sentence_bad": "the cats"}, {
        "sentence_good": "the cats", "sentence_bad": "the cat"}  # fmt: skip
    kind = {"field": "morphology", "linguistics_term": "agreement"}
    write(benchmarks / "blimp" / "a.jsonl", [{**good, **kind, "UID": "a"}] * 3)
    write(benchmarks / "blimp" / "b.jsonl", [{**bad, **kind, "UID": "b"}])
    other = {"field": "syntax", "linguistics_term": "islands", "UID": "c"}
    write(benchmarks / "blimp" / "c.jsonl", [{**bad, **other}])
    # 2023 begins with </s> and a space: tokens of which the table knows nothing are equally likely, hence ties.
    for year, expected in (("2025", (1 + 0 + 0) / 3), ("2026", (1 + 0 + 0) / 3)):
        assert evaluate_suite(ensemble, tokenizer, find_suite("blimp"), CONVENTIONS[year]).macro("accuracy") == expected
    spaced = world.bigram(tokenizer, {" the": {" cat": 0.4, " cats": 0.3}})
    result = evaluate_suite(spaced, tokenizer, find_suite("blimp"), CONVENTIONS["2023"])
    assert result.macro("accuracy") == pytest.approx((3 / 4 + 0) / 2)
