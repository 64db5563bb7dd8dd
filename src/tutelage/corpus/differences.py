"""What decides how a corpus is prepared, and how a prepared one differs from what a recipe asks for."""

from __future__ import annotations

from pathlib import Path

from tutelage import recipe, starter
from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.functions import code_digest, is_function_name
from tutelage.base.types import Json
from tutelage.corpus import tokens
from tutelage.corpus.cleaned import STUDIED
from tutelage.corpus.cleaning import PUBLISHED, REVISED
from tutelage.corpus.labels import LabelTask, tasks_of
from tutelage.corpus.sources import Corpus, is_local, mix_prefix, resolve_all
from tutelage.corpus.study_plan import ANNOTATED, read_plan

METHOD = 2
"""Version of what is made of a corpus by the same settings; what differed before is told by `_changed_method`."""
_LATER = ("mix", "test_share", "hold_out", "unit", "byte_premium")
"""Settings that earlier versions did not know: they count once they are not at their default."""


def settings_of(data: recipe.Data) -> Json:
    """Return the settings that decide what is on disk: not the rows, not their order."""
    settings = data.model_dump(mode="json", exclude={"rows", "seed"})
    unsaid = {key for key in _LATER if getattr(data, key) == type(data).model_fields[key].default}
    if is_function_name(data.cleaning):
        settings["cleaning_code"] = code_digest(data.cleaning)
    return {key: value for key, value in settings.items() if key not in unsaid}


def differences(folder: Path, settings: Json, data: recipe.Data) -> list[str]:
    """Return in what a prepared folder differs from the settings and texts of a recipe; empty if in nothing."""
    manifest = tokens.read_manifest(folder)
    changed = _changed_settings(manifest["settings"], settings)
    return changed or _changed_method(manifest) or _changed_sources(manifest, data)


def _changed_settings(settings: Json, wanted: Json) -> list[str]:
    before, now = _flat(settings), _flat(wanted)
    if is_local(before["corpus"]) and is_local(now["corpus"]):
        # Local text is known by its content, wherever it lies and however its path is written.
        del before["corpus"], now["corpus"]
    codes = before.pop("cleaning_code", None), now.pop("cleaning_code", None)
    changed = [
        f"data.{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if codes[0] != codes[1] and before["cleaning"] == now["cleaning"]:
        changed.append(f"the code of data.cleaning, {now['cleaning']}, has changed")
    return changed


def _changed_method(manifest: Json) -> list[str]:
    """Name what an earlier version did otherwise with the same settings."""
    if manifest.get("method", 1) == METHOD:
        return []
    settings, sources = manifest["settings"], manifest["sources"]
    changed = []
    revised = sorted({one["cleaner"] for one in sources if one["cleaner"] in REVISED})
    if revised and settings["cleaning"] in ("published", "mended"):
        changed.append(f"an earlier version, whose cleaning of {', '.join(revised)} was not the published one, made it")
    if settings["words"] or settings["test_words"]:
        changed.append("an earlier version, which gave more words than were asked for, made it")
    if any(one["format"] not in STUDIED and one["cleaner"] not in PUBLISHED for one in sources):
        changed.append("an earlier version, which cut documents between the splits, made it")
    return changed


def _changed_sources(manifest: Json, data: recipe.Data) -> list[str]:
    """Compare the local files with those that were prepared, and the tasks of the study plans."""
    named = [data.corpus, *(one.corpus for one in data.mix)]
    moved = {data.corpus} if manifest["settings"]["corpus"] != data.corpus else set()
    # A store outlives the text it was made of; a corpus that has been moved must be there to be compared.
    there = [name for name in named if is_local(name) and (name in moved or Path(name).expanduser().exists())]
    if not there:
        return []

    def corpus_of(file: str) -> str:
        return named[next((n for n in range(1, len(named)) if file.startswith(mix_prefix(n))), 0)]

    # Those of the catalogue and the hub are known by their names: they are not fetched again to open what is there.
    corpora = resolve_all(data, only=[*there, starter.NAME])
    known = {(file["split"], file["name"]): file for file in manifest["sources"] if corpus_of(file["name"]) in there}
    found = {(file.split, file.name): file.path for corpus in corpora if corpus.name in there for file in corpus.files}
    changed = []
    gone = any(is_local(name) and name not in there for name in named)
    if not gone and manifest.get("tasks", []) != described(labelled_tasks(corpora, data)):
        changed.append("the tasks or labels of the plan have changed")
    changed += [f"file {name} ({split}) is gone" for split, name in sorted(known.keys() - found.keys())]
    changed += [f"file {name} ({split}) is new" for split, name in sorted(found.keys() - known.keys())]
    changed += [
        f"file {key[1]} ({key[0]}) has changed"
        for key in sorted(known.keys() & found.keys())
        if found[key].stat().st_size != known[key]["bytes"] or files.sha256(found[key]) != known[key]["sha256"]
    ]
    return changed


def _flat(tree: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def labelled_tasks(corpora: list[Corpus], data: recipe.Data) -> tuple[LabelTask, ...]:
    """Return the tasks whose labels are kept: those of the corpora's plans, where texts have a first token to judge."""
    if data.separator != "brackets":
        return ()
    found: dict[str, LabelTask] = {}
    for corpus in corpora:
        for task in tasks_of(read_plan(corpus.plan)) if corpus.plan else ():
            if found.setdefault(task.name, task) != task:
                raise UserError(f"data.mix: '{corpus.name}' has another task '{task.name}' than the corpora before it: "
                                "rename one of the two in its plan and examples")  # fmt: skip
    return tuple(sorted(found.values(), key=lambda task: ANNOTATED.index(task.kind)))


def described(tasks: tuple[LabelTask, ...]) -> list[Json]:
    """Describe tasks as manifests have them."""
    return [{"name": task.name, "kind": task.kind, "labels": list(task.labels)} for task in tasks]
