"""Gather what an experiment's run folders hold into one summary, for the report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import __version__
from tutelage.base.errors import UserError
from tutelage.base.files import read_json, write_json
from tutelage.base.machine import environment
from tutelage.base.run_folder import RunFolder, differences
from tutelage.base.types import Json
from tutelage.compare.comparisons import compare, pairs_to_compare, student_and_control, with_comparisons
from tutelage.compare.summary import Summary, read_models, read_summary
from tutelage.evaluation.named import save_arrays
from tutelage.experiment import selections
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.score import HELD_OUT, Scoring, Subject
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import words_at_best
from tutelage.recipe import Compare, Teacher, ensemble_members

MACHINE = ("cpu", "cores", "memory_gib", "gpu")


def summarise(scoring: Scoring) -> Summary:
    """Build the summary of a finished experiment, comparisons included, and write it beside the runs.

    Raises:
        UserError: something is not trained or not scored yet.
    """
    experiment = scoring.experiment
    what, data = experiment.recipe, experiment.data
    splits = {"train": data.train, "val": data.val, "test": data.test}
    machine = environment()
    names = what.compare.models or tuple(what.models)
    # Teachers that are not compared still cost something.
    silent = [name for name in dict.fromkeys(reference.model for reference in experiment.order) if name not in names]
    summary: Json = {
        "schema": 1,
        "recipe": what.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "tutelage": __version__,
        "versions": {key: machine[key] for key in ("python", "torch", "transformers")},
        "machine": {key: machine[key] for key in MACHINE},
        "resolved_recipe": what.model_dump(mode="json"),
        "data": {
            "corpus": what.data.corpus,
            "words": {split: store.words for split, store in splits.items()},
            "tokens": {split: len(store) for split, store in splits.items()},
            "vocab_size": len(data.tokenizer),
            "bytes_per_token": {split: store.bytes / len(store) for split, store in splits.items() if len(store)},
        },
        "models": {name: _model(scoring, name) for name in names}
        | {name: _model(scoring, name, scored=False) for name in silent if _teaches(experiment, name)},
        "differences": [
            {"a": a, "b": b, "keys": [list(item) for item in _settings_that_differ(experiment, a, b)]}
            for a, b in _pairs(experiment, names)
        ],
    }
    for _, control in student_and_control(read_models(summary["models"])):
        # A baseline that its students are like says nowhere that it is their control.
        if summary["models"][control]["role"] == "model":
            summary["models"][control]["role"] = "control"
    finished = _compared(read_summary(_without_local_paths(summary)), what.compare)
    write_json(experiment.folder / "summary.json", finished.as_json())
    return finished


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


def _compared(summary: Summary, wished: Compare) -> Summary:
    """Add the differences between models: the pairs the recipe names, then those that go without saying."""
    pairs = list(dict.fromkeys([*wished.pairs, *pairs_to_compare(summary)]))
    every = wished.values == "all"
    comparisons = [entry for a, b in pairs for entry in compare(summary, a, b, every=every)]
    return read_summary(with_comparisons(summary.as_json() | {"comparisons": comparisons}))


def _pairs(experiment: Experiment, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs whose settings are set side by side: each model with the one it is like."""
    models = experiment.recipe.models
    return [(str(models[name].like), name) for name in names if name in models and models[name].like in names]


def _settings_that_differ(experiment: Experiment, a: str, b: str) -> list[tuple[str, Any, Any]]:
    one, other = (
        experiment.recipe.models[name].model_dump(mode="json", exclude={"like", "without"}) for name in (a, b)
    )
    return differences(one, other)


def _teaches(experiment: Experiment, name: str) -> bool:
    models = experiment.recipe.models.values()
    return any(teacher.model == name for model in models for stage in model.stages for teacher in stage.needs)


def _model(scoring: Scoring, name: str, scored: bool = True) -> Json:
    experiment = scoring.experiment
    members = ensemble_members(name)
    if members:
        subjects = list(scoring.subjects(name))
        cost = [experiment.plans.cost_of(member.model, "causal").parameters for member in subjects[0].members]
        seeds = {str(subject.seed): _scores(scoring, subject) for subject in subjects}
        return {"role": "ensemble", "parameters": sum(cost), "members": members, "seeds": seeds}
    model = experiment.recipe.models[name]
    runs = [experiment.run(Teacher(model=name, seed=seed)) for seed in model.seed_list]
    seeds = {str(run.seed): _training(run) for run in runs}
    if scored:
        for subject in scoring.subjects(name):
            seeds[str(subject.seed)] |= _scores(scoring, subject)
    finished = runs[0].finished()
    return {
        "role": _role(experiment, name),
        "preset": model.preset,
        "architecture": finished["architecture"],
        "parameters": finished["cost"]["parameters"],
        "non_embedding_parameters": finished["cost"]["parameters"] - finished["cost"]["embedding_parameters"],
        "like": model.like,
        "flops_of": model.flops_of.model if model.flops_of else None,
        "flops_counted": model.flops_of.teachers if model.flops_of else None,
        "teachers": [str(teacher) for stage in model.stages for teacher in stage.teachers],
        "scorers": [str(scorer) for stage in model.stages if stage.select for scorer in stage.select.scorers],
        "selections": selections.facts_of(runs[0]),
        "objectives": [stage.objectives.model_dump(mode="json", exclude_none=True) for stage in model.stages],
        "seeds": seeds,
    }


def _role(experiment: Experiment, name: str) -> str:
    models = experiment.recipe.models
    if any(stage.teachers or stage.objectives.tasks for stage in models[name].stages):
        return "student"
    gone = (models[name].without,) if isinstance(models[name].without, str) else models[name].without
    if "teachers" in gone or "tasks" in gone:
        return "control"
    taught = {teacher.model for model in models.values() for stage in model.stages for teacher in stage.needs}
    return "teacher" if name in taught else "model"


def _training(run: TrainingRun) -> Json:
    """Collect what a run came to."""
    done = run.finished()
    kept = ("steps", "tokens", "words", "epochs", "seconds", "seconds_teaching", "seconds_scoring", "flops",
            "teacher_flops", "scoring_flops", "clip_rate", "best_step", "val")  # fmt: skip
    found = {key: done.get(key) for key in kept} | {"gate_report": done.get("gate_report", [])}
    trained_on = read_json(run.folder.path / "environment.json")
    return found | {
        "curves": _curves(run.folder) | _spent(run),
        "machine": {key: trained_on[key] for key in MACHINE},
    }


def _curves(folder: RunFolder) -> Json:
    logged = {"train_loss": "loss", "train_kl": "kl", "lr": "lr", "teacher_weight": "weight",
              "gate_weight": "gate_weight", "temperature": "temperature"}  # fmt: skip
    curves: dict[str, list[tuple[int, int, float]]] = {name: [] for name in (*logged, "val_loss")}
    for line in folder.lines():
        at = (line["step"], line["tokens"])
        if "val" in line:
            curves["val_loss"].append((*at, line["val"]["loss"]))
            continue
        for name, key in logged.items():
            if key in line:
                curves[name].append((*at, line[key]))
    return {name: points for name, points in curves.items() if points}


def _spent(run: TrainingRun) -> Json:
    """Return what training had taken, from its beginning on and at every evaluation: operations and seconds."""
    done, folder = run.finished(), run.folder
    ahead = done.get("seconds_ahead", 0.0)
    # A step that was taken again after an interruption counts with the later reading, which has both.
    clock = {0: 0.0} | {
        line["step"]: line["seconds"] for line in map(json.loads, folder.timing.read_text().splitlines())
    }
    clock.setdefault(done["steps"], done["seconds"] - ahead)
    evaluations = [(0, 0), *((line["step"], line["tokens"]) for line in folder.lines() if "val" in line)]
    steps = [step for step, _ in evaluations]
    seconds = ahead + np.interp(steps, sorted(clock), [clock[step] for step in sorted(clock)])
    flops = [run.plan.flops(until=step) for step in steps]
    return {
        "flops": [(*at, value) for at, value in zip(evaluations, flops, strict=True)],
        "seconds": [(*at, float(value)) for at, value in zip(evaluations, seconds, strict=True)],
    }


def _scores(scoring: Scoring, subject: Subject) -> Json:
    """Collect a subject's scores; margins of items go to one file that the summary names."""
    found: Json = {"suites": {}, "measures": {}, "along": _along(scoring, subject)}
    for member in subject.members:
        scoring.experiment.run(member).finished()
    for name in scoring.evaluate:
        score = _score(scoring, subject, name)
        if name in HELD_OUT:
            found[name] = score
        else:
            found["measures" if "values" in score else "suites"][name] = score
    margins = scoring.margins(subject)
    if margins:
        path = scoring.folder(subject) / "margins.npz"
        save_arrays(path, margins)
        found["suite_items"] = str(path.absolute())
    return found


def _along(scoring: Scoring, subject: Subject) -> Json:
    """Collect by evaluation a model's headline at each of its checkpoints, and that of the finished model."""
    states = scoring.along(subject)
    if not states:
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
    score = scoring.read(subject, name)
    if score is None:
        raise UserError(f"{subject} has no score for '{name}' yet; `tutelage evaluate` measures it")
    return score
