"""The verbs of `tutelage study` as functions: an LLM plans, writes and labels a corpus.

Each takes a study (a `Study`, a YAML file or the name of one that comes with the package) and the folder of studies,
and does what its name says from what the verb before it left. What the teacher answered is in the study's store, so a
verb that is given again costs nothing but the questions that are new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage import starter
from tutelage.base.errors import UserError
from tutelage.base.files import sweep, write_json, write_text
from tutelage.base.progress import console
from tutelage.corpus.examples import read_examples, write_examples
from tutelage.corpus.study_plan import StudyPlan, TaskKind, read_plan, starter_plan, write_plan
from tutelage.recipe.shipped import shipped
from tutelage.study.client.budget import Spending
from tutelage.study.client.client import TeacherLLM
from tutelage.study.client.store import Store, costs, open_store
from tutelage.study.filter.quarantine import Refused, write_refused
from tutelage.study.filter.text import visible
from tutelage.study.folder import StudyFolder, needed
from tutelage.study.settings import Planning, Prices, Study, load_study, study_text
from tutelage.study.write.forecast import forecast
from tutelage.study.write.labelling import Labelled, Labeller, check_labelling
from tutelage.study.write.planning import Planner
from tutelage.study.write.prompting import copy_prompts
from tutelage.study.write.word_ledger import WHY, WordLedger
from tutelage.study.write.writing import Writer

if TYPE_CHECKING:
    from tutelage.study.filter.audit import Audited
    from tutelage.study.filter.filters import Filtered

StudySource = Study | str | Path
STUDIES = Path("studies")
TOLD = 5  # of what was left out of a plan, so many things are told on the terminal


def study_plan(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES,
               again: bool = False) -> StudyPlan:  # fmt: skip
    """Let the teacher plan, and write `plan.yaml`; a plan that is there, edited or not, is used as it is.

    With `again`, another plan is made; the old one is kept beside it (`plan-1.yaml`).
    """
    study, folder = _open(source, overrides, studies)
    _check_suites(study)
    named = _named_plan(study)
    if folder.plan.is_file() and not again:
        plan = read_plan(folder.plan)
        if named is not None and named != plan:
            raise UserError(f"{folder.plan} is not the plan of {study.plan} (any more); to take the latter, give "
                            "`tutelage study plan --again`")  # fmt: skip
        console.print(f"{folder.plan} is there and used; `tutelage study plan --again` makes another")
        return plan
    # Some of the kept ones may have been taken away: the next number is none that is there.
    kept = [int(name[1]) for path in folder.path.iterdir() if (name := re.fullmatch(r"plan-(\d+)\.yaml", path.name))]
    attempt = max(kept, default=0) + (1 if folder.plan.is_file() else 0)
    if named is None:
        with _teacher(study, folder) as teacher:
            planner = Planner(teacher, study, attempt)
            plan = planner.plan()
            write_refused(folder.quarantine / "plan.jsonl", planner.refused)
        _tell_what_is_missing(planner.refused, [kind for kind in planner.kinds if not plan.tasks(kind)], folder)
    else:
        plan = named
    if folder.plan.is_file():
        # A kill between the two lines is harmless: the plan is made again from the store.
        folder.plan.rename(folder.path / f"plan-{attempt}.yaml")
    write_plan(plan, folder.plan)
    return plan


def study_write(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES) -> WordLedger:
    """Let the teacher write the texts of the plan, to `written.jsonl`; what was not taken is in `quarantine/`."""
    study, folder = _open(source, overrides, studies)
    plan = _plan(folder)
    _check_suites(study)
    # Better before words are paid for than after.
    check_labelling(study, plan)
    with _teacher(study, folder) as teacher:
        writer = Writer(teacher, study, plan)
        write_examples(folder.written, writer.examples())
        write_refused(folder.quarantine / "write.jsonl", writer.refused)
        write_json(folder.ledger, writer.ledger.to_json())
    if writer.ledger.ended not in ("words", "budget"):
        console.print(f"writing ended with {writer.ledger.words:,} of {study.writing.words:,} words, since "
                      f"{WHY[writer.ledger.ended]}")  # fmt: skip
    return writer.ledger


def study_label(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES) -> Labelled:
    """Let the teacher label what was written, to `labelled.jsonl`; labels that came to nothing are in `quarantine/`."""
    study, folder = _open(source, overrides, studies)
    plan = _plan(folder)
    needed(folder.written, "write")
    total = sum(1 for _ in read_examples(folder.written))
    with _teacher(study, folder) as teacher:
        labeller = Labeller(teacher, study, plan)
        write_examples(folder.labelled, labeller.examples(read_examples(folder.written), total))
        write_refused(folder.quarantine / "label.jsonl", labeller.refused)
    return Labelled(total, dict(labeller.labels), dict(labeller.could), len(labeller.refused), labeller.budget_ended)


def study_filter(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES) -> Filtered:
    """Sort what was labelled into `corpus/`, which students read, and the quarantine; asks nothing."""
    # Evaluation sets bring torch with them; planning and writing do without.
    from tutelage.api.study_corpora import filter_study

    return filter_study(*_open(source, overrides, studies))


def study_audit(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES,
                suites: Sequence[str] = (), out: str | Path | None = None) -> Audited:  # fmt: skip
    """Audit a study's corpus, or any other with labels; writes `audit.json` and the page `index.html`.

    Args:
        source: a study, its folder or corpus, a folder with `plan.yaml` and `*.jsonl` of examples, or `starter`.
        overrides: `a.b=c` changes, for a study's file.
        studies: folder of studies; audits of other corpora go there too.
        suites: evaluation sets to look for in the corpus, besides those of `filters.overlap`.
        out: folder to write to; `studies/NAME/audit` by default.
    """
    from tutelage.api.study_corpora import audit_corpus, audit_study

    folder = None if out is None else Path(out)
    if (
        isinstance(source, Study)
        or Path(source).is_file()
        or (str(source) in shipped("study") and not Path(source).exists())
    ):
        return audit_study(*_read(source, overrides, studies), suites, folder)
    if overrides:
        raise UserError("overrides go with a study's file")
    path = Path(source)
    # A study's folder, or the corpus in it.
    for place in (path, path.parent) if path.name == "corpus" else (path,):
        if (settings := StudyFolder(place).settings).is_file():
            return audit_study(load_study(settings), StudyFolder(place), suites, folder)
    return audit_corpus(source, folder or Path(studies) / Path(source).name / "audit", suites)


def study_run(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES) -> Audited:
    """Go all the way: plan (if there is no plan yet), write, label, filter, audit, unless the budget ends."""
    study_plan(source, overrides, studies)
    study_write(source, overrides, studies).check_budget()
    study_label(source, overrides, studies).check_budget()
    study_filter(source, overrides, studies)
    return study_audit(source, overrides, studies)


def study_costs(source: StudySource, overrides: Sequence[str] = (),
                studies: str | Path = STUDIES) -> tuple[dict[str, Spending], Prices | None]:  # fmt: skip
    """Return what each stage of a study cost so far (`plan`, `write`, `label`), and the prices to count money by."""
    study, folder = _read(source, overrides, studies)
    return (costs(folder.requests) if folder.requests.is_file() else {}), study.teacher.prices


def study_show(source: StudySource, overrides: Sequence[str] = (), studies: str | Path = STUDIES) -> dict[str, int]:
    """Forecast the requests of each stage, repeats left out; asks nothing and writes nothing."""
    study, folder = _read(source, overrides, studies)
    return forecast(study, read_plan(folder.plan) if folder.plan.is_file() else _named_plan(study))


def study_prompts(folder: str | Path) -> list[Path]:
    """Copy the shipped prompts to a folder, to be edited and named in a study (`prompts`); what is there stays."""
    return copy_prompts(Path(folder))


def open_teacher(study: Study, store: Store) -> TeacherLLM:
    """Return the teacher that a study names; nothing is connected or loaded before a request needs it.

    Raises:
        UserError: an address that cannot be, answers of another teacher in the store, a missing package.
    """
    if study.teacher.faults == "again":
        store.forget_faults()
    if study.teacher.endpoint is not None:
        from tutelage.study.client.remote import RemoteTeacher

        return RemoteTeacher(study, store)
    from tutelage.study.client.local import LocalTeacher

    return LocalTeacher(study, store)


def _tell_what_is_missing(refused: Sequence[Refused], lost: Sequence[TaskKind], folder: StudyFolder) -> None:
    """Say before words are paid for what of the plan came to nothing."""
    if not (refused or lost):
        return
    for item in refused[:TOLD]:
        what = item.content if isinstance(item.content, str) else item.content["name"]
        console.print(visible(f"left out of the plan: {what}: {item.reason}"), style="yellow", markup=False)
    if len(refused) > TOLD:
        console.print(f"and {len(refused) - TOLD} more", style="yellow")
    none = f"no task is left of the lessons {', '.join(lost)}; " if lost else ""
    what = f"{none}see {folder.quarantine / 'plan.jsonl'}; `tutelage study plan --again` asks for another plan"
    console.print(what, style="yellow", markup=False)


def _open(source: StudySource, overrides: Sequence[str], studies: str | Path) -> tuple[Study, StudyFolder]:
    study, folder = _read(source, overrides, studies)
    # What a killed process left half-written.
    sweep(folder.path)
    write_text(folder.settings, study_text(study))
    return study, folder


def _read(source: StudySource, overrides: Sequence[str], studies: str | Path) -> tuple[Study, StudyFolder]:
    if isinstance(source, Study) and overrides:
        raise UserError("overrides go with a study's file; change a Study with `model_copy(update=...)`")
    study = source if isinstance(source, Study) else load_study(source, overrides)
    return study, StudyFolder(Path(studies) / study.name)


def _check_suites(study: Study) -> None:
    """Refuse evaluation sets that the filters could not read, before anything is paid for."""
    if study.filters.overlap.suites:
        # They bring torch with them; planning and writing do without.
        from tutelage.api.study_corpora import check_suites

        check_suites(study.filters.overlap.suites)


@contextmanager
def _teacher(study: Study, folder: StudyFolder) -> Iterator[TeacherLLM]:
    with open_store(folder.requests) as store:
        yield open_teacher(study, store)


def _plan(folder: StudyFolder) -> StudyPlan:
    return read_plan(needed(folder.plan, "plan"))


def _named_plan(study: Study) -> StudyPlan | None:
    """Read the plan that a study names, if it does: a file, or `starter`, the plan of the starter corpus."""
    if isinstance(study.plan, Planning):
        return None
    return starter_plan() if str(study.plan) == starter.NAME and not study.plan.exists() else read_plan(study.plan)
