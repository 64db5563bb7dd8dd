"""BabyLM's result files of a trained model, from the scores that its run has; what is missing is measured if asked.

Fast tasks are those that `evaluation.along` measured at each checkpoint by words seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from rich.table import Column, Table

from tutelage.babylm.check import Options, check_task
from tutelage.babylm.format import (
    FORMATS,
    SubmissionBackend,
    SubmissionFormat,
    SubmissionTask,
    TrackName,
    Year,
    schedule,
)
from tutelage.babylm.scores import example_ids, surprisal_rows, task_results
from tutelage.babylm.track_rules import rules_of
from tutelage.babylm.write import Fast, Submission, options_of, write_submission
from tutelage.base.errors import MissingData, UserError
from tutelage.base.progress import progress
from tutelage.base.types import Json
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.finetune.glue import plain_key
from tutelage.evaluation.named import NamedEvaluation, find
from tutelage.evaluation.psychometrics.acquisition import evaluate_acquisition
from tutelage.evaluation.psychometrics.acquisition_data import find_acquisition
from tutelage.evaluation.psychometrics.trajectory import as_submission
from tutelage.evaluation.suites.suites import find_suite
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.measure import in_words
from tutelage.experiment.score import Scoring, Subject
from tutelage.experiment.setup import Experiment
from tutelage.recipe import Evaluation
from tutelage.recipe.finetune import GLUE_7
from tutelage.recipe.words import revision

AOA = "aoa"
NOT_HERE = "data are not on this machine; `tutelage data list` says where from, `tutelage data get` fetches them"
DIGEST = 64
"""Longer values are not shown: a digest tells people nothing."""


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """A task of a submission, and what became of it."""

    task: str
    """Its key in the collated file; fast tasks have the same keys as others."""
    evaluation: str
    """What measures it, by the name that recipes have for it."""
    items: int
    """As many as were published."""
    done: int = 0
    """How often it is in the files: once, or at so many checkpoints, of as many as are `asked`."""
    asked: int = 1
    fast: bool = False
    """Whether its scores at checkpoints are handed in."""
    score: str = ""
    """In words; of a fast task that of the last checkpoint."""
    missing: str = ""
    """Why it is not there, or not at all checkpoints that were reached."""
    note: str = ""


@dataclass(frozen=True)
class Results:
    """What was written: the collated file, and every task; those of `missing` are not in the files, or not all."""

    path: Path
    lines: tuple[TaskLine, ...]
    year: Year

    @property
    def missing(self) -> list[TaskLine]:
        """The tasks that could still be measured."""
        return [line for line in self.lines if line.missing]


def write_results(
    experiment: Experiment, run: TrainingRun, track: str, results: Path, measure: bool = False, incomplete: bool = False
) -> Results:
    """Write the result files of a trained model into `<results>/<model>/`, for a track as `babylm-2026-strict-small`.

    Args:
        measure: first measure what is missing and can be measured here.
        incomplete: write also what the year's own code refuses for missing tasks or checkpoints (2025).

    Raises:
        UserError: an unknown track, a model that is not trained or was scored by the rules of another year, nothing to
            write, missing tasks where they may not be, or scores that contradict what lies beside them. Nothing is
            written then.
    """
    form, short = format_of(track)
    settings = experiment.recipe.evaluation
    if settings.convention != form.year:
        raise UserError(f"this recipe scores by the rules of {settings.convention}, {track} by those of {form.year}: "
                        f"evaluation.convention={form.year} (other scores are then measured again)")  # fmt: skip
    run.finished()
    gathered = _Gathered(experiment, run, form, short)
    if measure:
        gathered.measure()
    submission, lines = gathered.submission()
    if not (submission.full or submission.fast or submission.surprisals):
        raise UserError(f"nothing of {track} is measured of {run} yet:\n{reasons(lines, form.year)}")
    if not (form.optional or incomplete) and any(line.missing or line.note for line in lines):
        raise UserError(f"BabyLM {form.year} takes complete submissions only; --incomplete writes what there is. "
                        f"Missing:\n{reasons(lines, form.year)}")  # fmt: skip
    return Results(write_submission(submission, results, incomplete), tuple(lines), form.year)


def format_of(track: str) -> tuple[SubmissionFormat, TrackName]:
    """Return a track's form, and its name without the year; an unknown track is refused with the nearest."""
    year = cast(Year, rules_of(track).year)
    return FORMATS[year], cast(TrackName, track.removeprefix(f"babylm-{year}-"))


def options_here(form: SubmissionFormat) -> Options:
    """Return what predictions may say, for the tasks whose data files are on this machine."""
    options = {}
    for task in form.full:
        try:
            suite = None if task.shape == "reading" else find_suite(task.evaluation, CONVENTIONS[form.year])
        except MissingData:
            continue
        if suite is not None:
            options[task.key] = options_of(task, suite.paradigms, example_ids(suite.paradigms))
    return options


class _Gathered:
    """The scores of one model, as a submission wants them."""

    def __init__(self, experiment: Experiment, run: TrainingRun, form: SubmissionFormat, track: TrackName) -> None:
        self.experiment, self.run, self.form, self.track = experiment, run, form, track
        self.subject = Subject(run.name, run.seed, (run.reference,))
        self.settings: Evaluation = experiment.recipe.evaluation
        self.found: dict[str, NamedEvaluation] = {}
        self.lacking: dict[str, str] = {}
        """Why an evaluation cannot be measured here."""
        tasks = (*form.full, *form.glue, *form.fast)
        names = dict.fromkeys([*(name for task in tasks for name in self._names(task)), AOA])
        with progress("reading benchmarks", len(names), "benchmarks") as tracker:
            for name in names:
                try:
                    self.found[name] = find(name, self.settings)
                except MissingData:
                    self.lacking[name] = NOT_HERE
                except UserError as error:
                    self.lacking[name] = str(error)
                tracker.advance(1)
        self.scoring = self._scoring(self.found)
        kept = {revision(words): state for words, state in self.scoring.along(self.subject).items()}
        self.states = {name: kept[name] for name in schedule(track) if name in kept}
        """The model at the track's checkpoints."""

    def measure(self) -> None:
        """Measure what is not measured yet, as far as its files are here."""
        tasks = (*self.form.full, *self.form.glue)
        names = [self._names(task)[0] for task in tasks if self._kept(self.subject, task) is None]
        names += [AOA] if self.states else []
        self._scoring([name for name in names if name in self.found]).score(self.subject)

    def submission(self) -> tuple[Submission, list[TaskLine]]:
        """Put everything together, and say what became of every task."""
        full: dict[str, Json] = {}
        lines: list[TaskLine] = []
        for task in (*self.form.full, *self.form.glue):
            line, result = self._task(self.subject, task)
            lines.append(line)
            full |= {} if result is None else {task.key: result.predictions}
        surprisals, age, line = self._surprisals()
        fast: dict[str, dict[str, Fast]] = {}
        lines += [line, *(self._along(task, fast) for task in self.form.fast)]
        name, seed = self.run.name, self.run.seed
        model = name if seed == self.run.model.seed_list[0] else f"{name}-{seed}"
        backend: SubmissionBackend = "causal" if self.run.model.reads == "causal" else "mlm"
        return Submission(model, self.form.year, self.track, backend, full, fast, surprisals, age), lines

    def _scoring(self, evaluate: Iterable[str]) -> Scoring:
        """Return a scoring of the tasks of the submission instead of the recipe's evaluations."""
        along = tuple(dict.fromkeys(task.evaluation for task in self.form.fast if task.evaluation in self.found))
        return Scoring(self.experiment, tuple(evaluate), self.settings.model_copy(update={"along": along}), self.found)

    def _names(self, task: SubmissionTask) -> list[str]:
        """Return what may have measured a task, the preferred first: `glue` fine-tunes several."""
        if task.shape != "label" or task.key not in self.settings.finetune.tasks:
            return [task.evaluation]
        return ["glue", task.evaluation] if "glue" in self.experiment.recipe.evaluate else [task.evaluation, "glue"]

    def _kept(self, subject: Subject, task: SubmissionTask) -> tuple[str, Json] | None:
        """Return the evaluation that has a task's score, and the score."""
        for name in self._names(task):
            if name in self.found and (score := self.scoring.read(subject, name)) is not None:
                return name, score
        return None

    def _task(self, subject: Subject, task: SubmissionTask) -> tuple[TaskLine, Fast | None]:
        line = TaskLine(task=task.key, evaluation=self._names(task)[0], items=sum(task.sizes.values()))
        kept = self._kept(subject, task)
        if kept is None:
            return replace(line, missing=self._why(subject, line.evaluation)), None
        name, score = kept
        result = task_results(task, self.found[name], self.scoring.folder(subject), score, self.settings)
        if faults := list(check_task(result.predictions, task)):
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            return replace(line, missing=f"its data are not the published ones: {faults[0]}{more}"), None
        said = in_words(score | {"headline": task.key} if name == "glue" else score)
        if task.shape == "label":
            # Years, and papers, differ in whether they count F1 or this of MRPC and QQP.
            plain = plain_key(task.key) if name == "glue" else "accuracy"
            if plain in score["values"] and plain != score["headline"]:
                said += f", accuracy {100 * score['values'][plain]['value']:.2f} %"
            said += f", rules of {score['convention']}"
        return replace(line, evaluation=name, done=1, score=said), result

    def _along(self, task: SubmissionTask, fast: dict[str, dict[str, Fast]]) -> TaskLine:
        """Collect a fast task of all checkpoints."""
        found = {name: self._task(state, task) for name, state in self.states.items()}
        done = {name: result for name, (_, result) in found.items() if result is not None}
        for name, result in done.items():
            fast.setdefault(name, {})[task.key] = result
        lines = [line for line, _ in found.values()]
        return TaskLine(
            task=task.key, evaluation=task.evaluation, items=sum(task.sizes.values()), done=len(done),
            asked=len(schedule(self.track)), fast=True, note=self._ended(),
            score="".join([line.score for line in lines if line.score][-1:]),
            missing="; ".join(dict.fromkeys(line.missing for line in lines if line.missing)) or self._no_checkpoints(),
        )  # fmt: skip

    def _surprisals(self) -> tuple[Json | None, float | None, TaskLine]:
        """Return the surprisals of words at the track's checkpoints, and what they score."""
        line = TaskLine(task=AOA, evaluation=AOA, items=self.form.words, asked=len(schedule(self.track)))
        score = self.scoring.read(self.subject, AOA) if AOA in self.found else None
        if score is None or not self.states:
            return None, None, replace(line, missing=self._no_checkpoints() or self._why(self.subject, AOA))
        rows = surprisal_rows(self.scoring.folder(self.subject), list(self.states))
        said = as_submission(rows, self.run.name, len(self.states))
        value = None
        if self.form.optional:
            rules, tokenizer = CONVENTIONS[self.form.year], self.experiment.data.tokenizer
            value = evaluate_acquisition(said, find_acquisition(), rules, tokenizer).values[AOA].value
        return said, value, replace(line, done=len(self.states), score=in_words(score), note=self._ended())

    def _no_checkpoints(self) -> str:
        said = "no checkpoint of this track was kept; models.*.checkpoints asks for them, before training"
        return "" if self.states else said

    def _ended(self) -> str:
        asked = len(schedule(self.track))
        return f"training kept {len(self.states)} of {asked} checkpoints" if 0 < len(self.states) < asked else ""

    def _why(self, subject: Subject, name: str) -> str:
        """Say why there is no score."""
        if name in self.lacking:
            return self.lacking[name]
        if (changes := self.scoring.changes(subject, name)) is None:
            return "not measured yet"
        told = [
            key if len(f"{old}{new}") > DIGEST else f"{key} was {old!r} and is {new!r} now" for key, old, new in changes
        ]
        return f"measured of something else ({', '.join(told)})"


def reasons(lines: Sequence[TaskLine], year: str) -> str:
    """Say why tasks are missing, those with the same reason together, and what in a recipe measures them."""
    names: dict[str, dict[str, None]] = {}
    for line in lines:
        for text in (line.missing, line.note):
            if text:
                names.setdefault(text, {})[line.evaluation] = None
    told = [f"  {', '.join(found)}: {text}" for text, found in names.items()]
    full, along = (
        list(dict.fromkeys(line.evaluation for line in lines if line.missing and line.fast == fast))
        for fast in (False, True)
    )
    tuned = [f"glue:{name}" for name in GLUE_7]
    if set(tuned) <= set(full):
        full = [*(name for name in full if name not in tuned), "glue"]
    if full or along:
        told.append("Measured, once their data are here, by --evaluate; or by `tutelage evaluate` with, in the recipe:")
    if full:
        told.append(f"  evaluate: [{', '.join(full)}]")
    if along:
        told.append(f'  evaluation: {{convention: "{year}", along: [{", ".join(along)}]}}')
    return "\n".join(told)


def table(results: Results) -> Table:
    """Return what was written, task by task."""
    title = f"BabyLM {results.year}: {results.path.parent.name}"
    right = [Column(header, justify="right") for header in ("items", "in the files")]
    shown = Table("task", "measured by", *right, "score", title=title, title_justify="left")
    for line in results.lines:
        there = f"{line.done} of {line.asked}" if line.asked > 1 else "yes" if line.done else "no"
        task = f"{line.task}, fast" if line.fast else line.task
        shown.add_row(task, line.evaluation, f"{line.items:,}", there, line.score)
    return shown
