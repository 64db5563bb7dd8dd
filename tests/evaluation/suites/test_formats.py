"""Files as published become questions; broken ones are told with their place. (Minimal pairs: `test_suites.py`.)"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.suites.sources import SOURCES
from tutelage.evaluation.suites.suites import evaluate, find_suite, items_of, judge

EWOK = {"Domain": "spatial-relations", "Context1": "The cup is left of Ann.", "Context2": "The cup is right of Ann.",
        "Target1": "Ann looks left.", "Target2": "Ann looks right.", "ContextType": "direct",
        "ContextDiff": "left/right", "TargetDiff": "left/right"}  # fmt: skip
ENTITY = {"input_prefix": "Box 0 contains the ring. Box 0 contains", "options": [" the ring", " the coin"], "numops": 0}
COMPS = {"id": 1, "prefix_acceptable": "A robin", "prefix_unacceptable": "A trout", "property_phrase": "can fly."}
PIQA = {"prompt": "To dry a cup,", "solution0": "wet it.", "solution1": "wipe it.", "label": 1, "example_id": "p0"}
WUG = {"sentences": "They veeded.\tThey ved.\tThey vode.", "ratio": 0.7}
NAMES = {"ewok": EWOK, "entity-tracking": ENTITY, "global-piqa": PIQA, "wug-past": WUG}


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "eval"


def write(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def put(benchmarks, name, row):
    write(benchmarks / SOURCES[name].folder / "regular.jsonl", [row])


def test_ewok(benchmarks):
    put(benchmarks, "ewok", EWOK)
    paradigm = find_suite("ewok").paradigms[0]
    assert (paradigm.uid, paradigm.phenomenon) == ("spatial-relations", None)
    context = "The cup is left of Ann."
    assert paradigm.questions[0].options == (Item(" Ann looks left.", context), Item(" Ann looks right.", context))
    paradigm = find_suite("ewok", CONVENTIONS["2026"]).paradigms[0]
    other = "The cup is right of Ann."
    assert paradigm.questions[0].options == (Item(" Ann looks left.", context), Item(" Ann looks left.", other))


def test_entity_tracking(benchmarks):
    put(benchmarks, "entity-tracking", ENTITY)
    paradigm = find_suite("entity-tracking").paradigms[0]
    assert (paradigm.uid, paradigm.phenomenon) == ("regular_0_ops", "regular")
    prefix = ENTITY["input_prefix"]
    assert paradigm.questions[0].options == (Item(" the ring", prefix), Item(" the coin", prefix))


def test_a_split_that_the_rules_drop_whole_is_told(benchmarks):
    put(benchmarks, "entity-tracking", {**ENTITY, "options": [" nothing", " the coin"]})
    assert len(items_of(find_suite("entity-tracking"))) == 2
    with pytest.raises(UserError, match=r"regular\.jsonl has an option with 'nothing'.*2026"):
        find_suite("entity-tracking", CONVENTIONS["2026"])


def test_comps_is_four_files(benchmarks):
    folder = benchmarks / "comps"
    names = ("comps_base", "comps_wugs", "comps_wugs_dist-before", "comps_wugs_dist-in-between")
    for index, name in enumerate(names, start=1):
        write(folder / f"{name}.jsonl", [COMPS] * index)
    paradigms = find_suite("comps").paradigms
    assert [(paradigm.uid, len(paradigm.questions)) for paradigm in paradigms] == [
        ("base", 1), ("wugs", 2), ("wugs_dist_before", 3), ("wugs_dist_in_between", 4)]  # fmt: skip
    assert paradigms[0].questions[0].options == (Item("can fly.", "A robin "), Item("can fly.", "A trout "))
    (folder / "comps_wugs.jsonl").unlink()
    with pytest.raises(UserError, match=r"comps_wugs\.jsonl is missing"):
        find_suite("comps")
    write(folder / "comps_wugs.jsonl", [COMPS])
    write(folder / "comps_more.jsonl", [COMPS])
    with pytest.raises(UserError, match=r"comps_more\.jsonl is one too many"):
        find_suite("comps")


def test_the_mean_of_comps_is_over_its_files(benchmarks):
    folder = benchmarks / "comps"
    for name, count in (("base", 4), ("wugs", 1), ("wugs_dist-before", 1), ("wugs_dist-in-between", 1)):
        write(folder / f"comps_{name}.jsonl", [COMPS] * count)
    suite = find_suite("comps")
    scores = np.array([-1.0, -2.0] * 4 + [-2.0, -1.0] * 3)
    assert judge(suite, scores, CONVENTIONS["2026"]).macro("accuracy") == 0.25


def test_global_piqa_with_two_to_four_solutions(benchmarks):
    put(benchmarks, "global-piqa", PIQA)
    question = find_suite("global-piqa").paradigms[0].questions[0]
    assert question.options == (Item(" wipe it.", PIQA["prompt"]), Item(" wet it.", PIQA["prompt"]))
    put(benchmarks, "global-piqa", {**PIQA, "solution2": "c.", "solution3": "d.", "label": 2})
    options = find_suite("global-piqa").paradigms[0].questions[0].options
    assert [option.completion for option in options] == [" c.", " wet it.", " wipe it.", " d."]


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("ewok", {"Target2": None}, r"regular\.jsonl:1 has no 'Target2'"),
        ("ewok", {"Context2": 3}, r":1: 'Context2' is 3, not a text"),
        ("ewok", {"Domain": ""}, r":1 has no 'Domain', or an empty one"),
        ("entity-tracking", {"options": [" a"]}, r":1: 'options' is \[' a'\], not a list of two texts or more"),
        ("entity-tracking", {"options": " a"}, r":1: 'options' is ' a'"),
        ("entity-tracking", {"options": [" a", None]}, r":1: 'options' is \[' a', None\]"),
        ("entity-tracking", {"numops": "2"}, r":1: 'numops' is '2', not a whole number"),
        ("entity-tracking", {"numops": -1}, r":1: 'numops' is -1"),
        ("entity-tracking", {"numops": True}, r":1: 'numops' is True"),
        ("entity-tracking", {"input_prefix": None}, r":1 has no 'input_prefix'"),
        ("global-piqa", {"label": 2}, r":1: 'label' is 2, and there are 2 solutions"),
        ("global-piqa", {"solution1": None}, r":1 has no 'solution1'"),
        ("global-piqa", {"example_id": 7}, r":1: 'example_id' is 7"),
        ("wug-past", {"sentences": "They veeded."}, r":1: 'sentences' has no two alternatives"),
        ("wug-past", {"sentences": "They veeded.\t"}, r":1: 'sentences' has no two alternatives"),
        ("wug-past", {"ratio": 1.5}, r":1: 'ratio' is 1\.5, not a share"),
        ("wug-past", {"ratio": "much"}, r":1: 'ratio' is 'much', not a number"),
    ],
)  # fmt: skip
def test_broken_lines_are_told_with_their_place(benchmarks, name, change, complaint):
    put(benchmarks, name, {**NAMES[name], **change})
    with pytest.raises(UserError, match=complaint):
        find_suite(name)


@pytest.mark.parametrize("name", NAMES)
def test_empty_files_other_values_and_empty_folders_are_told(benchmarks, name):
    folder = benchmarks / SOURCES[name].folder
    write(folder / "a.jsonl", [])
    with pytest.raises(UserError, match=r"a\.jsonl is empty"):
        find_suite(name)
    (folder / "a.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl:1 is not a JSON object"):
        find_suite(name)
    (folder / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"no \.jsonl file in"):
        find_suite(name)


@pytest.mark.parametrize("name", SOURCES)
def test_a_benchmark_that_is_not_here_says_where_to_get_it_and_under_which_licence(benchmarks, name):
    source = SOURCES[name]
    with pytest.raises(UserError) as told:
        find_suite(name)
    for part in (name, source.data.where, source.data.licence, f"cache/eval/{source.folder}"):
        assert part in str(told.value)


def test_zorro(tmp_path):
    lines = ["the dogs runs .", "the dogs run .", "a cat sleep .", "a cat sleeps ."]
    file = tmp_path / "agreement_subject_verb-in_simple_question.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    paradigm = find_suite(f"zorro:{tmp_path}").paradigms[0]
    assert (paradigm.uid, paradigm.phenomenon) == (file.stem, "agreement_subject_verb")
    assert [question.options for question in paradigm.questions] == [
        (Item("the dogs run ."), Item("the dogs runs .")), (Item("a cat sleeps ."), Item("a cat sleep ."))]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "phenomenon"),
    [
        ("filler-gap-wh_question_object", "filler-gap"),
        ("island-effects-adjunct_island", "island-effects"),
        ("quantifiers-superlative", "quantifiers"),
        ("p", "p"),
    ],
)
def test_a_phenomenon_of_zorro_may_have_a_dash(tmp_path, name, phenomenon):
    (tmp_path / f"{name}.txt").write_text("a .\nb .\n", encoding="utf-8")
    assert find_suite(f"zorro:{tmp_path}").paradigms[0].phenomenon == phenomenon


@pytest.mark.parametrize("key", ["UID", "paradigm", "category"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
def test_pairs_of_one_file_fall_into_the_paradigms_that_they_name(tmp_path, key, mark):
    rows = [{"sentence_good": f"De hond {n}.", "sentence_bad": f"Hond de {n}.", key: kind}
            for n, kind in enumerate(("agreement", "order", "agreement"))]  # fmt: skip
    (tmp_path / "all.jsonl").write_text(mark + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {p.uid: len(p.questions) for p in find_suite(f"pairs:{tmp_path}").paradigms}
    assert found == {"agreement": 2, "order": 1}


LANGUAGES = {
    "clams.tsv": ["True|the cat naps", "False|the cat nap", "False|the cats naps", "True|the cats nap"],
    "japanese.tsv": ["good_sentence|bad_sentence|type", "the cat naps|the cat nap|clams",
                     "the cats nap|the cats naps|clams"],
    "multi.tsv": ["sen|wrong_sen|phenomenon|lang", "the cat naps|the cat nap|clams|x",
                  "the cats nap|the cats naps|clams|x"],
    "french.csv": ["id,sentence_a,sentence_b,label,subcat", "0,the cat naps,the cat nap,0,clams",
                   "1,the cats naps,the cats nap,1,clams"],
    "russian.csv": ["id,source_sentence,target_sentence,subtype", "0,the cat naps,the cat nap,clams",
                    "1,the cats nap,the cats naps,clams"],
    "clams.csv": ["UID;good_sentence;bad_sentence", "agr_1;the cat naps;the cat nap",
                  "agr_2;the cats nap;the cats naps"],
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
def test_benchmarks_of_other_languages_are_known_by_their_columns(tmp_path, name, mark):
    lines = "".join(line.replace("|", "\t") + "\n" for line in LANGUAGES[name])
    (tmp_path / name).write_text(mark + lines, encoding="utf-8")
    for place in (tmp_path, tmp_path / name):
        (paradigm,) = find_suite(f"pairs:{place}").paradigms
        assert paradigm.uid == "clams"
        texts = [tuple(option.completion for option in question.options) for question in paradigm.questions]
        assert texts == [("the cat naps", "the cat nap"), ("the cats nap", "the cats naps")]


def test_columns_may_be_named(tmp_path):
    rows = 'no,richtig,falsch,art\n1,a b,b a,order\n2,"c, d",d c,order\n3,e,f,word\n'
    (tmp_path / "own.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.csv:2 has the columns no, richtig, falsch, art.*name them behind"):
        find_suite(f"pairs:{tmp_path}")
    found = find_suite(f"pairs:{tmp_path}?good=richtig&bad=falsch&paradigm=art").paradigms
    assert {p.uid: [q.options[0].completion for q in p.questions] for p in found} == {
        "order": ["a b", "c, d"],
        "word": ["e"],
    }
    for query, message in (("good=richtig", "name both columns"), ("god=a&bad=b", "did you mean 'good'"),
                           ("good=x&bad=falsch", r"own\.csv:2 has no 'x'"),
                           ("good=richtig&bad=falsch&right=no", "'no' is '2'; it says which is right")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            find_suite(f"pairs:{tmp_path}?{query}")


def test_parquet_holds_pairs_too(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"sentence_good": ["a b"], "sentence_bad": ["b a"]}), tmp_path / "p.parquet")
    (paradigm,) = find_suite(f"pairs:{tmp_path}").paradigms
    assert (paradigm.uid, paradigm.questions[0].options[0].completion) == ("p", "a b")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("True\ta\nTrue\tb\n", r"p\.tsv:1: two lines in turn"),
        ("True\ta\nFalse\tb\nTrue\tc\n", r"p\.tsv:3: two lines in turn"),
        ("sen\twrong_sen\n", "holds no pair"),
        ("", "holds no pair"),
        ("sen\twrong_sen\na\n", r"p\.tsv:2 has fewer columns"),
        ("sen\twrong_sen\na\tb\tc\n", r"p\.tsv:2 has more columns"),
        ("sen\twrong_sen\na\t\n", r"p\.tsv:2 has no 'wrong_sen', or an empty one"),
    ],
)
def test_broken_tables_of_pairs(tmp_path, content, complaint):
    (tmp_path / "p.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        find_suite(f"pairs:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a .\nb .\nc .\n", r"p\.txt has 3 lines"),
        ("a .\n\nc .\nd .\n", r"p\.txt:2 is empty"),
        ("", r"p\.txt:1 is empty"),
    ],
)
def test_broken_zorro_files(tmp_path, content, complaint):
    (tmp_path / "p.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        find_suite(f"zorro:{tmp_path}")


def test_zorro_without_files(tmp_path):
    with pytest.raises(UserError, match=r"no \.txt file in"):
        find_suite(f"zorro:{tmp_path}")
    with pytest.raises(UserError, match="there is no folder"):
        find_suite(f"zorro:{tmp_path}/none")


def test_scores_that_are_no_numbers_are_told_and_strictly_wrong(benchmarks, capsys):
    put(benchmarks, "global-piqa", PIQA)
    suite, nan = find_suite("global-piqa"), float("nan")
    for scores in ([nan, -1.0], [nan, nan]):
        old = judge(suite, np.array(scores), CONVENTIONS["2025"])
        new = judge(suite, np.array(scores), CONVENTIONS["2026"])
        assert (old.macro("accuracy"), old.macro("strict"), new.macro("strict")) == (1, 0, 0)
        assert json.dumps(old.to_json())
    assert judge(suite, np.array([nan, -1.0]), CONVENTIONS["2026"]).macro("accuracy") == 0
    assert "scores are not numbers" in "".join(capsys.readouterr())


def test_a_model_that_returns_nan_is_refused(world, benchmarks):
    """It would score 100 % where a NaN passes for the best option."""
    put(benchmarks, "ewok", EWOK)
    ensemble = world.as_ensemble(world.hugging_face("gpt2", len(world.PLAIN)), vocab_size=len(world.PLAIN))
    ensemble.models[0].hf.transformer.ln_f.weight.data[0] = float("nan")
    for year in ("2025", "2026"):
        with pytest.raises(UserError, match=r"log-probabilities of 2 of 2 texts are not finite \(the first: 'The cup"):
            evaluate(ensemble, world.PLAIN, find_suite("ewok", CONVENTIONS[year]), CONVENTIONS[year])


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_a_tokenizer_without_padding_scores_the_same(world, benchmarks, architecture):
    put(benchmarks, "ewok", EWOK)
    suite = find_suite("ewok")
    tokenizers = [world.byte_tokenizer(template=True), world.byte_tokenizer(template=True)]
    tokenizers[1].pad_token = None
    assert tokenizers[1].pad_token_id is None
    hf = world.hugging_face(architecture, len(tokenizers[0]))
    ensemble = world.as_ensemble(hf, vocab_size=len(tokenizers[0]))
    one, other = (evaluate(ensemble, tokenizer, suite, CONVENTIONS["2025"]) for tokenizer in tokenizers)
    np.testing.assert_array_equal(one.log_probs["spatial-relations"], other.log_probs["spatial-relations"])


def test_words_that_the_vocabulary_cannot_write_are_refused(world, benchmarks):
    put(benchmarks, "global-piqa", {**PIQA, "prompt": "zebra", "solution0": "zebra", "solution1": "zebra"})
    tokenizer = world.word_tokenizer("cat")
    ensemble = world.as_ensemble(world.hugging_face("gpt2", len(tokenizer)), vocab_size=len(tokenizer))
    with pytest.raises(UserError, match=r"with no token at all.*vocabulary"):
        evaluate(ensemble, tokenizer, find_suite("global-piqa"), CONVENTIONS["2026"])


@pytest.mark.data
def test_the_sizes_of_wug(real_data):
    for name, uid, options in (("wug-past", "wug_past_tense", 3), ("wug-adj", "wug_adj_nominalization", 2)):
        suite = find_suite(name)
        questions = suite.paradigms[0].questions
        assert (suite.paradigms[0].uid, len(questions), len(suite.ratios)) == (uid, *[SOURCES[name].items] * 2)
        assert {len(question.options) for question in questions} == {options}


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in SOURCES if "blimp" in name])
def test_the_sizes_of_blimp(real_data, name):
    assert sum(len(paradigm.questions) for paradigm in find_suite(name).paradigms) == SOURCES[name].items


def test_the_page_of_suites_tells_their_folders_and_sizes():
    page = (Path(__file__).parents[3] / "docs" / "suites.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip().strip("`"): line for line in page.splitlines() if line.startswith("| `")}
    for name, source in SOURCES.items():
        assert f"`{source.folder}`" in rows[name]
        assert source.items is None or f"{source.items:,}" in rows[name]
