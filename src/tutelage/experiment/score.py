"""Score finished models, and ensembles of them, on what the recipe names; each score is computed once.

Scores live in `<model>/seed-<n>/scores/`, those of ensembles under their own name beside the models. Every score notes
what it was measured on; another corpus, suite or convention measures again. Held-out losses are measured here, all else
by `evaluation.named`. What the recipe wants along the training is measured of the finished model and of its checkpoints
by words seen, whose scores live in `words-3M/` and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.files import read_json, write_json
from tutelage.base.progress import console
from tutelage.base.run_folder import differences
from tutelage.base.types import Json
from tutelage.corpus.tokens import TokenStore
from tutelage.evaluation.benchmarks.measurement import Checkpoint, Context, EvaluatedModels, Need
from tutelage.evaluation.buckets import row_losses
from tutelage.evaluation.named import NamedEvaluation, check_name, file_name, find, needs_of, read_score
from tutelage.experiment.identity import Precision
from tutelage.experiment.loading import trained
from tutelage.experiment.measure import in_words, measured
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import WordCheckpoint, asked_for, word_checkpoints
from tutelage.models.heads import TaskHeads, load_heads
from tutelage.recipe import ModelKind, Recipe
from tutelage.teaching.teachers import Ensemble
from tutelage.training.heldout import held_out

HELD_OUT = ("val", "test")
BESIDE: dict[Need, str] = {
    "checkpoints": "all checkpoints at once",
    "held_out": "held-out text",
    "reference": "a model that sorts held-out text",
    "labels": "labelled text and a finished model's heads",
}
"""What some evaluations need beside a model, in words."""


@dataclass(frozen=True)
class Subject:
    """What is scored: a model with one seed, or an ensemble.

    Attributes:
        name: as the report shows it.
        seed: the model's seed; 0 for an ensemble.
        members: one model, finished or at a checkpoint, or an ensemble of several.
    """

    name: str
    seed: int
    members: tuple[recipe.Teacher, ...]

    @property
    def single(self) -> bool:
        """Whether this is a model of the recipe, and no ensemble, of however few."""
        return self.name == self.members[0].model

    def __str__(self) -> str:
        """Write the name, with the seed and checkpoint of a single model."""
        return str(self.members[0]) if self.single else self.name


def check_names(what: Recipe) -> None:
    """Refuse evaluations that do not exist, before anything is downloaded or prepared."""
    for name in what.evaluate:
        check_name(name, HELD_OUT)
    for name in what.evaluation.along:
        check_name(name, HELD_OUT)
        needs: frozenset[Need] = frozenset({"held_out"}) if name in HELD_OUT else needs_of(name)
        for need in needs:
            raise UserError(
                f"evaluation.along: '{name}' needs {BESIDE[need]}, and cannot be repeated at each "
                "checkpoint; name suites, such as blimp-fast"
            )


class Scoring:
    """The scores of an experiment.

    Args:
        experiment: whose models are scored.
        evaluate: what is measured of finished models, by name.
        settings: the rules, and what is measured along the training.
        evaluations: those of them that are no held-out loss, ready to run.
    """

    def __init__(
        self,
        experiment: Experiment,
        evaluate: Sequence[str],
        settings: recipe.Evaluation,
        evaluations: Mapping[str, NamedEvaluation],
    ) -> None:
        self.experiment = experiment
        self.evaluate = tuple(evaluate)
        self.settings = settings
        self.evaluations = evaluations

    @classmethod
    def of(cls, experiment: Experiment) -> Scoring:
        """Read and check the files of everything that a recipe evaluates; ask before training.

        Raises:
            UserError: missing or broken files, or evaluations along the training where no checkpoints are kept.
        """
        what, data = experiment.recipe, experiment.data
        names = dict.fromkeys((*what.evaluate, *what.evaluation.along))
        scoring = cls(experiment, what.evaluate, what.evaluation, {})
        if what.evaluation.along and not any(scoring.along(subject) for subject in scoring.subjects()):
            raise UserError(
                f"evaluation.along: {', '.join(what.evaluation.along)} cannot be scored at checkpoints by words seen, "
                "since no model that is compared keeps any: name some in models.*.checkpoints, within the length of "
                "the run"
            )
        if any("labels" in needs_of(name) for name in names) and data.test.labels is None:
            raise UserError(f"evaluate: tasks: the corpus '{what.data.corpus}' has no labels; leave `tasks` out")
        scoring.evaluations = {name: find(name, what.evaluation) for name in names if name not in HELD_OUT}
        return scoring

    def subjects(self, only: str | None = None) -> Iterator[Subject]:
        """Go through what is scored, in the order of the report."""
        what = self.experiment.recipe
        for name in what.compare.models or tuple(what.models):
            if only is not None and name != only:
                continue
            members = recipe.ensemble_members(name)
            if members:
                yield Subject(name, 0, tuple(recipe.Teacher.model_validate(member) for member in members))
                continue
            for seed in what.models[name].seed_list:
                yield Subject(name, seed, (recipe.Teacher(model=name, seed=seed),))

    def along(self, subject: Subject) -> dict[int, Subject]:
        """Return by words seen what is scored along a model's training: the model as it was at its checkpoints.

        Nothing of ensembles, and where nothing is measured along the training.
        """
        kept = self._checkpoints(subject) if self.settings.along else []
        return {one.words_seen: Subject(subject.name, subject.seed, (one.reference,)) for one in kept}

    def folder(self, subject: Subject) -> Path:
        """Return where a subject's scores live."""
        if subject.single:
            [member] = subject.members
            return self.experiment.run(member).folder.scores_at(member.checkpoint)
        plain = "+".join(str(member) for member in subject.members).replace("/", "_")
        return self.experiment.folder / "ensembles" / plain / "scores"

    def score(self, subject: Subject) -> None:
        """Measure whatever is not measured yet: of the finished model, then of its checkpoints from the oldest on."""
        states, along = self.along(subject).values(), self.settings.along
        waiting = [state for state in states if any(self.read(state, name) is None for name in along)]
        if waiting:
            # Checkpoints that are not there are told of now, not after the finished model's evaluations.
            word_checkpoints(self.experiment, self.experiment.run(subject.members[0]))
        self._measure(subject, dict.fromkeys((*self.evaluate, *(along if states else ()))))
        for state in waiting:
            self._measure(state, along)

    def _measure(self, subject: Subject, names: Iterable[str]) -> None:
        missing = [name for name in names if self.read(subject, name) is None]
        if not missing:
            return
        experiment, reads = self.experiment, self._reads(subject)
        speakers = EvaluatedModels(
            lambda: [trained(experiment, member, reads) for member in subject.members], experiment.group.device
        )
        for name in missing:
            if name in HELD_OUT:
                score = self._held_out(subject, speakers.ensemble, name)
                kept = {"of": self._of(subject, name), "precision": self._precision(subject), "score": score}
                write_json(self.folder(subject) / f"{name}.json", kept)
            else:
                score = measured(
                    self.evaluations[name],
                    self.folder(subject),
                    self._of(subject, name),
                    partial(self._context, subject, speakers, name),
                )
            console.print(f"{subject}: {name} {in_words(score)}")

    def read(self, subject: Subject, name: str) -> Json | None:
        """Return a score measured before; None where there is none, or only one of something else."""
        return read_score(self.folder(subject), name, self._of(subject, name))

    def changes(self, subject: Subject, name: str) -> list[tuple[str, Any, Any]] | None:
        """Tell in what the score there depends on other things: key, there, here; None if there is no score."""
        path = self.folder(subject) / f"{file_name(name)}.json"
        return differences(read_json(path)["of"], self._of(subject, name)) if path.is_file() else None

    def margins(self, subject: Subject) -> dict[str, Any]:
        """Return the items' margins of all suites, by `<suite>/<paradigm>`."""
        found: dict[str, Any] = {}
        for name in (name for name in self.evaluate if name not in HELD_OUT):
            path = self.folder(subject) / f"{file_name(name)}.items.npz"
            if path.is_file() and self.read(subject, name) is not None:
                with np.load(path, allow_pickle=False) as arrays:
                    found |= {key: arrays[key] for key in arrays.files}
        return found

    def _reads(self, subject: Subject) -> ModelKind:
        kinds = {self._model(member).reads for member in subject.members}
        if len(kinds) > 1:
            raise UserError(f"{subject.name} mixes causal and masked models; an ensemble needs one kind")
        return kinds.pop()

    def _model(self, member: recipe.Teacher) -> recipe.Model:
        return self.experiment.recipe.models[member.model]

    def _of(self, subject: Subject, name: str) -> Json:
        """Say what a score depends on."""
        runs, data = self.experiment.run, self.experiment.data
        members = {str(member): runs(member).digest for member in subject.members}
        if name in HELD_OUT:
            return {"members": members, "tokens": self._split(name).digest}
        found = self.evaluations[name]
        of: Json = {"members": members, "convention": self.settings.convention} | found.inputs
        if "held_out" in found.needs:
            of["tokens"] = data.test.digest
        if "labels" in found.needs and data.test.labels is not None:
            of["labels"] = data.test.labels.digest
        if "reference" in found.needs and (by := self._sorter) is not None:
            of["reference"] = [str(by), runs(by).digest]
        if "checkpoints" in found.needs:
            of["checkpoints"] = [one.name for one in self._checkpoints(subject)]
        return of

    def _split(self, split: str) -> TokenStore:
        return self.experiment.data.val if split == "val" else self.experiment.data.test

    def _precision(self, subject: Subject) -> Precision:
        return self.experiment.run(subject.members[0]).precision

    def _held_out(self, subject: Subject, ensemble: Ensemble, split: str) -> Json:
        store, precision = self._split(split), self._precision(subject)
        result = held_out(
            lambda tokens, lengths: ensemble.dense_signal(tokens, lengths, precision),
            self.experiment.rows.held_out(split, self._model(subject.members[0])),
            store.bytes / len(store),
            self.experiment.group.device,
            label=f"{split} {subject}",
        )
        assert result is not None
        return asdict(result)

    @property
    def _sorter(self) -> recipe.Teacher | None:
        """The model whose loss sorts held-out text."""
        return self.settings.buckets.by if self.settings.buckets else None

    @cached_property
    def _reference_rows(self) -> NDArray[np.float64]:
        """What that model loses on each row of the test split."""
        assert self._sorter is not None
        by, experiment, model = self._sorter, self.experiment, self._model(self._sorter)
        ensemble = Ensemble([trained(experiment, by, model.reads)]).to(experiment.group.device)
        rows = experiment.rows.held_out("test", model)
        return row_losses(ensemble, rows, experiment.group.device, experiment.run(by).precision, f"buckets by {by}")

    def _context(self, subject: Subject, speakers: EvaluatedModels, name: str, parts: Path) -> Context:
        experiment, model = self.experiment, self._model(subject.members[0])
        return Context(
            name=name,
            label=str(subject),
            tokenizer=experiment.data.tokenizer,
            settings=self.settings,
            precision=self._precision(subject),
            models=speakers,
            checkpoints=[
                Checkpoint(one.name, one.words_seen, partial(self._as_ensemble, one))
                for one in self._checkpoints(subject)
            ],
            parts=parts,
            held_out=lambda: experiment.rows.held_out("test", model),
            reference=lambda: self._reference_rows,
            labelled=lambda: experiment.rows.labelled(model),
            heads=lambda: self._heads(subject),
        )

    def _heads(self, subject: Subject) -> TaskHeads | None:
        """Load the heads of a finished model; an ensemble has none."""
        [member, *others] = subject.members
        return None if others else load_heads(self.experiment.run(member).folder.hf)

    def _checkpoints(self, subject: Subject) -> list[WordCheckpoint]:
        """The checkpoints by words seen that the recipe asks of a single model, oldest first; none of an ensemble."""
        return asked_for(self.experiment, self.experiment.run(subject.members[0])) if subject.single else []

    def _as_ensemble(self, one: WordCheckpoint) -> Ensemble:
        return Ensemble([one.load()]).to(self.experiment.group.device)
