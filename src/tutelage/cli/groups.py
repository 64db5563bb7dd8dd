"""Verbs of the command line that come in groups: `tutelage cache build`, `data get`, `submission write`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutelage.base.progress import output
from tutelage.cli.arguments import RUNS, OneModel, Overrides, RecipeArgument, Runs, TrackOption, check_names

cache = typer.Typer(no_args_is_help=True, help="Keep teachers' output on disk (`stages: [{cache: ...}]`).")
data = typer.Typer(no_args_is_help=True, help="Get benchmarks from where their authors publish them; none is bundled.")
submission = typer.Typer(no_args_is_help=True, help="BabyLM's result files: write them from scores, look them through.")


@submission.command("write")
def submission_write(
    recipe: RecipeArgument,
    model: Annotated[str, typer.Argument(help="`name` or `name[seed]`.")],
    folder: Annotated[Path, typer.Argument(help="Folder of results; files are put into FOLDER/MODEL/.")],
    track: TrackOption,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="First measure what is not measured yet.")] = False,
    incomplete: Annotated[bool, typer.Option(
        "--incomplete", help="Write what there is also in 2025, whose own code takes no less than all.")] = False,
) -> None:  # fmt: skip
    """Write what BabyLM asks of a model besides its weights: predictions of every task, and the collated file.

    `tutelage submission write mine.yaml student results --track babylm-2026-strict-small`

    takes the scores that the run has, prints which tasks are in the files and which are missing and why, and looks the
    files through as `tutelage submission check` does; they appear as a whole or not at all. With `--evaluate`, tasks
    whose data are on this machine are measured first, the fast ones at every checkpoint (`models.*.checkpoints`).
    The weights themselves, with a revision for each checkpoint: `tutelage export --babylm`.
    """
    check_names(recipe, overrides, model)
    _check_track(track)
    from tutelage import api
    from tutelage.babylm.results import reasons, table

    written = api.submission_write(recipe, model, folder, track, overrides or (), runs, evaluate, incomplete)
    if written is None:
        return
    output().print(table(written))
    if text := reasons(written.lines, written.year):
        print(f"Missing:\n{text}")
    print(f"written: {written.path}")


@submission.command("check")
def submission_check(
    path: Annotated[Path, typer.Argument(help="A model's folder of results, or its collated file; made here or not.")],
    track: TrackOption,
) -> None:
    """Look result files through: names, sizes, order, values, checkpoints. Exit code 1 if the year would refuse them.

    Every fault comes with its place. Where a benchmark's data are on this machine, predictions are also compared with
    the texts that stand at their lines.
    """
    _check_track(track)
    from tutelage import api

    faults = api.submission_check(path, track)
    for fault in faults:
        print(f"{fault}{' (taken as it is)' if fault.allowed else ''}")
    refused = sum(not fault.allowed for fault in faults)
    print(f"{refused} faults, and {len(faults) - refused} that the year's own code takes" if faults else "no faults")
    if refused:
        raise typer.Exit(1)


@data.command("list")
def data_list() -> None:
    """List the benchmarks that can be fetched, with their sources and licences."""
    from tutelage import api

    print("\n".join(api.data_list().values()))


@data.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A benchmark of `tutelage data list`.")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="You accept the licence shown.")] = False,
    source: Annotated[str | None, typer.Option(help="Which publisher, where there are several.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Data folder to put it in; the cache by default.")] = None,
) -> None:
    """Fetch a benchmark; shows its source and licence first."""
    from tutelage import api

    api.data_get(name, folder, accept_licence, source)


@cache.command("build")
def cache_build(recipe: RecipeArgument, overrides: Overrides = None, runs: Runs = RUNS, model: OneModel = None) -> None:
    """Fill the caches of trained teachers, or resume filling them; mend what is damaged."""
    check_names(recipe, overrides, model)
    from tutelage import api

    api.cache_build(recipe, overrides or (), runs, model)


@cache.command("info")
def cache_info(recipe: RecipeArgument, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    """Print what the caches of a recipe hold: kind, bytes a token, size, filled share, error."""
    check_names(recipe, overrides)
    from tutelage import api

    for found in api.cache_info(recipe, overrides or (), runs):
        output().print(str(found), highlight=False)


@cache.command("verify")
def cache_verify(recipe: RecipeArgument, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    """Read all caches of a recipe and compare every checksum; exit code 1 if something is damaged."""
    check_names(recipe, overrides)
    from tutelage import api

    reports = api.cache_verify(recipe, overrides or (), runs)
    for found in reports:
        output().print(str(found), highlight=False)
    if any(found.damaged for found in reports):
        raise typer.Exit(1)


def _check_track(track: str) -> None:
    from tutelage.babylm.track_rules import rules_of

    rules_of(track)
