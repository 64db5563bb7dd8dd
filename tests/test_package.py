"""Properties of the package as a whole."""

import subprocess
import sys


def test_help_needs_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "pydantic")
    code = f"import sys, tutelage.cli.main; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_verbs_are_functions_of_the_same_name() -> None:
    from tutelage import api
    from tutelage.cli.main import app
    from tutelage.experiment import show

    for command in app.registered_commands:
        name = command.callback.__name__
        assert callable(getattr(api, name, None)) or (name == "show" and callable(show.estimate))


def test_models_are_scored_to_a_folder_by_default(monkeypatch) -> None:
    from typer.testing import CliRunner

    from tutelage.api import recipes
    from tutelage.cli.main import app
    from tutelage.report import terminal

    asked = []
    monkeypatch.setattr(recipes, "evaluate_models", lambda *given: asked.append(given))
    monkeypatch.setattr(terminal, "scores_table", lambda summary: "a table")
    runner = CliRunner()
    done = runner.invoke(app, ["evaluate", "one", "two", "--suite", "blimp", "--kind", "masked"])
    assert (done.exit_code, done.exception) == (0, None)
    assert asked == [(["one", "two"], ["blimp"], recipes.EVALUATED, None, "masked", None, "fp32", None)]
    assert runner.invoke(app, ["evaluate", "one", "--suite", "blimp", "--kind", "sideways"]).exit_code == 2
