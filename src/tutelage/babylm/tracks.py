"""Was a model trained by the rules of a BabyLM track? Answered from what its run folders hold, and nothing else.

Three answers: a rule was kept, it was broken, or the files cannot tell. The last is no absolution: it names what the
authors must know themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tutelage.babylm.track_rules import ANSWERS, APPROVED, CALL, PIPELINE, TRACKS, TrackRules
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import read_json
from tutelage.base.run_folder import RunFolder
from tutelage.base.types import Json
from tutelage.recipe import Model, Rows, Teacher
from tutelage.recipe.words import revision
from tutelage.training import checkpoint

Verdict = Literal["kept", "broken", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What became of one rule.

    Attributes:
        model: whose training is meant.
        rule: in a few words.
        verdict: `kept`, `broken`, or `unknown` where files cannot tell.
        message: what was found.
        source: where the rule stands.
    """

    model: str
    rule: str
    verdict: Verdict
    message: str
    source: str

    def __str__(self) -> str:
        """Write it on a line."""
        return f"{self.model}: {self.rule}: {self.verdict}: {self.message} [{self.source}]"


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
    if track not in TRACKS:
        raise UserError(f"unknown track '{track}'{nearest(track, TRACKS)} (known: {', '.join(TRACKS)})")
    if not (experiment / "data" / "manifest.json").is_file():
        raise UserError(f"{experiment} is no folder of an experiment: it has no data/manifest.json; name runs/<recipe>")
    there = {path.parent.parent.name for path in experiment.glob("*/seed-*/finished.json")}
    if not there:
        raise UserError(f"{experiment} holds no finished model; train one first")
    if model is not None and model not in there:
        raise UserError(
            f"no finished model '{model}' in {experiment}{nearest(model, there)} ({', '.join(sorted(there))})"
        )
    manifest = read_json(experiment / "data" / "manifest.json")
    rules = TRACKS[track]
    return [
        finding
        for name in ([model] if model is not None else sorted(there))
        for finding in _findings(experiment, _trained(experiment, name), manifest, rules)
    ]


def _trained(experiment: Path, name: str) -> _Trained:
    runs, spec = {}, None
    for path in sorted((experiment / name).glob("seed-*/finished.json")):
        spec = read_json(path.parent / "recipe.json")
        runs[int(path.parent.name.removeprefix("seed-"))] = read_json(path)
    if spec is None:
        raise UserError(f"{experiment / name} holds no finished run, though another model depends on it")
    try:
        model = Model.model_validate(spec["model"])
    except (ValidationError, KeyError) as error:
        raise UserError(f"{path.parent / 'recipe.json'} is no record of this version of tutelage: {error}") from error
    return _Trained(name, experiment / name, model, spec["data"], runs)


def _findings(experiment: Path, trained: _Trained, manifest: Json, rules: TrackRules) -> Iterator[Finding]:
    yield _corpus(trained, manifest, rules)
    yield _origin(trained, manifest, rules)
    if rules.interaction:
        yield _generated(trained)
    yield _tokenizer(trained, manifest)
    yield from _epochs(experiment, trained, rules)
    yield from _weights(experiment, trained)
    yield from _teachers(experiment, trained, rules)
    yield _checkpoints(trained, manifest, rules)
    yield _form(trained, rules)


# --- words


def _corpus(trained: _Trained, manifest: Json, rules: TrackRules) -> Finding:
    words = manifest["splits"]["train"]["words"]
    held_out = manifest["splits"]["val"]["words"]
    said = f"{words:,} words of training text, {rules.words:,} are allowed"
    if words <= rules.words < words + held_out:
        said += (
            f"; with the {held_out:,} held out to choose checkpoints by, it is more: count them if you train on them"
        )
    verdict: Verdict = "kept" if words <= rules.words else "broken"
    return Finding(trained.name, "words of the corpus", verdict, said, CALL[rules.year])


def _origin(trained: _Trained, manifest: Json, rules: TrackRules) -> Finding:
    rule, corpus = "who wrote the corpus", manifest["settings"]["corpus"]
    if corpus != "starter":
        said = (
            f"texts of '{corpus}' that a model wrote bring that model's own training text into the budget, or must "
            "come from a teacher that the track allows; files do not tell who wrote them"
        )
        return Finding(trained.name, rule, "unknown", said, ANSWERS)
    said = "the starter corpus was written by a large language model"
    if rules.interaction:
        return Finding(trained.name, rule, "unknown", f"{said}; only the track's external models may", CALL[rules.year])
    if rules.feedback:
        return Finding(trained.name, rule, "unknown", f"{said}; only an approved teacher may", CALL[rules.year])
    return Finding(trained.name, rule, "broken", f"{said}, whose own training text counts", ANSWERS)


def _generated(trained: _Trained) -> Finding:
    said = (
        "text that the external model generates counts towards the 100,000,000 words, and the model that is handed in "
        "may itself generate as many; no file here counts generated words"
    )
    return Finding(trained.name, "generated words", "unknown", said, CALL["2025"])


def _tokenizer(trained: _Trained, manifest: Json) -> Finding:
    settings = manifest["settings"]["tokenizer"]
    if settings["kind"] == "bpe":
        return Finding(trained.name, "tokenizer", "kept", "trained on the training text alone", ANSWERS)
    said = f"'{settings['path']}' was trained elsewhere; its text counts towards the budget, and is not known here"
    return Finding(trained.name, "tokenizer", "unknown", said, ANSWERS)


def _epochs(experiment: Path, trained: _Trained, rules: TrackRules) -> Iterator[Finding]:
    epochs = max(done["epochs"] for done in trained.runs.values())
    words = max(done["words"] for done in trained.runs.values())
    # A length is rounded down to whole steps; only the division that tells their passes is inexact.
    verdict: Verdict = "kept" if epochs <= rules.epochs + 1e-9 else "broken"
    said = f"{epochs:.2f} passes over the training text, {rules.epochs} are allowed for the competition"
    yield Finding(trained.name, "epochs", verdict, said, CALL[rules.year])
    verdict = "kept" if words <= rules.words_seen else "broken"
    said = f"{words:,} words, repeats included; {rules.words_seen:,} are allowed"
    yield Finding(trained.name, "words seen", verdict, said, CALL[rules.year])
    for other in _inside(experiment, trained):
        longer = max(done["epochs"] for done in other.runs.values())
        if longer > rules.epochs:
            said = f"'{other.name}', which it learned by, read the text {longer:.2f} times; whether it may is not said"
            yield Finding(trained.name, "epochs of teachers", "unknown", said, CALL[rules.year])


# --- other models


def _weights(experiment: Path, trained: _Trained) -> Iterator[Finding]:
    for one in (trained, *_inside(experiment, trained)):
        if one.model.weights is not None:
            said = (
                f"{one.name} starts from '{one.model.weights}'; the words that was trained on count towards the "
                "budget, and are not known here"
            )
            yield Finding(trained.name, "weights from outside", "unknown", said, ANSWERS)


def _teachers(experiment: Path, trained: _Trained, rules: TrackRules) -> Iterator[Finding]:
    rule, inside, outside = "teacher access", _inside(experiment, trained), list(_outside(experiment, trained))
    if not inside and not outside:
        yield Finding(trained.name, rule, "kept", "no teacher", CALL[rules.year])
    heard = {teacher.name for teacher in _inside(experiment, trained, heard=True)}
    for other in inside:
        if other.data["train"] == trained.data["train"]:
            does = "output distribution teaches" if other.name in heard else "losses chose the rows or tokens"
            said = f"'{other.name}', whose {does}, was trained on the same words"
            yield Finding(trained.name, rule, "kept", said, ANSWERS)
        else:
            said = f"'{other.name}' was trained on other tokens than this model; its words count towards the budget too"
            yield Finding(trained.name, rule, "unknown", said, ANSWERS)
    heard_outside = set(_outside(experiment, trained, heard=True))
    taught = {(one.name, other.model) for one in (trained, *inside) for other in _references(one, heard=True)}
    for of, name in outside:
        did = f"the output distribution of '{name}', a model from outside, reaches {of}"
        if (of, name) not in taught:
            did = f"the losses of '{name}', a model from outside, chose the rows or tokens of {of}"
        elif (of, name) not in heard_outside:
            did += f", and {trained.name} by the choice of rows or tokens only"
        yield _from_outside(trained.name, name, did, (of, name) in heard_outside, rules)


def _from_outside(model: str, name: str, said: str, heard: bool, rules: TrackRules) -> Finding:
    """Judge a model from outside by what it did: a teacher passes its output distribution on, a scorer its losses."""
    rule, approved = "teacher access", rules.approves(name)
    if rules.interaction and heard:
        said += "; an external model's weights, hidden states and output distribution must not reach what is handed in"
        return Finding(model, rule, "broken", said, CALL[rules.year])
    if not rules.feedback and not rules.interaction:
        if approved:
            said += ", and the words it was trained on, far beyond the budget, count"
            return Finding(model, rule, "broken", said, ANSWERS)
        said += "; the words it was trained on count towards the budget, and are not known here"
        return Finding(model, rule, "unknown", said, ANSWERS)
    allowed = APPROVED[rules.feedback]
    if approved is False:
        said += f"; it is none of the approved models ({allowed})"
        return Finding(model, rule, "broken", said, CALL[rules.year])
    told = "an approved model" if approved else f"approved only if it is one of these: {allowed}"
    asked = "a teacher's output distribution may be learned from" if heard else "its losses may choose"
    said += f", {told}. Whether {asked} in {rules.year} is unverified: ask first"
    return Finding(model, rule, "unknown", said, CALL[rules.year])


def _references(trained: _Trained, heard: bool) -> list[Teacher]:
    """Return the models that a model needed for its training, or of these only whom it heard: its teachers."""
    return [other for stage in trained.model.stages for other in (stage.teachers if heard else stage.needs)]


def _is_inside(experiment: Path, teacher: Teacher) -> bool:
    # A path or hub id has no folder of seeds here.
    return any((experiment / teacher.model).glob("seed-*/recipe.json")) and "/" not in teacher.model


def _inside(experiment: Path, trained: _Trained, heard: bool = False) -> list[_Trained]:
    """Return the teachers and scorers of the same experiment, and theirs; or only those who reach it by teaching."""
    found: dict[str, _Trained] = {}
    waiting = [trained]
    while waiting:
        for other in _references(waiting.pop(), heard):
            if _is_inside(experiment, other) and other.model not in found:
                found[other.model] = _trained(experiment, other.model)
                waiting.append(found[other.model])
    return list(found.values())


def _outside(experiment: Path, trained: _Trained, heard: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (who learned by it, its name) for models from outside, those of models inside included; as `_inside`."""
    for one in (trained, *_inside(experiment, trained, heard)):
        for name in dict.fromkeys(t.model for t in _references(one, heard) if not _is_inside(experiment, t)):
            yield one.name, name


# --- what is handed in


def _checkpoints(trained: _Trained, manifest: Json, rules: TrackRules) -> Finding:
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
    source = PIPELINE[rules.year]
    complete = [seed for seed, names in missing.items() if not names]
    if not reached:
        said = f"training ended before the first one, {revision(rules.schedule[0])}"
        return Finding(trained.name, "checkpoints", "kept", said, source)
    if complete:
        which = "" if len(complete) == len(missing) else f" (of seed {', '.join(map(str, complete))})"
        return Finding(trained.name, "checkpoints", "kept", f"all {reached} that were reached are there{which}", source)
    fewest = min(missing.values(), key=len)
    said = f"{len(fewest)} of {reached} are not there: {', '.join(fewest)}; train with models.*.checkpoints"
    return Finding(trained.name, "checkpoints", "broken", said, source)


def _words_kept(run: RunFolder, per_token: float) -> list[float]:
    """Return the words seen at each kept checkpoint."""
    states: list[Any] = []
    for step in checkpoint.steps_in(run.checkpoints):
        path = checkpoint.folder_of(run.checkpoints, step) / "state.json"
        if path.is_file():
            states.append(read_json(path))
    return [state["tokens"] * per_token for state in states]


def _form(trained: _Trained, rules: TrackRules) -> Finding:
    folders = [RunFolder(trained.folder / f"seed-{seed}").hf for seed in trained.runs]
    lacking = [str(folder) for folder in folders if not (folder / "config.json").is_file()]
    said = "loads with transformers and gives (pseudo-)log-likelihoods"
    if lacking:
        return Finding(trained.name, "form", "broken", f"no model in {', '.join(lacking)}", CALL[rules.year])
    return Finding(trained.name, "form", "kept", said, CALL[rules.year])
