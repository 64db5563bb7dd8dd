"""Was a model trained by the rules of a BabyLM track? Answered from what its run folders hold, and nothing else.

Three answers: a rule was kept, it was broken, or the files cannot tell. The last is no absolution: it names what the
authors must know themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tutelage.babylm.track_rules import ANSWERS, APPROVED, CALL, PIPELINE, TrackRules, rules_of
from tutelage.base.checksums import read_checked
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import read_json
from tutelage.base.run_folder import RunFolder, exported_damage
from tutelage.base.types import Json
from tutelage.recipe import Model, Rows, Teacher
from tutelage.recipe.words import revision
from tutelage.training import checkpoint

Verdict = Literal["kept", "broken", "unknown"]
"""`unknown` where files cannot tell."""


@dataclass(frozen=True)
class Finding:
    """What became of one rule, with where it stands."""

    model: str
    rule: str
    verdict: Verdict
    message: str
    source: str

    def __str__(self) -> str:
        """Write it on a line."""
        return f"{self.model}: {self.rule}: {self.verdict}: {self.message} [{self.source}]"


_Found = tuple[str, Verdict, str, str]
"""A `Finding` without the model."""


@dataclass(frozen=True)
class _Trained:
    """A finished model with all its seeds: its recipe, and what training came to."""

    name: str
    folder: Path
    model: Model
    data: Json
    runs: dict[int, Json]


def check(experiment: Path, track: str, model: str | None = None) -> list[Finding]:
    """Look whether models were trained by the rules of a track.

    Args:
        experiment: folder of an experiment, `runs/<recipe>`.
        track: `babylm-2025-strict-small` or another of `TRACKS`.
        model: the one that is handed in; all finished ones unless given.

    Raises:
        UserError: an unknown track or model, or a folder without finished models.
    """
    rules = rules_of(track)
    if not (experiment / "data" / "manifest.json").is_file():
        raise UserError(f"{experiment} is no folder of an experiment: it has no data/manifest.json; name runs/<recipe>")
    there = sorted({path.parent.parent.name for path in experiment.glob("*/seed-*/finished.json")})
    if not there:
        raise UserError(f"{experiment} holds no finished model; train one first")
    if model is not None and model not in there:
        raise UserError(f"no finished model '{model}' in {experiment}{nearest(model, there)} ({', '.join(there)})")
    manifest = read_json(experiment / "data" / "manifest.json")
    models = [_trained(experiment / name) for name in ([model] if model is not None else there)]
    return [Finding(one.name, *found) for one in models for found in _findings(one, manifest, rules)]


def _trained(folder: Path) -> _Trained:
    runs, spec = {}, None
    for path in sorted(folder.glob("seed-*/finished.json")):
        spec = read_json(path.parent / "recipe.json")
        runs[int(path.parent.name.removeprefix("seed-"))] = read_checked(path)
    if spec is None:
        raise UserError(f"{folder} holds no finished run, though another model depends on it")
    try:
        return _Trained(folder.name, folder, Model.model_validate(spec["model"]), spec["data"], runs)
    except (ValidationError, KeyError) as error:
        raise UserError(f"{path.parent / 'recipe.json'} is no record of this version of tutelage: {error}") from error


def _findings(trained: _Trained, manifest: Json, rules: TrackRules) -> Iterator[_Found]:
    yield _corpus(manifest, rules)
    yield _origin(manifest, rules)
    if rules.interaction:
        said = (
            "text that the external model generates counts towards the 100,000,000 words, and the model that is handed "
            "in may itself generate as many; no file here counts generated words"
        )
        yield "generated words", "unknown", said, CALL["2025"]
    yield _tokenizer(manifest)
    yield from _epochs(trained, rules)
    yield from _weights(trained)
    yield from _teachers(trained, rules)
    yield _checkpoints(trained, manifest, rules)
    folders = [RunFolder(trained.folder / f"seed-{seed}").hf for seed in trained.runs]
    if lacking := [str(folder) for folder in folders if not (folder / "config.json").is_file()]:
        yield "form", "broken", f"no model in {', '.join(lacking)}", CALL[rules.year]
    elif damaged := [f"{folder}: {fault}" for folder in folders if (fault := exported_damage(folder))]:
        yield "form", "broken", f"damaged: {'; '.join(damaged)}", CALL[rules.year]
    else:
        yield "form", "kept", "loads with transformers and gives (pseudo-)log-likelihoods", CALL[rules.year]


# --- words


def _corpus(manifest: Json, rules: TrackRules) -> _Found:
    if (unit := manifest["settings"].get("unit", "words")) == "characters":
        said = f"the corpus is counted in {unit}, the rules count words; set data.unit to words, or to bytes"
        return "words of the corpus", "unknown", said, CALL[rules.year]
    words, held_out = (manifest["splits"][split]["words"] for split in ("train", "val"))
    said = f"{words:,} words of training text, {rules.words:,} are allowed"
    if words <= rules.words < words + held_out:
        said += (
            f"; with the {held_out:,} held out to choose checkpoints by, it is more: count them if you train on them"
        )
    return "words of the corpus", "kept" if words <= rules.words else "broken", said, CALL[rules.year]


def _origin(manifest: Json, rules: TrackRules) -> _Found:
    rule, corpus = "who wrote the corpus", manifest["settings"]["corpus"]
    if corpus != "starter":
        said = (
            f"texts of '{corpus}' that a model wrote bring that model's own training text into the budget, or must "
            "come from a teacher that the track allows; files do not tell who wrote them"
        )
        return rule, "unknown", said, ANSWERS
    said = "the starter corpus was written by a large language model"
    if rules.interaction:
        return rule, "unknown", f"{said}; only the track's external models may", CALL[rules.year]
    if rules.feedback:
        return rule, "unknown", f"{said}; only an approved teacher may", CALL[rules.year]
    return rule, "broken", f"{said}, whose own training text counts", ANSWERS


def _tokenizer(manifest: Json) -> _Found:
    settings = manifest["settings"]["tokenizer"]
    if settings["kind"] == "bpe":
        return "tokenizer", "kept", "trained on the training text alone", ANSWERS
    said = f"'{settings['path']}' was trained elsewhere; its text counts towards the budget, and is not known here"
    return "tokenizer", "unknown", said, ANSWERS


def _epochs(trained: _Trained, rules: TrackRules) -> Iterator[_Found]:
    epochs, words = (max(done[key] for done in trained.runs.values()) for key in ("epochs", "words"))
    # A length is rounded down to whole steps; only the division that tells their passes is inexact.
    verdict: Verdict = "kept" if epochs <= rules.epochs + 1e-9 else "broken"
    said = f"{epochs:.2f} passes over the training text, {rules.epochs} are allowed for the competition"
    yield "epochs", verdict, said, CALL[rules.year]
    said = f"{words:,} words, repeats included; {rules.words_seen:,} are allowed"
    yield "words seen", "kept" if words <= rules.words_seen else "broken", said, CALL[rules.year]
    for other in _inside(trained):
        longer = max(done["epochs"] for done in other.runs.values())
        if longer > rules.epochs:
            said = f"'{other.name}', which it learned by, read the text {longer:.2f} times; whether it may is not said"
            yield "epochs of teachers", "unknown", said, CALL[rules.year]


# --- other models


def _weights(trained: _Trained) -> Iterator[_Found]:
    for one in (trained, *_inside(trained)):
        if one.model.weights is not None:
            said = (
                f"{one.name} starts from '{one.model.weights}'; the words that was trained on count towards the "
                "budget, and are not known here"
            )
            yield "weights from outside", "unknown", said, ANSWERS


def _teachers(trained: _Trained, rules: TrackRules) -> Iterator[_Found]:
    """Look at teachers, whose output distributions reach the model, and at scorers, whose losses choose for it."""
    rule, inside, outside = "teacher access", _inside(trained), list(_outside(trained))
    if not inside and not outside:
        yield rule, "kept", "no teacher", CALL[rules.year]
    teaching = {teacher.name for teacher in _inside(trained, teaching=True)}
    for other in inside:
        if other.data["train"] == trained.data["train"]:
            does = "output distribution teaches" if other.name in teaching else "losses chose the rows or tokens"
            yield rule, "kept", f"'{other.name}', whose {does}, was trained on the same words", ANSWERS
        else:
            said = f"'{other.name}' was trained on other tokens than this model; its words count towards the budget too"
            yield rule, "unknown", said, ANSWERS
    teaching_outside = set(_outside(trained, teaching=True))
    taught = {(one.name, other.model) for one in (trained, *inside) for other in _references(one, teaching=True)}
    for of, name in outside:
        did = f"the output distribution of '{name}', a model from outside, reaches {of}"
        if (of, name) not in taught:
            did = f"the losses of '{name}', a model from outside, chose the rows or tokens of {of}"
        elif (of, name) not in teaching_outside:
            did += f", and {trained.name} by the choice of rows or tokens only"
        yield rule, *_from_outside(name, did, (of, name) in teaching_outside, rules)


def _from_outside(name: str, said: str, teaches: bool, rules: TrackRules) -> tuple[Verdict, str, str]:
    """Judge a model from outside by what it did: a teacher passes its output distribution on, a scorer its losses."""
    approved = rules.approves(name)
    if rules.interaction and teaches:
        said += "; an external model's weights, hidden states and output distribution must not reach what is handed in"
        return "broken", said, CALL[rules.year]
    if not rules.feedback and not rules.interaction:
        if approved:
            return "broken", f"{said}, and the words it was trained on, far beyond the budget, count", ANSWERS
        said += "; the words it was trained on count towards the budget, and are not known here"
        return "unknown", said, ANSWERS
    allowed = APPROVED[rules.feedback]
    if approved is False:
        return "broken", f"{said}; it is none of the approved models ({allowed})", CALL[rules.year]
    told = "an approved model" if approved else f"approved only if it is one of these: {allowed}"
    asked = "a teacher's output distribution may be learned from" if teaches else "its losses may choose"
    said += f", {told}. Whether {asked} in {rules.year} is unverified: ask first"
    return "unknown", said, CALL[rules.year]


def _references(trained: _Trained, teaching: bool) -> list[Teacher]:
    """Return the models that a model needed for its training, or of these only its teachers."""
    return [other for stage in trained.model.stages for other in (stage.teachers if teaching else stage.needs)]


def _is_inside(trained: _Trained, teacher: Teacher) -> bool:
    # A path or hub id has no folder of seeds here.
    return any((trained.folder.parent / teacher.model).glob("seed-*/recipe.json")) and "/" not in teacher.model


def _inside(trained: _Trained, teaching: bool = False) -> list[_Trained]:
    """Return the teachers and scorers of the same experiment, and theirs; or only those who reach it by teaching."""
    found: dict[str, _Trained] = {}
    waiting = [trained]
    while waiting:
        for other in _references(waiting.pop(), teaching):
            if _is_inside(trained, other) and other.model not in found:
                found[other.model] = _trained(trained.folder.parent / other.model)
                waiting.append(found[other.model])
    return list(found.values())


def _outside(trained: _Trained, teaching: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (who learned by it, its name) for models from outside, those of models inside included; as `_inside`."""
    for one in (trained, *_inside(trained, teaching)):
        for name in dict.fromkeys(t.model for t in _references(one, teaching) if not _is_inside(one, t)):
            yield one.name, name


# --- what is handed in


def _checkpoints(trained: _Trained, manifest: Json, rules: TrackRules) -> _Found:
    train = manifest["splits"]["train"]
    per_token = train["words"] / train["tokens"]
    missing: dict[int, list[str]] = {}
    rows = Rows.model_validate(trained.data.get("rows", {}))
    for seed, done in trained.runs.items():
        kept = _words_kept(RunFolder(trained.folder / f"seed-{seed}"), per_token)
        # Steps of chunks are all alike, those of examples as long as their texts: no longer than full rows.
        in_step = done["tokens"] / done["steps"]
        if rows.kind == "examples":
            in_step = trained.model.optim.batch_rows * rows.length
        one_step = in_step * per_token
        asked = [words for words in rules.schedule if words <= done["words"]]
        missing[seed] = [revision(words) for words in asked if not any(words <= k < words + one_step for k in kept)]
    reached = sum(words <= max(done["words"] for done in trained.runs.values()) for words in rules.schedule)
    rule, source = "checkpoints", PIPELINE[rules.year]
    if not reached:
        return rule, "kept", f"training ended before the first one, {revision(rules.schedule[0])}", source
    if complete := [seed for seed, names in missing.items() if not names]:
        which = "" if len(complete) == len(missing) else f" (of seed {', '.join(map(str, complete))})"
        return rule, "kept", f"all {reached} that were reached are there{which}", source
    fewest = min(missing.values(), key=len)
    said = f"{len(fewest)} of {reached} are not there: {', '.join(fewest)}; train with models.*.checkpoints"
    return rule, "broken", said, source


def _words_kept(run: RunFolder, per_token: float) -> list[float]:
    """Return the words seen at each kept checkpoint."""
    folders = (checkpoint.folder_of(run.checkpoints, step) for step in checkpoint.steps_in(run.checkpoints))
    states: list[Json] = [read_json(path) for folder in folders if (path := folder / "state.json").is_file()]
    return [state["tokens"] * per_token for state in states]
