"""Arguments that several verbs of the command line take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_RECIPE = "A YAML file, the name of a shipped recipe, or the folder of a run (`runs/NAME`)."
_OVERRIDES = "Changes to the recipe, as in `models.student.epochs=3`."
_PUBLISH = "Also write `report.md`, its plots and `summary.json` to this folder."
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=_RECIPE)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_OVERRIDES)]
Runs = Annotated[Path, typer.Option("--runs", help="Folder for results.", envvar="TUTELAGE_RUNS")]
OneModel = Annotated[str | None, typer.Option("--model", "-m", help="Only this model (and those it needs).")]
Publish = Annotated[Path | None, typer.Option("--publish", help=_PUBLISH)]
RUNS = Path("runs")
TrackOption = Annotated[str, typer.Option(help="As `babylm-2026-strict-small`; an unknown name lists them.")]


def check_names(recipe: str, overrides: list[str] | None, model: str | None = None, outside: bool = False) -> None:
    """Look up every name in a recipe, and a model asked for, before torch is loaded, which takes seconds.

    The model may be one from outside the recipe where that is said.
    """
    from tutelage.experiment import names
    from tutelage.recipe.load import find_recipe

    wanted = names.named(model) if outside and model is not None else model
    names.check_names(find_recipe(recipe, overrides or ()), wanted)
