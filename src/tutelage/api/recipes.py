"""The verbs of the command line as functions, with the same names.

Each takes a recipe (a `Recipe`, a file, the name of a shipped one, or the folder of an earlier run) and the folder of
runs, and goes as far as its name says; whatever is finished is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tutelage.babylm import tracks
from tutelage.babylm.check import Fault, validate_submission
from tutelage.babylm.export import export_babylm as make_upload_folder
from tutelage.babylm.results import Results, format_of, options_here, write_results
from tutelage.base.console import console, logged
from tutelage.base.errors import OtherSettings, UserError, nearest
from tutelage.base.files import write_text
from tutelage.base.progress import overall
from tutelage.bench import bench as timing
from tutelage.compare.summary import Summary
from tutelage.corpus.prepare import Prepared
from tutelage.evaluation.benchmarks import data as benchmarks
from tutelage.evaluation.external import Reads
from tutelage.experiment import caches, outlook, token_scores
from tutelage.experiment import show as estimates
from tutelage.experiment.checks import checked
from tutelage.experiment.loading import trained
from tutelage.experiment.names import check_names, check_suites, named
from tutelage.experiment.score import Scoring, check_along
from tutelage.experiment.score_external import evaluate_external
from tutelage.experiment.setup import Experiment
from tutelage.experiment.sharing import helpers, train_shared
from tutelage.experiment.summary import summarise
from tutelage.experiment.train import train_run
from tutelage.models.build import save
from tutelage.recipe import Evaluation, Recipe, Teacher
from tutelage.recipe.load import RECIPE_FILE, find_recipe
from tutelage.recipe.shipped import shipped
from tutelage.recipe.yaml import dump
from tutelage.report.model_card import model_card
from tutelage.report.report import publish as publish_summary
from tutelage.report.report import write_html
from tutelage.teaching import outside
from tutelage.training.parallel import process_group

Folder = str | Path
RecipeSource = Recipe | Folder
RUNS = Path("runs")
EVALUATED = Path("evaluated")
LOG_FILE = "log.txt"


def _read(source: RecipeSource, overrides: Sequence[str], runs: Folder,
          wanted: str | Teacher | None = None) -> tuple[Recipe, Path]:  # fmt: skip
    """Return a recipe, its names and that of a `wanted` model checked, and the folder of its runs."""
    if isinstance(source, Recipe):
        what = source
        if overrides:
            raise UserError("overrides go with a recipe file or name; change a Recipe with `model_copy(update=...)`")
    else:
        what = find_recipe(source, overrides)
        runs = Path(source).absolute().parent if (Path(source) / RECIPE_FILE).is_file() else runs
    check_names(what, wanted)
    check_along(what)
    return what, Path(runs)


@contextmanager
def _open(source: RecipeSource, overrides: Sequence[str], runs: Folder, wanted: str | Teacher | None = None,
          reads: bool = False) -> Iterator[Experiment]:  # fmt: skip
    """Open an experiment and prepare its data, with a log in its folder.

    One that only `reads` a finished experiment leaves no log.
    """
    what, runs = _read(source, overrides, runs, wanted)
    with process_group() as group:
        experiment = Experiment(what, runs, group)
        log = nullcontext() if reads or not group.is_main else logged(experiment.folder / LOG_FILE)
        with log, _explained(experiment.folder) if reads else nullcontext():
            experiment.prepare()
            yield experiment


@contextmanager
def _look(source: RecipeSource, overrides: Sequence[str], runs: Folder) -> Iterator[Experiment]:
    """Open an experiment that leaves nothing in the folder of runs."""
    what, runs = _read(source, overrides, runs)
    with process_group() as group:
        yield Experiment(what, runs, group, looked_at=True)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Tell whoever only reads a finished experiment how to read it as it is."""
    try:
        yield
    except OtherSettings as error:
        if not (folder / RECIPE_FILE).is_file():
            raise
        raise UserError(f"{error.found}\nTo read it as it was run, give its folder in place of the recipe: {folder}; "
                        "or repeat the settings it was run with") from error  # fmt: skip


def show(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS,
         probe: bool = True) -> list[estimates.RunEstimate]:  # fmt: skip
    """Estimate what every model will take: parameters, tokens, words, FLOPs, memory, disk, and time by a probe."""
    with _look(source, overrides, runs) as experiment:
        return estimates.estimate(experiment, probe)


def print_recipe(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS, probe: bool = True) -> None:
    """Print a recipe with everything resolved (stdout), and what `show` estimates (stderr)."""
    with _look(source, overrides, runs) as experiment:
        estimates.print_recipe(experiment, probe)


def prepare(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS) -> Prepared:
    """Download and clean the corpus, train the tokenizer, encode."""
    with _open(source, overrides, runs) as experiment:
        return experiment.data


def train(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS, model: str | None = None,
          share: bool = False) -> None:  # fmt: skip
    """Train one model and those that teach it, or all models; with `share`, beside other processes that do the same."""
    with _open(source, overrides, runs, model) as experiment:
        _train(experiment, model, share=share)


def evaluate(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS,
             model: str | None = None) -> None:  # fmt: skip
    """Score trained models on what the recipe names."""
    with _open(source, overrides, runs, model) as experiment:
        _evaluate(Scoring.of(experiment), model)


def evaluate_models(models: Sequence[Folder], suites: Sequence[str], out: Folder = EVALUATED,
                    convention: str | None = None, kind: Reads | None = None, revision: str | None = None,
                    precision: Literal["fp32", "bf16"] = "fp32",
                    batch_tokens: int | None = None) -> Summary:  # fmt: skip
    """Score any Hugging Face models, folders or hub ids, side by side; write `summary.json` and `report.html` to `out`.

    Args:
        suites: evaluations by name, as a recipe's `evaluate` has them; no held-out loss, since there is no corpus.
        out: folder for results; what was measured there before is not measured again.
        convention: the year's rules, also of fine-tuning; unless given those of 2025, with our own for fine-tuning.
        kind: how the models read; by default as their configuration says.
        revision: branch, tag or commit of hub models.
        batch_tokens: tokens scored at once; changes the speed and nothing else.
    """
    try:
        rules = {} if convention is None else {"convention": convention}
        settings = Evaluation.model_validate(rules | {"batch_tokens": batch_tokens})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]}: {first['msg']} (given: {first['input']!r})") from error
    check_suites(suites)
    for model in models:
        _refuse_recipe(model)
    return evaluate_external([str(model) for model in models], suites, Path(out), settings, kind, revision, precision)


def report(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS,
           publish: Folder | None = None) -> Summary | None:  # fmt: skip
    """Write the report of a finished experiment, and publish it to a folder if one is named; see `run`."""
    with _open(source, overrides, runs, reads=True) as experiment:
        return _report(Scoring.of(experiment), publish) if experiment.group.is_main else None


def run(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS,
        publish: Folder | None = None, workers: int = 1) -> Summary | None:  # fmt: skip
    """Do everything: prepare, train teachers before students, score, report. Helping processes get no summary.

    With `workers`, as many processes train models side by side, each on its share of the cores.
    """
    with _open(source, overrides, runs) as experiment:
        scoring = _train(experiment, None, workers=workers)
        _evaluate(scoring, None)
        return _report(scoring, publish) if experiment.group.is_main else None


def cache_build(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS,
                model: str | None = None) -> None:  # fmt: skip
    """Fill the caches of trained teachers of a recipe (or of one of its models), and mend what is damaged in them."""
    with _open(source, overrides, runs, model) as experiment:
        caches.build(experiment, model)


def cache_info(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS) -> list[caches.CacheReport]:
    """Say what the teacher caches of a recipe hold, and which folders beside them it does not use."""
    with _open(source, overrides, runs) as experiment:
        return caches.info(experiment)


def cache_verify(source: RecipeSource, overrides: Sequence[str] = (), runs: Folder = RUNS) -> list[caches.CacheReport]:
    """Compare every checksum of the teacher caches of a recipe; what is damaged stands in `damaged`."""
    with _open(source, overrides, runs) as experiment:
        return caches.verify(experiment)


def score(source: RecipeSource, model: str, overrides: Sequence[str] = (), runs: Folder = RUNS,
          to: Folder | None = None) -> token_scores.ScoreReport:  # fmt: skip
    """Score every token of the training rows by a model, for selections; see `token_scores.ScoreReport`.

    It is a trained model of the recipe (`name`, `name[seed]`, `name@step-N`), a folder or a hub id. Scores are kept
    where the recipe's selections look for them, or in `to`.

    Raises:
        UserError: the model is not trained, or has another vocabulary, or the folder holds other scores.
    """
    wanted = named(model)
    with _open(source, overrides, runs, wanted) as experiment:
        if wanted.model not in experiment.recipe.models:
            outside.check(wanted, experiment.data.tokenizer, experiment.recipe.models)
        return token_scores.score(experiment, wanted, None if to is None else Path(to))


def export(source: RecipeSource, model: str, folder: Folder, overrides: Sequence[str] = (),
           runs: Folder = RUNS) -> Path:  # fmt: skip
    """Copy a trained model (`name`, `name[seed]`, `name@step-N`) to a folder that stock transformers loads."""
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name a new one")
    wanted = named(model, "name, name[seed] or name@step-N")
    with _open(source, overrides, runs, model, reads=True) as experiment:
        run = experiment.run(wanted)
        model_there = trained(experiment, wanted, run.model.reads)
        card = model_card(experiment.recipe, run.name, run.seed, run.finished())
        if experiment.group.is_main:
            save(model_there, experiment.data.tokenizer, folder, card)
        return folder


def export_babylm(source: RecipeSource, model: str, year: str, folder: Folder, overrides: Sequence[str] = (),
                  runs: Folder = RUNS) -> Path:  # fmt: skip
    """Make an upload folder for BabyLM of a trained model (`name` or `name[seed]`): see `tutelage.babylm.export`."""
    wanted = named(model, "name or name[seed]")
    with _open(source, overrides, runs, model, reads=True) as experiment:
        return make_upload_folder(experiment, experiment.run(wanted), year, Path(folder))


def submission_write(source: RecipeSource, model: str, folder: Folder, track: str, overrides: Sequence[str] = (),
                     runs: Folder = RUNS, measure: bool = False, incomplete: bool = False
                     ) -> Results | None:  # fmt: skip
    """Write BabyLM's result files of a trained model (`name` or `name[seed]`) from its scores; see `babylm.results`.

    Args:
        folder: of results; files are put into `<folder>/<model>/`.
        track: as `babylm-2026-strict-small`.
        measure: first measure what is missing.
        incomplete: write also what the code of 2025 refuses, since tasks or checkpoints are missing.

    Returns:
        What was written, and what is missing; None in the helping processes of a group.
    """
    wanted = named(model, "name or name[seed]")
    with _open(source, overrides, runs, model, reads=True) as experiment:
        run = experiment.run(wanted)
        if not experiment.group.is_main:
            return None
        return write_results(experiment, run, track, Path(folder), measure, incomplete)


def submission_check(path: Folder, track: str) -> list[Fault]:
    """Look through result files made here or elsewhere, a model's folder or its collated file: see `babylm.check`."""
    form, short = format_of(track)
    options = options_here(form)
    console.print(f"texts are compared with the data files of: {', '.join(options) or 'none, as none are here'}")
    return validate_submission(Path(path), form.year, short, options)


def data_list() -> dict[str, str]:
    """Return the benchmarks that can be fetched: where each is published, its licence, remarks."""
    return {name: benchmarks.describe(name) for name in benchmarks.available()}


def data_get(name: str, folder: Folder | None = None, accept_licence: bool = False, source: str | None = None) -> Path:
    """Fetch a benchmark of `data_list` to a data folder (by default the cache), and return its folder.

    `accept_licence` says that you accept the licence shown; `source` is the publisher, where there are several.
    """
    return benchmarks.get(name, None if folder is None else Path(folder), accept_licence, source)


def check(folder: Folder, track: str, model: str | None = None) -> list[tracks.Finding]:
    """Tell for each rule of a BabyLM track whether a finished experiment kept it, broke it, or files cannot tell."""
    return tracks.check(Path(folder), track, model)


def bench(preset: str = "llama-4m", vocabulary: int = 8000, rows: int = 32, length: int = 128,
          steps: int = 8) -> timing.Bench:  # fmt: skip
    """Measure how fast this machine trains a small model, beside a plain PyTorch loop and its matrix products."""
    return timing.measure(preset, vocabulary, rows, length, steps)


def _refuse_recipe(model: Folder) -> None:
    """Tell a recipe that stands where a model is expected."""
    path = Path(model).expanduser()
    if (path / RECIPE_FILE).is_file():
        found = ", ".join(str(folder) for folder in sorted(path.glob("*/seed-*/hf"))[:3])
        raise UserError(f"{model} is a run, which has models: give the folder of one ({found or 'none is finished'})")
    if path.suffix in (".yaml", ".yml") or (str(model) in shipped("recipe") and not path.exists()):
        example = f"`tutelage evaluate {model} 'evaluate=[test, blimp]'`"
        raise UserError(f"{model} is a recipe: its models are scored on what its `evaluate` names, as in {example}; "
                        "--suite goes with a model's folder or hub id")  # fmt: skip


def _train(experiment: Experiment, model: str | None, share: bool = False, workers: int = 1) -> Scoring:
    runs = checked(experiment, model)
    if "test" in experiment.recipe.evaluate:
        experiment.data.check_test(experiment.recipe.data.rows)
    # Reading the benchmarks now tells of a missing one before hours of training.
    scoring = Scoring.of(experiment)
    if experiment.group.is_main:
        outlook.tell(runs, experiment.recipe.evaluate)
    with helpers(experiment, workers - 1), overall(outlook.trainings(runs)):
        if share or workers > 1:
            train_shared(experiment, runs)
        else:
            for run in runs:
                train_run(experiment, run)
    if experiment.group.is_main:
        # A run folder knows its recipe, so that `tutelage report runs/NAME` needs nothing else.
        write_text(experiment.folder / RECIPE_FILE, dump(experiment.recipe.model_dump(mode="json")))
    return scoring


def _evaluate(scoring: Scoring, model: str | None) -> None:
    experiment = scoring.experiment
    names = experiment.recipe.compare.models or tuple(experiment.recipe.models)
    if model is not None and model not in names:
        raise UserError(f"'{model}' is not among the models compared{nearest(model, names)} ({', '.join(names)})")
    if experiment.group.is_main:
        subjects, done = list(scoring.subjects(model)), 0
        with overall(lambda: (f"{done} of {len(subjects)} models scored", done / len(subjects))):
            for subject in subjects:
                scoring.score(subject)
                done += 1
    experiment.group.barrier()


def _report(scoring: Scoring, publish: Folder | None) -> Summary:
    summary = summarise(scoring)
    page = write_html(summary, scoring.experiment.folder / "report.html")
    console.print(f"report: {page}")
    if publish is not None:
        publish_summary(summary, Path(publish))
        console.print(f"published to {publish}")
    return summary
