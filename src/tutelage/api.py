"""The verbs of the command line as functions, with the same names.

Each takes a recipe (a `Recipe`, a path, or the name of a shipped one) and the folder of runs, and goes as far as its
name says; whatever is finished is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tutelage import show as estimates
from tutelage.compare.report import publish as publish_summary
from tutelage.compare.report import write_html
from tutelage.compare.summary import Summary
from tutelage.corpus.prepare import Prepared
from tutelage.errors import UserError
from tutelage.experiment import Experiment
from tutelage.progress import console
from tutelage.recipe import Recipe, Teacher
from tutelage.recipe_file import load_recipe
from tutelage.results import summarise
from tutelage.scoring import Scoring
from tutelage.training.parallel import process_group

Source = Recipe | str | Path
RUNS = Path("runs")


@contextmanager
def _open(source: Source, overrides: Sequence[str], runs: Path) -> Iterator[tuple[Experiment, Scoring]]:
    what = source if isinstance(source, Recipe) else load_recipe(source, overrides)
    if isinstance(source, Recipe) and overrides:
        raise UserError("overrides go with a recipe file or name; change a Recipe with `model_copy(update=...)`")
    with process_group() as group:
        experiment = Experiment(what, Path(runs), group)
        yield experiment, Scoring(experiment)


def show(
    source: Source, overrides: Sequence[str] = (), runs: Path = RUNS, probe: bool = True
) -> list[estimates.Estimate]:
    """Estimate what every model will take: parameters, tokens, words, FLOPs, memory, disk, and time by a probe."""
    with _open(source, overrides, runs) as (experiment, _):
        return estimates.estimate(experiment, probe)


def prepare(source: Source, overrides: Sequence[str] = (), runs: Path = RUNS) -> Prepared:
    """Download and clean the corpus, train the tokenizer, encode."""
    with _open(source, overrides, runs) as (experiment, _):
        return experiment.data


def train(source: Source, overrides: Sequence[str] = (), runs: Path = RUNS, model: str | None = None) -> None:
    """Train one model and those that teach it, or all models."""
    with _open(source, overrides, runs) as (experiment, scoring):
        _train(experiment, scoring, model)


def evaluate(source: Source, overrides: Sequence[str] = (), runs: Path = RUNS, model: str | None = None) -> None:
    """Score trained models on what the recipe names."""
    with _open(source, overrides, runs) as (experiment, scoring):
        _evaluate(experiment, scoring, model)


def report(source: Source, overrides: Sequence[str] = (), runs: Path = RUNS, publish: Path | None = None) -> Summary:
    """Write the report of a finished experiment, and publish it to a folder if one is named."""
    with _open(source, overrides, runs) as (experiment, scoring):
        return _report(experiment, scoring, publish)


def run(
    source: Source, overrides: Sequence[str] = (), runs: Path = RUNS, publish: Path | None = None
) -> Summary | None:
    """Do everything: prepare, train teachers before students, score, report.

    Returns:
        The summary; None in the helping processes of a group.
    """
    with _open(source, overrides, runs) as (experiment, scoring):
        _train(experiment, scoring, None)
        _evaluate(experiment, scoring, None)
        return _report(experiment, scoring, publish) if experiment.group.is_main else None


def export(source: Source, model: str, folder: Path, overrides: Sequence[str] = (), runs: Path = RUNS) -> Path:
    """Copy a trained model (`name`, `name[seed]`, `name@step-N`) to a folder that stock transformers loads."""
    from tutelage.experiment import model_card
    from tutelage.models.build import save

    with _open(source, overrides, runs) as (experiment, _):
        wanted = Teacher.model_validate(model)
        if wanted.model not in experiment.recipe.models:
            experiment.pieces(wanted.model)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; name a new folder")
        piece = experiment.piece_of(wanted)
        trained = experiment.trained(wanted, experiment.recipe.models[piece.name].reads)
        finished = experiment.run_of(piece).finished
        assert finished is not None
        save(trained, experiment.data.tokenizer, folder, model_card(experiment.recipe, piece, finished))
        return folder


def _train(experiment: Experiment, scoring: Scoring, model: str | None) -> None:
    pieces = experiment.pieces(model)
    # Reading the suites now tells of a missing one before hours of training.
    _ = scoring.suites
    for piece in pieces:
        experiment.train_piece(piece)


def _evaluate(experiment: Experiment, scoring: Scoring, model: str | None) -> None:
    if experiment.group.is_main:
        for subject in scoring.subjects(model):
            scoring.score(subject)
    experiment.group.barrier()


def _report(experiment: Experiment, scoring: Scoring, publish: Path | None) -> Summary:
    summary = summarise(experiment, scoring)
    page = write_html(summary, experiment.folder / "report.html")
    console.print(f"report: {page}")
    if publish is not None:
        publish_summary(summary, publish)
        console.print(f"published to {publish}")
    return summary
