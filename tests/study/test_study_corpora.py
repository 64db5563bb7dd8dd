"""`tutelage study filter` and `audit`, from the files that the verbs before them leave."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tutelage import starter
from tutelage.api.studies import study_audit, study_filter, study_plan, study_run, study_write
from tutelage.base.errors import UserError
from tutelage.cli.main import app
from tutelage.corpus.examples import read_examples, write_examples
from tutelage.corpus.study_plan import read_plan, write_plan
from tutelage.study.folder import StudyFolder
from tutelage.study.settings import Study


@pytest.fixture
def study():
    return Study.model_validate({"name": "mine", "teacher": {"endpoint": "http://localhost:1/v1"}})


@pytest.fixture
def labelled(tmp_path, small_plan, text):
    folder = StudyFolder(tmp_path / "mine")
    write_plan(small_plan, folder.plan)
    examples = [
        text("A text that stays as it is.", labels={"mood": "good", "tense": "gone"}, label_origins={"tense": ("k",)}),
        text("A text that stays as it is.", origin="r"),
        text("hidden \u200b space in it"),
        text("The old man looked at the sea for hours.", labels={"mood": "bad"}),
    ]
    write_examples(folder.labelled, examples)
    return folder


def test_filter_sorts_a_study(study, labelled, tmp_path, small_plan):
    found = study_filter(study, studies=tmp_path)
    kept = list(read_examples(labelled.corpus / "examples.jsonl"))
    assert kept == list(found.kept)
    assert [dict(example.labels) for example in kept] == [{"mood": "good"}, {"mood": "bad"}]
    assert read_plan(labelled.corpus / "plan.yaml") == small_plan
    lines = [json.loads(line) for line in (labelled.quarantine / "filter.jsonl").read_text().splitlines()]
    assert [line["reason"].partition(":")[0] for line in lines] == [
        "control character",
        "duplicate",
        "label outside the plan",
    ]
    assert [line["origin"] for line in lines] == ["", "r", "k"]
    # Again and with other settings: all is made anew.
    before = (labelled.corpus / "examples.jsonl").read_bytes()
    study_filter(study, studies=tmp_path)
    assert (labelled.corpus / "examples.jsonl").read_bytes() == before
    stricter = study.model_copy(update={"filters": study.filters.model_copy(update={"min_words": 9})})
    assert len(study_filter(stricter, studies=tmp_path).kept) == 1


def test_what_comes_first(study, tmp_path):
    with pytest.raises(UserError, match="`tutelage study label` comes first"):
        study_filter(study, studies=tmp_path)
    with pytest.raises(UserError, match="`tutelage study filter` comes first"):
        study_audit(study, studies=tmp_path)


def test_audit_of_a_study_has_its_quarantine(study, labelled, tmp_path):
    study_filter(study, studies=tmp_path)
    found = study_audit(study, studies=tmp_path)
    assert found.page == labelled.audit / "index.html"
    assert found.audit.refused == {"filter": {"control character": 1, "duplicate": 1, "label outside the plan": 1}}
    kept = json.loads((labelled.audit / "audit.json").read_text())
    assert (kept["texts"], kept["tasks"]["mood"]["labels"]) == (2, {"good": 1, "bad": 1})
    # By its folder it is the same study.
    again = study_audit(labelled.path, suites=["starter-pairs"])
    assert again.page == found.page
    assert [overlap.suite for overlap in again.audit.overlap] == ["starter-pairs"]
    assert study_audit(labelled.corpus).page == found.page


def test_audit_of_the_starter_corpus_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["study", "audit", "starter"])
    assert result.exit_code == 0, result.output
    assert "sentiment" in result.output
    assert (tmp_path / "studies" / "starter" / "audit" / "index.html").is_file()


def test_a_folder_that_is_no_corpus(tmp_path):
    with pytest.raises(UserError, match="is no study corpus: it needs"):
        study_audit(tmp_path, studies=tmp_path)
    with pytest.raises(UserError, match="no study corpus"):
        study_audit(starter.pairs_folder(), studies=tmp_path)


def test_unfiltered_text_with_surrogates_can_be_audited(labelled, tmp_path, small_plan):
    folder = tmp_path / "raw"
    write_plan(small_plan, folder / "plan.yaml")
    (folder / "part.jsonl").write_text('{"kind": "classification", "text": "lone \\ud800 here \\u0000 now"}\n')
    found = study_audit(folder, studies=tmp_path)
    assert "[U+D800]" in found.page.read_text()


def test_a_study_in_the_working_folder_is_not_taken_for_the_one_of_a_corpus(
    study, labelled, tmp_path, monkeypatch, small_plan, text
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("name: mine\nteacher: {endpoint: http://localhost:1/v1}\n")
    write_plan(small_plan, tmp_path / "texts" / "plan.yaml")
    write_examples(tmp_path / "texts" / "examples.jsonl", [text("One text stands here.")])
    assert study_audit("texts").audit.texts == 1
    assert study_audit("starter").audit.texts > 100
    study_filter(study, studies=tmp_path)
    monkeypatch.chdir(labelled.path)
    assert study_audit("corpus").page.resolve() == (labelled.audit / "index.html").resolve()


def test_texts_written_after_the_labelling_are_told(study, labelled, tmp_path, text, capsys):
    def said(written):
        write_examples(labelled.written, written)
        study_filter(study, studies=tmp_path)
        return " ".join(capsys.readouterr().err.split())

    old = list(read_examples(labelled.labelled))
    assert said(old) == ""
    told = said([*old, text("One more text."), text("And another text.")])
    assert "2 of 5 written texts are not labelled yet" in told
    assert "`tutelage study label` and then `tutelage study filter`" in told
    assert "1 of 3 labelled texts are not among those written last" in said(old[:-1])


def test_hidden_files_are_no_part_of_a_corpus(tmp_path, small_plan, text):
    folder = tmp_path / "texts"
    write_plan(small_plan, folder / "plan.yaml")
    write_examples(folder / "a.jsonl", [text("One text stands here.")])
    (folder / ".a.jsonl").write_text("what an editor left")
    assert study_audit(folder, studies=tmp_path).audit.texts == 1


def test_what_the_filters_could_not_use_is_told_before_anything_is_asked(
    study, tmp_path, small_plan, capsys, monkeypatch
):
    def with_suites(*names):
        overlap = study.filters.overlap.model_copy(update={"suites": names})
        return study.model_copy(update={"filters": study.filters.model_copy(update={"overlap": overlap})})

    # The endpoint is not there: whoever asks it anything fails otherwise.
    for verb in (study_plan, study_run):
        with pytest.raises(UserError, match="unknown suite 'blimb'; did you mean 'blimp'"):
            verb(with_suites("blimb"), studies=tmp_path)
    write_plan(small_plan, StudyFolder(tmp_path / "mine").plan)
    for verb in (study_plan, study_write, study_run):
        with pytest.raises(UserError, match="unknown suite 'blimb'"):
            verb(with_suites("blimb"), studies=tmp_path)
    # What is known, and not here, may be elsewhere.
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    assert study_plan(with_suites("starter-pairs", "blimp"), studies=tmp_path) == small_plan
    told = " ".join(capsys.readouterr().err.split())
    assert "will need 'blimp': suite 'blimp': the files of 'blimp' are not on this machine" in told
    assert "starter-pairs" not in told
