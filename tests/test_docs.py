"""The documentation is held to the code: pages are fresh, commands parse, recipes load, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tutelage.recipe.load import load_recipe
from tutelage.recipe.shipped import shipped

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACEHOLDERS = {
    "RECIPE": ["quickstart"],
    "[RECIPE]": ["quickstart"],
    "[KEY=VALUE]...": ["seed=1"],
    "NAME": ["student"],
    "FOLDER": ["folder"],
    "RUN": ["quickstart"],
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The code blocks of a page in some languages."""
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[list[str]]:
    """Every `tutelage ...` command of a page, as arguments: from shell blocks, and from the running text."""
    lines = [line for text in blocks(page, "bash", "sh", "console") for line in text.splitlines()]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))
    for line in (line for line in lines if "tutelage " in line):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[:1] == ["torchrun"] and words[3:5] == ["-m", "tutelage"]:
            words = words[4:]
        if words[:1] == ["tutelage"] and len(words) > 1:
            yield [part for word in words[1:] for part in PLACEHOLDERS.get(word, [word])]


def recipe_blocks(page: Path) -> dict[str, str]:
    """Whole recipes shown on a page, by the file name that stands in their first line."""
    found = {}
    for text in blocks(page, "yaml"):
        if name := re.match(r"# (\S+\.yaml)\n", text):
            found[name[1]] = text
    return found


def test_recipe_page_is_fresh() -> None:
    run = [sys.executable, str(ROOT / "docs" / "make_recipes.py"), "--check"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Vocabulary:
    """What building a model asks of a tokenizer."""

    bos_token_id, eos_token_id, pad_token_id, cls_token_id, sep_token_id = 1, 2, 0, 4, 5

    def __len__(self) -> int:
        return 2000

    def get_vocab(self) -> dict[str, int]:
        return {"last": 2000 - 1}


@pytest.mark.parametrize("name", shipped("recipe"))
def test_shipped_recipes_load_and_their_models_can_be_built(name: str) -> None:
    from tutelage.models.build import shape

    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    for model in recipe.models.values():
        assert next(shape(model, Vocabulary(), recipe.data.rows.length).parameters()).is_meta
    taught = {name for name, model in recipe.models.items() if any(stage.teachers for stage in model.stages)}
    controlled = {model.like for model in recipe.models.values() if "teachers" in model.without}
    controlled |= {name for name in taught if recipe.models[name].like in recipe.models.keys() - taught}
    assert not taught or taught & controlled, "a student needs a control"


@pages
def test_recipes_on_pages_load(page: Path, tmp_path: Path) -> None:
    for name, text in recipe_blocks(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        load_recipe(tmp_path / name)


@pages
def test_data_on_pages_parse(page: Path) -> None:
    for text in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)
    for text in blocks(page, "json"):
        assert isinstance(json.loads(text), dict)


@pages
def test_commands_on_pages_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from tutelage.cli.main import app

    for source in PAGES:
        for name, text in recipe_blocks(source).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    group = typer.main.get_command(app)
    for words in commands(page):
        verb = group.get_command(group.make_context("tutelage", list(words)), words[0])
        assert verb is not None, f"no verb in: tutelage {shlex.join(words)}"
        if len(words) == 1:
            continue  # the verb by name, in a sentence
        try:
            context = verb.make_context(words[0], words[1:])
        except Exception as error:
            pytest.fail(f"tutelage {shlex.join(words)}: {error}")
        recipe, overrides = context.params.get("recipe"), context.params.get("overrides") or ()
        if recipe is not None and not context.params.get("suite"):
            loaded = load_recipe(recipe, overrides)
            model = context.params.get("model")
            assert model is None or re.split(r"[\[@]", model)[0] in loaded.models


@pages
def test_python_on_pages_fits_the_code(page: Path) -> None:
    for text in blocks(page, "python"):
        tree = ast.parse(text)
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                home = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(home, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
                    modules[alias.asname or alias.name] = getattr(home, alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = called(node.func, modules)
                if inspect.isfunction(function):
                    keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                    inspect.signature(function).bind(*node.args, **keywords)


def called(node: ast.expr, names: dict[str, object]) -> object:
    """The function of this project that a call names; None for anything else."""
    if isinstance(node, ast.Name):
        found = names.get(node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
        found = getattr(names[node.value.id], node.attr)
    else:
        return None
    return found if str(getattr(found, "__module__", "")).startswith("tutelage") else None


@pages
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^()\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.relative_to(ROOT).parts
        if inside[:1] == ("results",) and len(inside) > 1 and not (ROOT / "results" / inside[1]).is_dir():
            missing.append("/".join(inside))
            continue
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}: no such heading"
    if missing:
        pytest.skip(f"not published yet: {', '.join(missing)}")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_make_targets_on_pages_exist(page: Path) -> None:
    wanted = {word for text in blocks(page, "bash") for word in re.findall(r"^make ([\w-]+)", text, re.MULTILINE)}
    makefile = ROOT / "Makefile"
    if wanted and not makefile.is_file():
        pytest.skip("no Makefile in this tree")
    for target in wanted:
        assert re.search(rf"^{target}:", makefile.read_text(encoding="utf-8"), re.MULTILINE), f"make {target}"


@pages
def test_no_page_names_this_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(work|root|home|tmp|mnt|workspace)/", text)


def test_figures_say_where_they_come_from() -> None:
    """What stands between the markers of a published report needs that report."""
    for page in PAGES:
        for name, text in re.findall(r"<!-- results:(\S+) -->(.*?)<!-- /results:\1 -->", page.read_text(), re.DOTALL):
            assert not text.strip() or (ROOT / "results" / name / "summary.json").is_file()


def test_versions_agree() -> None:
    from tutelage import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]


def test_every_preset_and_suite_named_on_pages_exists() -> None:
    from tutelage.babylm.track_rules import TRACKS
    from tutelage.corpus.catalogue import CORPORA
    from tutelage.models.presets import PRESETS

    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"\b(?:llama|gpt2|gptj|modernbert)-\d+m\b", text):
            assert name in PRESETS, f"{page.name}: {name}"
        for name in re.findall(r"\bbabylm-20\d\d-[\w-]+", text):
            assert name in CORPORA or name in TRACKS, f"{page.name}: {name}"
