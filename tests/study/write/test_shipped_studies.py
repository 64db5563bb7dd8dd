"""The studies that come with the package: found by name, listed, forecast without an LLM, and written in small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.api import studies
from tutelage.base.errors import UserError
from tutelage.corpus.examples import read_examples
from tutelage.recipe.load import load_recipe
from tutelage.recipe.shipped import shipped
from tutelage.study.settings import Study, load_study

STUDIES = tuple(shipped("study"))
SMALL = (
    "teacher.weights=null", "teacher.model=scripted", "teacher.concurrency=4", "plan.tasks=2", "plan.prompts=4",
    "writing.words=400", "writing.wave=4",
)  # fmt: skip
FEW = ("writing.examples_per_task=4", "writing.examples_per_request=2")
WORDS = ("writing.vocabulary.mode=words", "writing.vocabulary.size=60")


def test_all_corpora_of_the_paper_are_there() -> None:
    corpora = ("multi-task", "text-generation", "vocabulary")
    assert {f"{corpus}-{words}" for corpus in corpora for words in ("1m", "10m")} == set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_have_the_papers_teacher_sampling_and_words(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.description
    assert study.writing.words == {"1m": 10**6, "10m": 10**7}[name.rpartition("-")[2]]
    assert study.writing.corpus == name.rpartition("-")[0].replace("-", "_")
    assert "Llama-3.1-8B-Instruct" in (study.teacher.model or study.teacher.weights or "")
    sampling = study.teacher.sampling
    assert (sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (0.9, 40, 1.1)
    assert study.teacher.two_steps
    assert study.filters.min_words == 3
    if study.writing.corpus == "multi_task":
        assert study.writing.examples_per_task == {"multi-task-1m": 1000, "multi-task-10m": 10_000}[name]
    if study.writing.vocabulary is not None:
        assert (study.writing.vocabulary.mode, study.writing.vocabulary.size) == ("tokens", 5000)
        assert study.writing.vocabulary.share == 0.5


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_are_forecast_without_an_llm(name: str, tmp_path: Path) -> None:
    asked = studies.study_show(name, (), tmp_path)
    assert asked["plan"] > 0
    assert asked["write"] > 0
    assert (asked["label"] > 0) == name.startswith("multi-task")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "more"), [("multi-task-1m", FEW), ("text-generation-1m", ()), ("vocabulary-10m", WORDS)]
)
def test_shipped_studies_go_all_the_way_in_small(name: str, more: tuple[str, ...], server: Any, tmp_path: Path) -> None:
    # The scripted teacher's texts are alike, and short: filters that look at neither stay.
    changes = (*SMALL, *more, f"teacher.endpoint={server.address}")
    studies.study_run(name, changes, tmp_path)
    corpus = tmp_path / name / "corpus"
    kept = list(read_examples(corpus / "examples.jsonl"))
    assert sum(example.word_count for example in kept) > 100
    assert any(example.labels for example in kept) == (name == "multi-task-1m")
    # By its name, the study is audited again.
    audited = studies.study_audit(name, changes, tmp_path)
    assert audited.page.is_file()


@pytest.mark.parametrize("name", [name for name in shipped("recipe") if name.startswith("studyplan-")])
def test_every_study_that_a_recipe_names_is_shipped_and_writes_what_it_reads(name: str) -> None:
    text = shipped("recipe")[name].read_text(encoding="utf-8")
    named = re.findall(r"tutelage study run (\S+?)[`\s]", text)
    assert named
    assert set(named) <= set(STUDIES)
    assert not re.search(r"studies/\S+\.yaml", text)
    if name != "studyplan-starter":
        read = {load_recipe(name).data.corpus, *re.findall(r"data.corpus=(studies/\S+)", text)}
        assert read == {f"studies/{study}/corpus" for study in named}


def test_a_misspelt_study_is_led_to_the_shipped_one(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no study 'multi-task-1M': give a file, or one of .*did you mean 'multi-task-1m'"
    ):
        load_study("multi-task-1M")
    assert load_study("studies/multi-task-1m.yaml").name == "multi-task-1m"
    with pytest.raises(UserError, match="no study"):
        load_study(tmp_path / "multi-task-1m.yaml")


def test_a_file_of_the_same_name_goes_before_the_shipped_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {"name": "mine", "teacher": {"endpoint": "http://x"}}
    Path("multi-task-1m").write_text(yaml.safe_dump(mine))
    assert load_study("multi-task-1m").name == "mine"


def test_shipped_studies_survive_being_written_out(tmp_path: Path) -> None:
    for name in STUDIES:
        study = load_study(name)
        assert Study.model_validate(study.model_dump(mode="json", exclude_defaults=True)) == study


@pytest.mark.parametrize("words", [["show"], ["study", "show"]])
def test_studies_are_listed_where_recipes_are(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "tutelage", *words], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in STUDIES)
    assert ("quickstart" in done.stdout) == (words == ["show"])
