"""The verbs of the command line as functions, with the same names.

Each takes a recipe (a `Recipe`, a file, the name of a shipped one, or the folder of an earlier run) and the folder of
runs, and goes as far as its name says; whatever is finished is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import ValidationError

from tutelage import bench as timing
from tutelage import caches
from tutelage import show as estimates
from tutelage.compare.report import publish as publish_summary
from tutelage.compare.report import write_html
from tutelage.compare.summary import Summary
from tutelage.corpus.prepare import Prepared
from tutelage.errors import UserError, nearest
from tutelage.experiment import Experiment
from tutelage.files import write_text
from tutelage.model_card import model_card
from tutelage.models.build import save
from tutelage.progress import console
from tutelage.recipe import Recipe, Teacher
from tutelage.recipe_file import load_recipe
from tutelage.results import summarise
from tutelage.scoring import Scoring
from tutelage.training.parallel import process_group

Source = Recipe | str | Path
RUNS = Path("runs")
RECIPE_FILE = "recipe.yaml"


@contextmanager
def _open(source: Source, overrides: Sequence[str], runs: str | Path) -> Iterator[tuple[Experiment, Scoring]]:
    if not isinstance(source, Recipe) and (Path(source) / RECIPE_FILE).is_file():
        if overrides:
            raise UserError(f"{source} is a run with settings of its own; overrides go with its recipe and a new name")
        source, runs = Path(source) / RECIPE_FILE, Path(source).absolute().parent
    what = source if isinstance(source, Recipe) else load_recipe(source, overrides)
    if isinstance(source, Recipe) and overrides:
        raise UserError("overrides go with a recipe file or name; change a Recipe with `model_copy(update=...)`")
    with process_group() as group:
        experiment = Experiment(what, Path(runs), group)
        experiment.pieces()
        # All processes together: preparing has a barrier.
        _ = experiment.data
        yield experiment, Scoring(experiment)


def show(
    source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS, probe: bool = True
) -> list[estimates.Estimate]:
    """Estimate what every model will take: parameters, tokens, words, FLOPs, memory, disk, and time by a probe."""
    with _open(source, overrides, runs) as (experiment, _):
        return estimates.estimate(experiment, probe)


def prepare(source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS) -> Prepared:
    """Download and clean the corpus, train the tokenizer, encode."""
    with _open(source, overrides, runs) as (experiment, _):
        return experiment.data


def train(source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS, model: str | None = None) -> None:
    """Train one model and those that teach it, or all models."""
    with _open(source, overrides, runs) as (experiment, scoring):
        _train(experiment, scoring, model)


def evaluate(source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS, model: str | None = None) -> None:
    """Score trained models on what the recipe names."""
    with _open(source, overrides, runs) as (experiment, scoring):
        _evaluate(experiment, scoring, model)


def report(
    source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS, publish: str | Path | None = None
) -> Summary | None:
    """Write the report of a finished experiment, and publish it to a folder if one is named; see `run`."""
    with _open(source, overrides, runs) as (experiment, scoring):
        return _report(experiment, scoring, publish) if experiment.group.is_main else None


def run(
    source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS, publish: str | Path | None = None
) -> Summary | None:
    """Do everything: prepare, train teachers before students, score, report.

    Returns:
        The summary; None in the helping processes of a group.
    """
    with _open(source, overrides, runs) as (experiment, scoring):
        _train(experiment, scoring, None)
        _evaluate(experiment, scoring, None)
        return _report(experiment, scoring, publish) if experiment.group.is_main else None


def cache_build(
    source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS, model: str | None = None
) -> None:
    """Fill the teacher caches of a recipe (or of one of its models), and mend what is damaged in them.

    Raises:
        UserError: the recipe has no caches, or a teacher is not trained yet.
    """
    with _open(source, overrides, runs) as (experiment, _):
        caches.build(experiment, model)


def cache_info(source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS) -> list[caches.CacheReport]:
    """Say what the teacher caches of a recipe hold, and which folders beside them it does not use."""
    with _open(source, overrides, runs) as (experiment, _):
        return caches.info(experiment)


def cache_verify(source: Source, overrides: Sequence[str] = (), runs: str | Path = RUNS) -> list[caches.CacheReport]:
    """Compare every checksum of the teacher caches of a recipe; what is damaged stands in `damaged`."""
    with _open(source, overrides, runs) as (experiment, _):
        return caches.verify(experiment)


def export(
    source: Source, model: str, folder: str | Path, overrides: Sequence[str] = (), runs: str | Path = RUNS
) -> Path:
    """Copy a trained model (`name`, `name[seed]`, `name@step-N`) to a folder that stock transformers loads."""
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name a new one")
    try:
        wanted = Teacher.model_validate(model)
    except ValidationError as error:
        raise UserError(f"'{model}' is no model: write name, name[seed] or name@step-N") from error
    with _open(source, overrides, runs) as (experiment, _):
        if wanted.model not in experiment.recipe.models:
            experiment.pieces(wanted.model)
        piece = experiment.piece_of(wanted)
        trained = experiment.trained(wanted, experiment.recipe.models[piece.name].reads)
        card = model_card(experiment.recipe, piece.name, piece.seed, experiment.finished(piece))
        if experiment.group.is_main:
            save(trained, experiment.data.tokenizer, folder, card)
        return folder


def bench(
    preset: str = "llama-4m", vocabulary: int = 8000, rows: int = 32, length: int = 128, steps: int = 8
) -> timing.Bench:
    """Measure how fast this machine trains a small model, beside a plain PyTorch loop and its matrix products."""
    return timing.measure(preset, vocabulary, rows, length, steps)


def _train(experiment: Experiment, scoring: Scoring, model: str | None) -> None:
    pieces = experiment.pieces(model)
    experiment.check(pieces)
    if "test" in experiment.recipe.evaluate:
        experiment.data.check_test(experiment.recipe.data.rows)
    # Reading the suites now tells of a missing one before hours of training.
    _ = scoring.suites
    for piece in pieces:
        experiment.train_piece(piece)
    if experiment.group.is_main:
        # A run folder knows its recipe, so that `tutelage report runs/NAME` needs nothing else.
        text = yaml.safe_dump(experiment.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(experiment.folder / RECIPE_FILE, text)


def _evaluate(experiment: Experiment, scoring: Scoring, model: str | None) -> None:
    names = experiment.recipe.compare.models or tuple(experiment.recipe.models)
    if model is not None and model not in names:
        raise UserError(f"'{model}' is not among the models compared{nearest(model, names)} ({', '.join(names)})")
    _ = scoring.suites
    if experiment.group.is_main:
        for subject in scoring.subjects(model):
            scoring.score(subject)
    experiment.group.barrier()


def _report(experiment: Experiment, scoring: Scoring, publish: str | Path | None) -> Summary:
    summary = summarise(experiment, scoring)
    page = write_html(summary, experiment.folder / "report.html")
    console.print(f"report: {page}")
    if publish is not None:
        publish_summary(summary, Path(publish))
        console.print(f"published to {publish}")
    return summary
