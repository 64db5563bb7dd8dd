"""`docs/papers.md` is held to the recipes, to the published results and to the estimate of memory."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tutelage.bench.timed import MadeUpTokenizer
from tutelage.models.build import shape
from tutelage.models.cost import Cost, cost_of
from tutelage.recipe.experiment import Recipe
from tutelage.recipe.load import load_recipe
from tutelage.recipe.shipped import shipped

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
PAPERS = ("babyllama-paper", "babyllama-code", "babyllama2", "salt-paper",
          "studyplan-1m", "studyplan-10m", "studyplan-text-1m", "studyplan-text-10m")  # fmt: skip
MODERNBERT = 50_368
"""Tokens of ModernBERT's vocabulary."""
GPU = 24e9
"""Bytes of a usual GPU."""

PHENOMENA = {
    "Anaphor Agr.": "anaphor_agreement", "Arg. Structure": "argument_structure", "Binding": "binding",
    "Control/Raising": "control_raising", "DetNoun Agr.": "determiner_noun_agreement", "Ellipsis": "ellipsis",
    "Filler-Gap": "filler_gap_dependency", "Irregular Forms": "irregular_forms", "Island Effects": "island_effects",
    "NPI Licensing": "npi_licensing", "Quantifiers": "quantifiers", "SubjVerb Agr.": "subject_verb_agreement",
}  # fmt: skip
SUPPLEMENT = {
    "Hypernym": "hypernym", "QA Congruence (easy)": "qa_congruence_easy",
    "QA Congruence (tricky)": "qa_congruence_tricky", "SubjAux. Inversion": "subject_aux_inversion",
    "Turn Taking": "turn_taking",
}  # fmt: skip
TUNED = {
    "CoLA (MCC)": "cola", "SST-2": "sst2", "MRPC (F1)": "mrpc", "QQP (F1)": "qqp", "MNLI": "mnli", "MNLI-mm": "mnli-mm",
    "RTE": "rte", "BoolQ": "boolq", "MultiRC": "multirc", "WSC": "wsc",
}  # fmt: skip
ABLATION = {
    "all": "all-labels", "text classification alone": "classification", "pairs alone": "pairs",
    "tagging alone": "tagging", "none, on the same text": "no-labels",
}  # fmt: skip


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, the head first, the line below it left out."""
    found = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    split = [[[cell.strip() for cell in line.strip("|").split("|")] for line in one.splitlines()] for one in found]
    return [[table[0], *table[2:]] for table in split]


def headed(*column: str) -> list[list[str]]:
    """The rows of the only table that has these columns at its end."""
    [table] = [table for table in tables(PAGE) if table[0][-len(column) :] == list(column)]
    return table[1:]


def seeds(result: str, model: str) -> list[Any]:
    summary = json.loads((ROOT / "results" / result / "summary.json").read_text(encoding="utf-8"))
    return list(summary["models"][model]["seeds"].values())


def at(recipe: Recipe, path: str) -> Any:
    """The value at a key of a recipe, as `a.b.0.c`."""
    found: Any = recipe
    for key in path.split("."):
        found = found[key] if isinstance(found, dict) else found[int(key)] if key.isdigit() else getattr(found, key)
    return found


def same(said: str, value: Any) -> bool:
    """Whether a cell says a value of a recipe."""
    if isinstance(value, bool):
        return said == str(value).lower()
    return float(said) == value if isinstance(value, int | float) else said == value


@cache
def costs(name: str) -> dict[str, Cost]:
    recipe = load_recipe(name)
    size = MODERNBERT if recipe.data.tokenizer.kind == "pretrained" else recipe.data.tokenizer.vocab_size
    length, tokenizer = recipe.data.rows.length, MadeUpTokenizer(size)
    return {key: cost_of(shape(model, tokenizer, length), model.reads, length) for key, model in recipe.models.items()}


def memory(name: str, model: str, whole: bool = False) -> float:
    """What `tutelage show` estimates for a model; with its batch in one part if `whole`."""
    recipe, cost = load_recipe(name), costs(name)
    what = recipe.models[model]
    rows = what.optim.batch_rows if whole else what.optim.micro_batch_rows or what.optim.batch_rows
    teachers = [teacher.model for stage in what.stages for teacher in stage.teachers]
    taught = sum(cost[teacher].parameters for teacher in teachers if teacher in cost)
    return cost[model].training_bytes(rows * recipe.data.rows.length, taught)


def test_every_recipe_and_study_of_a_paper_is_on_the_page_with_what_it_does_differently() -> None:
    parts = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
    of = {"babyllama2": "BabyLlama-2 (2024)", "salt-paper": "SALT (2024)"}
    for name in (*PAPERS, *shipped("study")):
        usual = "BabyLlama (2023)" if name.startswith("babyllama") else "Study plans (2025)"
        part = parts[of.get(name, usual)]
        assert f"`{name}`" in part, name
        assert re.search(r"^### Where the \w+ departs? from it$", part, re.MULTILINE), name
    for name in PAPERS:
        text = shipped("recipe")[name].read_text(encoding="utf-8")
        assert "docs/papers.md" in text.partition("\nname: ")[0], f"{name} does not say where its deviations stand"


def test_the_settings_on_the_page_are_those_of_the_recipes() -> None:
    checked = 0
    for table in tables(PAGE):
        if table[0][0] != "key of the recipe":
            continue
        for place, name in enumerate(table[0]):
            if not re.fullmatch(r"`[\w-]+`", name):
                continue
            recipe = load_recipe(name.strip("`"))
            for row in table[1:]:
                value = at(recipe, row[0].strip("`"))
                assert same(row[place], value), f"{name}: {row[0]} is {value}, the page has {row[place]}"
                checked += 1
    assert checked > 70


def test_numbers_of_blimp_on_the_page_are_those_of_the_results() -> None:
    rows = next(table for table in tables(PAGE) if "Ensemble of teachers" in table[0])[1:]
    runs = seeds("evaluation-babyllama-1m", "student")
    assert [row[0] for row in rows] == [*PHENOMENA, *SUPPLEMENT]
    for row in rows:
        if row[0] in PHENOMENA:
            values = [run["suites"]["blimp"]["phenomena"][PHENOMENA[row[0]]] for run in runs]
        else:
            values = [run["suites"]["blimp-supplement"]["paradigms"][SUPPLEMENT[row[0]]]["accuracy"] for run in runs]
        assert row[-1] == f"{100 * fmean(values):.1f}", row[0]


def test_numbers_of_fine_tuning_on_the_page_are_those_of_the_results() -> None:
    [rows] = [t[1:] for t in tables(PAGE) if t[0][-1] == "small, 1M words" and "LLaMA (58M)" not in t[0]]
    runs = seeds("evaluation-babyllama-1m", "student")
    assert len(rows) == 17
    for row in rows:
        if row[0] in TUNED:
            values = [run["measures"]["glue"]["values"][TUNED[row[0]]]["value"] for run in runs]
            assert row[-1] == f"{100 * fmean(values):.1f}", row[0]
        else:
            assert row[-1] == "not run"


def test_numbers_of_the_ablation_on_the_page_are_those_of_the_results() -> None:
    rows = headed("`studyplan-starter`, BLiMP-fast")
    assert [row[0] for row in rows] == list(ABLATION)
    for row in rows:
        runs = seeds("studyplan-starter", ABLATION[row[0]])
        assert row[-1] == f"{100 * fmean(run['suites']['blimp-fast']['accuracy'] for run in runs):.1f}", row[0]


def test_what_is_not_run_is_not_in_results() -> None:
    """No number can be missing from the page because a paper's recipe was run since."""
    published = {path.name for path in (ROOT / "results").iterdir()}
    assert not published & set(PAPERS)


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "salt-paper"])
def test_a_paper_s_recipe_fits_into_a_gpu_of_24_gb(name: str) -> None:
    for model in load_recipe(name).models:
        assert memory(name, model) < 0.75 * GPU, f"{name}: {model}"


def test_memory_on_the_page_is_what_is_estimated() -> None:
    rows = headed("rows in a part", "about")
    assert {row[0].strip("`") for row in rows} == set(PAPERS)
    for name, model, part, about in rows:
        name = name.strip("`")
        assert load_recipe(name).models[model].optim.micro_batch_rows == int(part)
        assert about == f"{memory(name, model) / 1e9:.0f} GB", (name, model)
    # What the page says of GPT-2 705M without parts; it was what the recipe asked for.
    assert f"{memory('babyllama-paper', 'gpt2-705m', whole=True) / 1e9:.0f} GB" == "89 GB"
    assert "would take 89 GB" in PAGE


def test_no_page_claims_a_run_at_a_paper_s_size_or_released_code() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").glob("*.yaml")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "released code" not in text, page.name
        assert "at the paper's sizes" not in text, page.name
