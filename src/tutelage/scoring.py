"""Score finished models, and ensembles of them, on what the recipe names; each score is computed once.

Scores live in `<model>/seed-<n>/scores/`, those of ensembles under their own name beside the models. Every score notes
what it was measured on; another corpus, suite or convention measures anew.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import recipe
from tutelage.errors import UserError
from tutelage.evaluation.conventions import CONVENTIONS
from tutelage.evaluation.suites import Suite, evaluate_suite, find_suite
from tutelage.experiment import Experiment
from tutelage.files import fingerprint, read_json, write_bytes, write_json
from tutelage.models.build import Kind
from tutelage.progress import console
from tutelage.run_folder import Json
from tutelage.teaching.teachers import Ensemble
from tutelage.training.heldout import held_out

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Subject:
    """What is scored: a model with one seed, or an ensemble.

    Attributes:
        name: as the report shows it.
        seed: the model's seed; 0 for an ensemble.
        members: one model, or several that speak as one.
    """

    name: str
    seed: int
    members: tuple[recipe.Teacher, ...]

    def __str__(self) -> str:
        """Write the name, with the seed of a single model."""
        return f"{self.name}[{self.seed}]" if len(self.members) == 1 else self.name


class Scoring:
    """The scores of an experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.recipe = experiment.recipe

    @cached_property
    def suites(self) -> dict[str, Suite]:
        """The suites the recipe names, read and checked; ask early, so that a missing one is known before training."""
        return {name: find_suite(name) for name in self.recipe.evaluate if name not in HELD_OUT}

    def subjects(self, only: str | None = None) -> Iterator[Subject]:
        """Go through what is scored, in the order of the report."""
        for name in self.recipe.compare.models or tuple(self.recipe.models):
            if only is not None and name != only:
                continue
            members = recipe.ensemble_members(name)
            if members:
                yield Subject(name, 0, tuple(recipe.Teacher.model_validate(member) for member in members))
                continue
            for seed in self.recipe.models[name].seed_list:
                yield Subject(name, seed, (recipe.Teacher(model=name, seed=seed),))

    def folder(self, subject: Subject) -> Path:
        """Return where a subject's scores live."""
        if len(subject.members) == 1:
            return self.experiment.folder / subject.name / f"seed-{subject.seed}" / "scores"
        plain = "+".join(str(member) for member in subject.members).replace("/", "_")
        return self.experiment.folder / "ensembles" / plain / "scores"

    def score(self, subject: Subject) -> None:
        """Measure whatever is not measured yet."""
        missing = [name for name in self.recipe.evaluate if self.read(subject, name) is None]
        if not missing:
            return
        reads = self._reads(subject)
        experiment = self.experiment
        ensemble = Ensemble([experiment.trained(member, reads) for member in subject.members]).to(
            experiment.group.device
        )
        for name in missing:
            if name in HELD_OUT:
                score = self._held_out(subject, ensemble, name)
                console.print(f"{subject}: {name} loss {score['loss']:.4f}")
            else:
                score = self._suite(subject, ensemble, name)
                console.print(f"{subject}: {name} {100 * score['accuracy']:.2f} %")
            write_json(self.folder(subject) / f"{_file(name)}.json", {"of": self._of(subject, name), "score": score})

    def read(self, subject: Subject, name: str) -> Json | None:
        """Return a score measured before; None where there is none, or only one of something else."""
        path = self.folder(subject) / f"{_file(name)}.json"
        if not path.is_file():
            return None
        found = read_json(path)
        return found["score"] if found.get("of") == self._of(subject, name) else None

    def margins(self, subject: Subject) -> dict[str, Any]:
        """Return the items' margins of all suites, by `<suite>/<paradigm>`."""
        found: dict[str, Any] = {}
        for name in self.suites:
            path = self.folder(subject) / f"{_file(name)}.items.npz"
            if path.is_file() and self.read(subject, name) is not None:
                with np.load(path, allow_pickle=False) as arrays:
                    found |= {key: arrays[key] for key in arrays.files}
        return found

    def _reads(self, subject: Subject) -> Kind:
        kinds = {self.recipe.models[member.model].reads for member in subject.members}
        if len(kinds) > 1:
            raise UserError(f"{subject.name} mixes causal and masked models; an ensemble needs one kind")
        return kinds.pop()

    def _of(self, subject: Subject, name: str) -> Json:
        """Say what a score depends on."""
        members = {
            str(member): fingerprint(self.experiment.wish(self.experiment.piece_of(member)))
            for member in subject.members
        }
        if name in HELD_OUT:
            return {"members": members, "tokens": self._split(name).digest}
        items = fingerprint([[p.uid, [repr(q) for q in p.questions]] for p in self.suites[name].paradigms])
        return {"members": members, "convention": self.recipe.evaluation.convention, "items": items}

    def _split(self, name: str) -> Any:
        return getattr(self.experiment.data, name)

    def _precision(self, subject: Subject) -> Any:
        return self.experiment.precision_of(self.experiment.piece_of(subject.members[0]))

    def _held_out(self, subject: Subject, ensemble: Ensemble, name: str) -> Json:
        split = self._split(name)
        source = self.experiment.rows_of(split, self.recipe.models[subject.members[0].model], 64, shuffle=False)
        precision = self._precision(subject)
        result = held_out(
            lambda tokens, lengths: ensemble.signal(tokens, lengths, precision),
            source,
            split.bytes / len(split),
            self.experiment.group.device,
            label=f"{name} {subject}",
        )
        assert result is not None
        return asdict(result)

    def _suite(self, subject: Subject, ensemble: Ensemble, name: str) -> Json:
        settings = self.recipe.evaluation
        result = evaluate_suite(
            ensemble,
            self.experiment.data.tokenizer,
            self.suites[name],
            CONVENTIONS[settings.convention],
            settings.batch_tokens,
            self._precision(subject),
        )
        path = self.folder(subject) / f"{_file(name)}.items.npz"
        arrays: dict[str, Any] = {key: value.astype(np.float32) for key, value in result.margins().items()}
        save_arrays(path, arrays)
        return result.to_json()


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays to an `.npz` file, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def _file(name: str) -> str:
    """Make a file name of a suite's name, which may hold a path."""
    return name if ":" not in name else f"pairs-{Path(name).name}-{fingerprint(name)[:8]}"
