"""Properties of the package as a whole."""

import ast
import subprocess
import sys
from pathlib import Path

import tutelage

ROOT = Path(tutelage.__file__).parent
LAYERS = [
    {
        "baselines",
        "errors",
        "files",
        "progress",
        "machine",
        "model_card",
        "recipe",
        "recipe_data",
        "recipe_evaluation",
        "recipe_finetune",
        "recipe_objective",
        "recipe_schedule",
        "recipe_select",
        "recipe_stage",
        "recipe_tasks",
        "recipe_teacher",
        "recipe_file",
        "run_folder",
        "starter",
        "stopping",
        "word_counts",
        "yaml_file",
    },
    {"corpus"},
    {"study"},
    {"models"},
    {"teaching"},
    {"training"},
    {"evaluation"},
    {"compare"},
    {"measurements"},
    {"caching", "costs", "evaluations", "experiment", "guests", "selecting"},
    {"caches", "piece_training", "scoring", "token_scores", "track_rules", "tracks", "word_checkpoints"},
    {"babylm_export", "babylm_results", "babylm_scores"},
    {"guest_scores", "results", "study_corpora"},
    {"bench", "show", "studies"},
    {"api"},
    {"cli_arguments"},
    {"cli_groups", "cli_study"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("tutelage.")}
    return found & LEVEL.keys()


def test_imports_go_downwards_only() -> None:
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for imported in imports(path):
            assert LEVEL[imported] <= LEVEL[part], f"{path.relative_to(ROOT)} imports {imported}"


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
