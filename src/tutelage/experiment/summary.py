"""Gather what an experiment's run folders hold into one summary, for the report."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import __version__
from tutelage.base.errors import UserError
from tutelage.base.files import write_json
from tutelage.base.machine import environment
from tutelage.base.run_folder import differences
from tutelage.base.types import Json
from tutelage.compare.comparisons import compare, pairs_to_compare, student_and_control, with_comparisons
from tutelage.compare.metrics import HELD_OUT
from tutelage.compare.summary import Summary, read_models, read_summary
from tutelage.evaluation.named import save_arrays
from tutelage.experiment import selections
from tutelage.experiment.identity import UNCHANGING, TrainingRun
from tutelage.experiment.score import Scoring, Subject
from tutelage.experiment.word_checkpoints import words_at_best
from tutelage.recipe import Compare, Recipe, Teacher, ensemble_members

MACHINE = ("cpu", "cores", "memory_gib", "gpu")


def summarise(scoring: Scoring) -> Summary:
    """Build the summary of a finished experiment, comparisons included, and write it beside the runs.

    Raises:
        UserError: something is not trained or not scored yet.
    """
    experiment = scoring.experiment
    what, data = experiment.recipe, experiment.data
    splits = {"train": data.train, "val": data.val, "test": data.test}
    names = what.compare.models or tuple(what.models)
    # Teachers that are not compared still cost something.
    beside = [name for name in dict.fromkeys(run.model for run in experiment.order) if name not in names]
    models = {name: _model(scoring, name) for name in names}
    models |= {name: _model(scoring, name) for name in beside if name in _needed(what)}
    models |= {one.name: _outside(scoring, one) for one in scoring.subjects() if one.name not in models}
    for _, control in student_and_control(read_models(models)):
        # A baseline that its students are like says nowhere that it is their control.
        if models[control]["role"] in ("model", "teacher"):
            models[control]["role"] = "control"
    summary = summary_head(what.name) | {
        "resolved_recipe": what.model_dump(mode="json"),
        "data": {
            "corpus": what.data.corpus,
            "unit": data.unit,
            "words": {split: store.words for split, store in splits.items()},
            "tokens": {split: len(store) for split, store in splits.items()},
            "vocab_size": len(data.tokenizer),
            "bytes_per_token": {split: store.bytes / len(store) for split, store in splits.items() if len(store)},
        },
        "models": models,
        "differences": _settings_that_differ(what, names),
    }
    finished = _compared(read_summary(_without_local_paths(summary)), what.compare)
    write_json(experiment.folder / "summary.json", finished.as_json())
    return finished


def summary_head(name: str) -> Json:
    """Return what every summary begins with: when, by which versions and on which machine it was made."""
    machine = environment()
    return {
        "schema": 1,
        "recipe": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "tutelage": __version__,
        "versions": {key: machine[key] for key in ("python", "torch", "transformers")},
        "machine": {key: machine[key] for key in MACHINE},
    }


def _without_local_paths(value: Any, key: str = "") -> Any:
    """Shorten absolute paths to their last part: a report tells which corpus it was, not where it lay."""
    if isinstance(value, dict):
        return {_without_local_paths(name): _without_local_paths(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_local_paths(item, key) for item in value]
    # The margins' file is for this machine alone; publishing drops it.
    if isinstance(value, str) and value.startswith(("/", "~")) and key != "suite_items":
        return Path(value).name
    return value


def _compared(summary: Summary, asked: Compare) -> Summary:
    """Add the differences between models: the pairs the recipe names, then those that go without saying."""
    pairs = dict.fromkeys([*asked.pairs, *pairs_to_compare(summary)])
    comparisons = [entry for a, b in pairs for entry in compare(summary, a, b, every=asked.values == "all")]
    return read_summary(with_comparisons(summary.as_json() | {"comparisons": comparisons}))


def _settings_that_differ(what: Recipe, names: tuple[str, ...]) -> list[Json]:
    """Set the settings of each model beside those of the one it is like."""
    compared = [name for name in names if name in what.models]
    settings = {name: what.models[name].model_dump(mode="json", exclude={"like", "without"}) for name in compared}
    pairs = [(str(what.models[name].like), name) for name in compared if what.models[name].like in names]
    return [{"a": a, "b": b, "keys": list(map(list, differences(settings[a], settings[b])))} for a, b in pairs]


def _needed(what: Recipe) -> set[str]:
    """Return the models that teach others or score rows for them."""
    return {needed.model for model in what.models.values() for stage in model.stages for needed in stage.needs}


def _outside(scoring: Scoring, subject: Subject) -> Json:
    """Describe a teacher that was trained elsewhere, whose cost nobody counted."""
    size = scoring.experiment.plans.cost_of(subject.name, scoring.reads(subject)).parameters
    seeds = {str(subject.seed): _scores(scoring, subject)}
    return {"role": "teacher", "outside": True, "parameters": size, "seeds": seeds}


def _model(scoring: Scoring, name: str) -> Json:
    experiment = scoring.experiment
    if members := ensemble_members(name):
        subject = next(scoring.subjects(name))
        size = sum(experiment.plans.cost_of(member.model, "causal").parameters for member in subject.members)
        seeds = {str(subject.seed): _scores(scoring, subject)}
        return {"role": "ensemble", "parameters": size, "members": members, "seeds": seeds}
    model = experiment.recipe.models[name]
    runs = [experiment.run(Teacher(model=name, seed=seed)) for seed in model.seed_list]
    seeds = {str(run.seed): _training(run) for run in runs}
    for subject in scoring.subjects():
        if subject.name == name:
            seeds[str(subject.seed)] |= _scores(scoring, subject)
    finished = runs[0].finished()
    return {
        "role": _role(experiment.recipe, name),
        "preset": model.preset,
        "architecture": finished.architecture,
        "parameters": finished.cost.parameters,
        "non_embedding_parameters": finished.cost.parameters - finished.cost.embedding_parameters,
        "like": model.like,
        "same_settings": _same_settings(experiment.recipe, name),
        "flops_of": model.flops_of.model if model.flops_of else None,
        "flops_counted": model.flops_of.teachers if model.flops_of else None,
        "teachers": [str(teacher) for stage in model.stages for teacher in stage.teachers],
        "scorers": [str(scorer) for stage in model.stages if stage.select for scorer in stage.select.scorers],
        "selections": selections.facts_of(runs[0]),
        "objectives": [stage.objectives.model_dump(mode="json", exclude_none=True) for stage in model.stages],
        "seeds": seeds,
    }


def _same_settings(what: Recipe, name: str) -> list[str]:
    """Name the models whose settings are the same but for what they learn from."""
    settings = {
        one: model.model_dump(mode="json", exclude=UNCHANGING | {"stages": True, "evaluations": True, "heads": True})
        for one, model in what.models.items()
    }
    return [one for one in settings if one != name and settings[one] == settings[name]]


def _role(what: Recipe, name: str) -> str:
    model = what.models[name]
    if any(stage.teachers or stage.objectives.tasks for stage in model.stages):
        return "student"
    gone = (model.without,) if isinstance(model.without, str) else model.without
    if "teachers" in gone or "tasks" in gone:
        return "control"
    return "teacher" if name in _needed(what) else "model"


def _training(run: TrainingRun) -> Json:
    """Collect what a run came to."""
    kept = ("steps", "tokens", "words", "epochs", "seconds", "seconds_teaching", "seconds_scoring", "flops",
            "teacher_flops", "scoring_flops", "clip_rate", "best_step", "val", "gate_report")  # fmt: skip
    done, trained_on = asdict(run.finished()), run.folder.environment()
    lines, readings = run.records()
    curves, machine = _curves(lines) | _spent(run, lines, readings), {key: trained_on[key] for key in MACHINE}
    return {key: done[key] for key in kept} | {"curves": curves, "machine": machine}


def _curves(lines: list[Json]) -> Json:
    logged = {"train_loss": "loss", "train_kl": "kl", "lr": "lr", "teacher_weight": "weight",
              "gate_weight": "gate_weight", "temperature": "temperature"}  # fmt: skip
    curves: dict[str, list[tuple[int, int, float]]] = {name: [] for name in (*logged, "val_loss")}
    for line in lines:
        at = (line["step"], line["tokens"])
        if "val" in line:
            curves["val_loss"].append((*at, line["val"]["loss"]))
            continue
        for name, key in logged.items():
            if key in line:
                curves[name].append((*at, line[key]))
    return {name: points for name, points in curves.items() if points}


def _spent(run: TrainingRun, lines: list[Json], readings: list[Json]) -> Json:
    """Return what training had taken, from its beginning on and at every evaluation: operations and seconds."""
    done = run.finished()
    # A step that was taken again after an interruption counts with the later reading, which has both.
    clock = {0: 0.0} | {line["step"]: line["seconds"] for line in readings}
    clock.setdefault(done.steps, done.seconds - done.seconds_ahead)
    evaluations = [(0, 0), *((line["step"], line["tokens"]) for line in lines if "val" in line)]
    steps = [step for step, _ in evaluations]
    seconds = done.seconds_ahead + np.interp(steps, sorted(clock), [clock[step] for step in sorted(clock)])
    return {
        "flops": [(*at, run.plan.flops(until=at[0])) for at in evaluations],
        "seconds": [(*at, float(value)) for at, value in zip(evaluations, seconds, strict=True)],
    }


def _scores(scoring: Scoring, subject: Subject) -> Json:
    """Collect a subject's scores; margins of items go to one file that the summary names."""
    found: Json = {"suites": {}, "measures": {}, "along": _along(scoring, subject)}
    for member in subject.members:
        if member.model in scoring.experiment.recipe.models:
            scoring.experiment.run(member).finished()
    for name in scoring.names(subject):
        score = _score(scoring, subject, name)
        place = found if name in HELD_OUT else found["measures" if "values" in score else "suites"]
        place[name] = score
    if margins := scoring.margins(subject):
        path = scoring.folder(subject) / "margins.npz"
        save_arrays(path, margins)
        found["suite_items"] = str(path.absolute())
    return found


def _along(scoring: Scoring, subject: Subject) -> Json:
    """Collect by evaluation a model's headline at each of its checkpoints, and that of the finished model."""
    if not (states := scoring.along(subject)):
        return {}
    words = words_at_best(scoring.experiment.run(subject.members[0]))
    found = {}
    for name in scoring.settings.along:
        finished, kind = _headline(_score(scoring, subject, name))
        points = [(seen, _headline(_score(scoring, state, name))[0]) for seen, state in states.items()]
        found[name] = kind | {"points": points, "finished": (words, finished)}
    return found


def _headline(score: Json) -> tuple[float | None, Json]:
    """Return a score's one number that matters, and what kind of number it is."""
    year = {"convention": score["convention"]}
    if "values" not in score:
        return score["accuracy"], year | {"measure": "accuracy", "unit": "accuracy", "chance": score["chance"]}
    value = score["values"][score["headline"]]
    return value["value"], year | {"measure": score["headline"], "unit": value["unit"], "better": value["better"]}


def _score(scoring: Scoring, subject: Subject, name: str) -> Json:
    if (score := scoring.read(subject, name)) is None:
        raise UserError(f"{subject} has no score for '{name}' yet; `tutelage evaluate` measures it")
    return score
