"""Commands for study plans: `tutelage study plan`, `write`, `label`, `filter`, `audit`, `run`, ..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.base.progress import output

study = typer.Typer(
    no_args_is_help=True,
    help="""Let an LLM **plan, write and label a corpus** for a small model to learn from.

A *study* is a YAML file: who the teacher is, what may be spent, how many words. With a server at hand, such as
`vllm serve MODEL` or `llama-server -m MODEL.gguf`,

`tutelage study run study.yaml`

goes all the way: plan, write, label, filter, audit. Or step by step, to look at what came and to edit the plan before
words are written: `tutelage study plan study.yaml`, then `write`, `label`, `filter`, `audit`. Everything is in
`studies/NAME/`. Whatever the teacher answered is kept in `requests.jsonl` there, so a study that was stopped or killed
resumes when the same command is given again, and nothing is asked, or paid, twice.

Train on it with a recipe that says `data: {corpus: studies/NAME/corpus}`. Studies of a paper's corpora come with the
package: `tutelage study show` lists them.""",
)

_STUDY = "A YAML file or a shipped study; `tutelage study show` lists these."
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help=_STUDY)]
_CHANGES = "Changes to the study, as in `writing.words=10M`."
Changes = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_CHANGES)]
Studies = Annotated[Path, typer.Option("--studies", help="Folder for studies.", envvar="TUTELAGE_STUDIES")]
STUDIES = Path("studies")


@study.command("plan")
def study_plan(
    file: StudyArgument,
    changes: Changes = None,
    studies: Studies = STUDIES,
    again: Annotated[bool, typer.Option("--again", help="Make another plan; the old one is kept beside it.")] = False,
) -> None:
    """Let the teacher plan lessons, tasks, labels and prompts; writes `studies/NAME/plan.yaml`.

    Read it and edit it before you go on: everything else is written and labelled after it. Tasks may be added and
    removed, labels defined better, prompts replaced. A plan that is there is used as it is; `--again` asks for another.
    `plan: mine.yaml` in the study takes a plan from a file, `plan: starter` that of the starter corpus.
    """
    _show("plan", file, changes, studies, again)
    _show("costs", file, changes, studies)


@study.command("write")
def study_write(file: StudyArgument, changes: Changes = None, studies: Studies = STUDIES) -> None:
    """Let the teacher write texts after the plan, until the words are there; writes `studies/NAME/written.jsonl`.

    What is not taken, such as repeated texts, is in `quarantine/write.jsonl` with the reason; words by task are in
    `ledger.json`. More words later: `tutelage study write study.yaml writing.words=2M` asks for the difference.
    """
    written = _show("write", file, changes, studies)
    _show("costs", file, changes, studies)
    written.check_budget()


@study.command("label")
def study_label(file: StudyArgument, changes: Changes = None, studies: Studies = STUDIES) -> None:
    """Let the teacher label every text for every task; writes `studies/NAME/labelled.jsonl`.

    This is where most requests go: by default one for each text and family of tasks, times `labelling.votes`.
    Labels that stay malformed are missing, and stand in `quarantine/label.jsonl`.
    """
    labelled = _show("label", file, changes, studies)
    _show("costs", file, changes, studies)
    labelled.check_budget()


@study.command("filter")
def study_filter(file: StudyArgument, changes: Changes = None, studies: Studies = STUDIES) -> None:
    """Keep what is sound of the labelled texts; writes `studies/NAME/corpus/`, which students read. Asks nothing.

    Taken out: control characters, letters of other scripts, texts too short or too long, duplicates and near ones,
    other languages, text that also stands in evaluation sets (`filters.overlap.suites=[blimp]`); and labels that do
    not fit the plan, without their texts. Everything taken out stands in `quarantine/filter.jsonl` with the reason.
    Try other settings at no cost: `tutelage study filter study.yaml filters.near_duplicates=0.6`.
    """
    _show("filter", file, changes, studies)


@study.command("audit")
def study_audit(
    source: Annotated[str, typer.Argument(
        metavar="STUDY", help="A YAML file, a shipped study, a study's folder, a folder with plan.yaml and *.jsonl, or "
        "`starter`.")],
    changes: Changes = None,
    studies: Studies = STUDIES,
    suite: Annotated[list[str] | None, typer.Option(
        help="Evaluation set to look for in the corpus; may be given again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; `studies/NAME/audit` by default.")] = None,
) -> None:  # fmt: skip
    """Write a page about a corpus: `studies/NAME/audit/index.html`, and its numbers, `audit.json`.

    Which tasks have labels and how even they are, how sure the teacher was, how varied the texts are, what repeats,
    what stands in evaluation sets too, what went into quarantine, what it cost, and samples. To see one:

    `tutelage study audit starter --suite starter-pairs`
    """
    print(f"page: {_show('audit', source, changes, studies, suite or (), out).page}")


@study.command("run")
def study_run(file: StudyArgument, changes: Changes = None, studies: Studies = STUDIES) -> None:
    """Go all the way: plan (if there is no plan yet), write, label, filter, audit.

    Stop it whenever you like, with Ctrl-C; the same command resumes. It stops by itself where the `budget` ends, with
    exit code 1. How many requests it will take: `tutelage study show study.yaml`. To look at the plan before words are
    paid for, begin with `tutelage study plan`.
    """
    _show("plan", file, changes, studies)
    _show("write", file, changes, studies).check_budget()
    _show("label", file, changes, studies).check_budget()
    _show("filter", file, changes, studies)
    audited = _show("audit", file, changes, studies)
    _show("costs", file, changes, studies)
    print(f"page: {audited.page}")


@study.command("show")
def study_show(
    file: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A YAML file or a shipped study.")] = None,
    changes: Changes = None,
    studies: Studies = STUDIES,
) -> None:
    """Print what was spent so far and how many requests the whole study will take; asks nothing.

    A forecast: repeats are left out, and texts may be longer or shorter than expected. `teacher.two_steps` doubles it,
    `labelling.ask=task` multiplies it; try `tutelage study show study.yaml labelling.votes=5`. Without a study, those
    that come with the package are listed.
    """
    if file is None:
        from tutelage.report.study_tables import shipped_studies

        output().print(shipped_studies())
        return
    _show("show", file, changes, studies)
    _show("costs", file, changes, studies)


@study.command("prompts")
def study_prompts(folder: Annotated[Path, typer.Argument(help="A folder, made if it is missing.")]) -> None:
    """Copy the prompts to a folder, to be edited; name it in the study: `prompts: FOLDER`.

    Each file says at its head what it is for and which values (`$name`) it may hold. Files that you delete fall back
    to the shipped ones; files that are there already stay as they are.
    """
    from tutelage.api import studies as work

    written = work.study_prompts(folder)
    print(f"{len(written)} files written to {folder}")


def _show(verb: str, file: str, changes: list[str] | None, studies: Path, *more: Any) -> Any:
    """Do what a verb of `api.studies` does, print its table and return what it returned."""
    from tutelage.api import studies as work
    from tutelage.report.study_tables import TABLES

    done = getattr(work, f"study_{verb}")(file, changes or (), studies, *more)
    output().print(TABLES[verb](done))
    return done
