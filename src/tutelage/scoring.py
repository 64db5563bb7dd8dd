"""Score finished models, and ensembles of them, on what the recipe names; each score is computed once.

Scores live in `<model>/seed-<n>/scores/`, those of ensembles under their own name beside the models. Every score notes
what it was measured on; another corpus, suite or convention measures anew. Held-out losses are measured here, all else
by `evaluations`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage import recipe
from tutelage.compare.metrics import UNITS
from tutelage.corpus.batches import BatchSource
from tutelage.errors import UserError
from tutelage.evaluation.buckets import row_losses
from tutelage.evaluations import Found, check_name, file_name, find, read_score, write_score
from tutelage.experiment import Experiment
from tutelage.files import fingerprint, read_json, write_json
from tutelage.measurements import Checkpoint, Context, Speakers
from tutelage.models.build import Kind
from tutelage.progress import console
from tutelage.run_folder import Json
from tutelage.teaching.teachers import Ensemble
from tutelage.training import checkpoint
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

    def check_names(self) -> None:
        """Refuse evaluations that do not exist, before anything is downloaded or prepared."""
        for name in self.recipe.evaluate:
            check_name(name, HELD_OUT)

    @cached_property
    def found(self) -> dict[str, Found]:
        """What the recipe evaluates beside held-out loss, its files read and checked; ask before training."""
        return {name: find(name, self.recipe.evaluation) for name in self.recipe.evaluate if name not in HELD_OUT}

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
        speakers = Speakers(
            lambda: [experiment.trained(member, reads) for member in subject.members], experiment.group.device
        )
        for name in missing:
            if name in HELD_OUT:
                score = self._held_out(subject, speakers.ensemble, name)
                write_json(self.folder(subject) / f"{name}.json", {"of": self._of(subject, name), "score": score})
            else:
                score = self._evaluate(subject, speakers, name)
            console.print(f"{subject}: {name} {in_words(score)}")

    def read(self, subject: Subject, name: str) -> Json | None:
        """Return a score measured before; None where there is none, or only one of something else."""
        return read_score(self.folder(subject), name, self._of(subject, name))

    def margins(self, subject: Subject) -> dict[str, Any]:
        """Return the items' margins of all suites, by `<suite>/<paradigm>`."""
        found: dict[str, Any] = {}
        for name in self.found:
            path = self.folder(subject) / f"{file_name(name)}.items.npz"
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
        of: Json = {"members": members, "convention": self.recipe.evaluation.convention} | self.found[name].inputs
        if "held_out" in self.found[name].needs:
            of["tokens"] = self._split("test").digest
        if "reference" in self.found[name].needs and (by := self._sorter) is not None:
            of["reference"] = [str(by), fingerprint(self.experiment.wish(self.experiment.piece_of(by)))]
        if "checkpoints" in self.found[name].needs:
            of["checkpoints"] = [state.name for state in self._checkpoints(subject)]
        return of

    def _split(self, name: str) -> Any:
        return getattr(self.experiment.data, name)

    def _precision(self, subject: Subject) -> Any:
        return self.experiment.precision_of(self.experiment.piece_of(subject.members[0]))

    def _held_out(self, subject: Subject, ensemble: Ensemble, name: str) -> Json:
        split = self._split(name)
        source = self._held_out_rows(subject, name)
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

    def _held_out_rows(self, subject: Subject, name: str) -> BatchSource:
        model = self.recipe.models[subject.members[0].model]
        return self.experiment.rows_of(self._split(name), model, 64, shuffle=False)

    @property
    def _sorter(self) -> recipe.Teacher | None:
        """The model whose loss sorts held-out text."""
        return self.recipe.evaluation.buckets.by if self.recipe.evaluation.buckets else None

    @cached_property
    def _reference_rows(self) -> NDArray[np.float64]:
        """What that model loses on each row of the test split."""
        assert self._sorter is not None
        subject, experiment = Subject(self._sorter.model, 0, (self._sorter,)), self.experiment
        ensemble = Ensemble([experiment.trained(self._sorter, self._reads(subject))]).to(experiment.group.device)
        rows = self._held_out_rows(subject, "test")
        return row_losses(
            ensemble, rows, experiment.group.device, self._precision(subject), f"buckets by {self._sorter}"
        )

    def _evaluate(self, subject: Subject, speakers: Speakers, name: str) -> Json:
        of = self._of(subject, name)
        parts = self.folder(subject) / "parts" / f"{file_name(name)}-{fingerprint(of)[:16]}"
        context = Context(
            name=name,
            label=str(subject),
            tokenizer=self.experiment.data.tokenizer,
            settings=self.recipe.evaluation,
            precision=self._precision(subject),
            speakers=speakers,
            checkpoints=self._checkpoints(subject),
            parts=parts,
            held_out=lambda: self._held_out_rows(subject, "test"),
            reference=lambda: self._reference_rows,
        )
        score = write_score(self.folder(subject), self.found[name].run(context), name, of)
        shutil.rmtree(parts, ignore_errors=True)
        return score

    def _checkpoints(self, subject: Subject) -> tuple[Checkpoint, ...]:
        """The states that a single model's training kept, oldest first."""
        if len(subject.members) > 1:
            return ()
        member, reads = subject.members[0], self._reads(subject)
        experiment, train = self.experiment, self.experiment.data.train

        def load(step: int) -> Ensemble:
            state = member.model_copy(update={"checkpoint": f"step-{step}"})
            return Ensemble([experiment.trained(state, reads)]).to(experiment.group.device)

        folder = experiment.run_of(experiment.piece_of(member)).checkpoints
        found = []
        for step in checkpoint.steps_in(folder):
            tokens = read_json(checkpoint.folder_of(folder, step) / "state.json")["tokens"]
            found.append(Checkpoint(round(tokens * train.words / len(train)), f"step-{step}", partial(load, step)))
        return tuple(found)


def in_words(score: Json) -> str:
    """Write a score's one number that matters, with its unit."""
    if "loss" in score:
        return f"loss {score['loss']:.4f}"
    if "values" not in score:
        return f"{100 * score['accuracy']:.2f} %"
    value = score["values"][score["headline"]]
    shown = UNITS[value["unit"]]
    if value["value"] is None:
        return f"{score['headline']}: {value['note']}"
    return f"{score['headline']} {value['value'] * shown.scale:.{shown.finer}f} {shown.sign}".strip()
