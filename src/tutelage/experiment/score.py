"""Score finished models, and ensembles of them, on what the recipe names; each score is computed once.

Scores live in `<model>/seed-<n>/scores/`, those of ensembles under their own name beside the models, those of
checkpoints by words seen in `words-3M/` and so on. Every score notes what it was measured on; another corpus, suite or
convention measures again. Held-out losses are measured here, all else by `evaluation.named`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tutelage import recipe
from tutelage.base.checksums import read_checked, write_checked
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint
from tutelage.base.progress import console
from tutelage.base.run_folder import differences
from tutelage.base.types import Floats, Json, Precision
from tutelage.compare.metrics import HELD_OUT
from tutelage.corpus.tokens import TokenStore
from tutelage.evaluation.benchmarks.measurement import Checkpoint, Context, EvaluatedModels, Need
from tutelage.evaluation.buckets import row_losses
from tutelage.evaluation.named import NamedEvaluation, file_name, find, load_arrays, needs_of, read_score
from tutelage.experiment.exported import sound
from tutelage.experiment.loading import scoring_precision, trained, weights_digest
from tutelage.experiment.measure import in_words, measured
from tutelage.experiment.runs import seed_of
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import WordCheckpoint, asked_for, word_checkpoints
from tutelage.models.heads import load_heads
from tutelage.recipe import ModelKind, Recipe
from tutelage.teaching.teachers import Ensemble
from tutelage.training.heldout import held_out

BESIDE: dict[Need, str] = {
    "checkpoints": "all checkpoints at once",
    "held_out": "held-out text",
    "reference": "a model that sorts held-out text",
    "labels": "labelled text and a finished model's heads",
}
"""What some evaluations need beside a model, in words."""


@dataclass(frozen=True)
class Subject:
    """What is scored, named as the report has it: a model with one seed, finished or at a checkpoint, or an ensemble.

    The seed of an ensemble is 0.
    """

    name: str
    seed: int
    members: tuple[recipe.Teacher, ...]

    @property
    def single(self) -> bool:
        """Whether this is a model of the recipe, and no ensemble, of however few."""
        return self.name == self.members[0].model

    def __str__(self) -> str:
        return str(self.members[0]) if self.single else self.name


def check_along(what: Recipe) -> None:
    """Refuse evaluations along the training that need more than a model, before anything is downloaded or prepared."""
    for name in what.evaluation.along:
        needs: frozenset[Need] = frozenset({"held_out"}) if name in HELD_OUT else needs_of(name)
        for need in needs:
            raise UserError(
                f"evaluation.along: '{name}' needs {BESIDE[need]}, and cannot be repeated at each checkpoint; name "
                "suites, such as blimp-fast"
            )


class Scoring:
    """The scores of an experiment: what `evaluate` names of finished models, what the settings name along the training.

    `evaluations` are all of these that are no held-out loss, ready to run.
    """

    def __init__(
        self,
        experiment: Experiment,
        evaluate: Sequence[str],
        settings: recipe.Evaluation,
        evaluations: Mapping[str, NamedEvaluation],
    ) -> None:
        self.experiment, self.evaluate = experiment, tuple(evaluate)
        self.settings, self.evaluations = settings, evaluations

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
                f"evaluation.along: {', '.join(what.evaluation.along)} cannot be scored at checkpoints by words seen: "
                "no model that is compared keeps any: name some in models.*.checkpoints, within the length of the run"
            )
        if any("labels" in needs_of(name) for name in names) and data.test.labels is None:
            raise UserError(f"evaluate: tasks: the corpus '{what.data.corpus}' has no labels; leave `tasks` out")
        scoring.evaluations = {name: find(name, what.evaluation) for name in names if name not in HELD_OUT}
        return scoring

    def subjects(self, only: str | None = None) -> Iterator[Subject]:
        """Go through what is scored: what is compared, in the order of the report, then the other teachers."""
        what = self.experiment.recipe
        for name in what.compare.models or tuple(what.models):
            if only is not None and name != only:
                continue
            if members := recipe.ensemble_members(name):
                yield Subject(name, 0, tuple(map(recipe.Teacher.model_validate, members)))
            else:
                for seed in what.models[name].seed_list:
                    yield Subject(name, seed, (recipe.Teacher(model=name, seed=seed),))
        if only is None:
            yield from self._other_teachers

    @cached_property
    def _other_teachers(self) -> list[Subject]:
        """Teachers that are not compared, from outside too: their loss on `test` tells what they can teach."""
        what = self.experiment.recipe
        if "test" not in self.evaluate:
            return []
        compared = what.compare.models or tuple(what.models)
        named = (teacher for model in what.models.values() for stage in model.stages for teacher in stage.teachers)
        found: dict[Subject, None] = {}
        for teacher in named:
            if teacher.model not in compared:
                seed = seed_of(what, teacher) if teacher.model in what.models else 0
                member = recipe.Teacher(model=teacher.model, seed=seed if teacher.model in what.models else None)
                found[Subject(teacher.model, seed, (member,))] = None
        return list(found)

    def names(self, subject: Subject) -> tuple[str, ...]:
        """Return what a finished subject is scored on: all that the recipe names, or `test` for a teacher beside."""
        return ("test",) if subject in self._other_teachers else self.evaluate

    def along(self, subject: Subject) -> dict[int, Subject]:
        """Return by words seen the model as it was at the checkpoints that are scored; an ensemble has none."""
        scored = self.settings.along and subject not in self._other_teachers
        kept = self._checkpoints(subject) if scored else []
        return {one.words_seen: Subject(subject.name, subject.seed, (one.reference,)) for one in kept}

    def folder(self, subject: Subject) -> Path:
        """Return where a subject's scores live."""
        if subject.single:
            [member] = subject.members
            if member.model not in self.experiment.recipe.models:
                return self.experiment.folder / "outside" / fingerprint(member.model)[:16] / "scores"
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
        self._measure(subject, dict.fromkeys((*self.names(subject), *(along if states else ()))))
        for state in waiting:
            self._measure(state, along)

    def _measure(self, subject: Subject, names: Iterable[str]) -> None:
        missing = [name for name in names if self.read(subject, name) is None]
        if not missing:
            return
        experiment, reads, folder = self.experiment, self.reads(subject), self.folder(subject)
        models = EvaluatedModels(
            lambda: [trained(experiment, member, reads) for member in subject.members], experiment.group.device
        )
        for name in missing:
            of = self._of(subject, name)
            if name in HELD_OUT:
                score = self._held_out(subject, models.ensemble, name)
                write_checked(
                    folder / f"{name}.json", {"of": of, "precision": self._precision(subject), "score": score}
                )
            else:
                context = partial(self._context, subject, models, name)
                score = measured(self.evaluations[name], folder, of, context)
            console.print(f"{subject}: {name} {in_words(score)}")

    def read(self, subject: Subject, name: str) -> Json | None:
        """Return a score measured before; None where there is none, or only one of something else."""
        return read_score(self.folder(subject), name, self._of(subject, name))

    def changes(self, subject: Subject, name: str) -> list[tuple[str, Any, Any]] | None:
        """Tell in what the score there depends on other things: key, there, here; None if there is no score."""
        path = self.folder(subject) / f"{file_name(name)}.json"
        return differences(read_checked(path)["of"], self._of(subject, name)) if path.is_file() else None

    def margins(self, subject: Subject) -> dict[str, Any]:
        """Return the items' margins of all suites, by `<suite>/<paradigm>`."""
        found: dict[str, Any] = {}
        for name in self.evaluate:
            path = self.folder(subject) / f"{file_name(name)}.items.npz"
            if name not in HELD_OUT and path.is_file() and self.read(subject, name) is not None:
                found |= load_arrays(path)
        return found

    def reads(self, subject: Subject) -> ModelKind:
        """Return whether a subject's models are causal or masked."""
        kinds = {self._model(member).reads for member in subject.members}
        if len(kinds) > 1:
            raise UserError(f"{subject.name} mixes causal and masked models; an ensemble needs one kind")
        return kinds.pop()

    def _model(self, member: recipe.Teacher) -> recipe.Model:
        """The settings of a member; of one from outside those of its first student, which reads as it does."""
        models = self.experiment.recipe.models
        if member.model in models:
            return models[member.model]
        taught = (
            one for one in models.values() for stage in one.stages for t in stage.teachers if t.model == member.model
        )
        return next(taught)

    def _of(self, subject: Subject, name: str) -> Json:
        """Say what a score depends on."""
        runs, test = self.experiment.run, self.experiment.data.test
        members = {str(member): self._digest(member) for member in subject.members}
        if name in HELD_OUT:
            return {"members": members, "tokens": self._split(name).digest}
        found = self.evaluations[name]
        of: Json = {"members": members, "convention": self.settings.convention} | found.inputs
        if "held_out" in found.needs:
            of["tokens"] = test.digest
        if "labels" in found.needs and test.labels is not None:
            of["labels"] = test.labels.digest
        if "reference" in found.needs and (by := self._sorter) is not None:
            of["reference"] = [str(by), runs(by).digest]
        if "checkpoints" in found.needs:
            of["checkpoints"] = [one.name for one in self._checkpoints(subject)]
        return of

    def _digest(self, member: recipe.Teacher) -> str:
        outside = member.model not in self.experiment.recipe.models
        return weights_digest(self.experiment, member) if outside else self.experiment.run(member).digest

    def _split(self, split: str) -> TokenStore:
        return self.experiment.data.val if split == "val" else self.experiment.data.test

    def _precision(self, subject: Subject) -> Precision:
        return scoring_precision(self.experiment, subject.members[0])

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
        if not math.isfinite(result.loss):
            raise UserError(
                f"{subject}: its loss on {split} is not finite, so its weights are damaged: delete its folder "
                "and run again"
            )
        return asdict(result)

    @property
    def _sorter(self) -> recipe.Teacher | None:
        """The model whose loss sorts held-out text."""
        return self.settings.buckets.by if self.settings.buckets else None

    @cached_property
    def _reference_rows(self) -> Floats:
        """What that model loses on each row of the test split."""
        assert self._sorter is not None
        by, experiment, device = self._sorter, self.experiment, self.experiment.group.device
        ensemble = Ensemble([trained(experiment, by, self._model(by).reads)]).to(device)
        rows = experiment.rows.held_out("test", self._model(by))
        return row_losses(ensemble, rows, device, experiment.run(by).precision, f"buckets by {by}")

    def _context(self, subject: Subject, models: EvaluatedModels, name: str, parts: Path) -> Context:
        experiment, model = self.experiment, self._model(subject.members[0])
        # An ensemble has no heads.
        run = experiment.run(subject.members[0]) if len(subject.members) == 1 else None
        return Context(
            name=name,
            label=str(subject),
            tokenizer=experiment.data.tokenizer,
            settings=self.settings,
            precision=self._precision(subject),
            models=models,
            checkpoints=[
                Checkpoint(one.name, one.words_seen, partial(self._as_ensemble, one))
                for one in self._checkpoints(subject)
            ],
            parts=parts,
            held_out=lambda: experiment.rows.held_out("test", model),
            reference=lambda: self._reference_rows,
            labelled=lambda: experiment.rows.labelled(model),
            heads=lambda: load_heads(sound(experiment, run)) if run else None,
        )

    def _checkpoints(self, subject: Subject) -> list[WordCheckpoint]:
        """The checkpoints by words seen that the recipe asks of a single model, oldest first; none of an ensemble."""
        return asked_for(self.experiment, self.experiment.run(subject.members[0])) if subject.single else []

    def _as_ensemble(self, one: WordCheckpoint) -> Ensemble:
        return Ensemble([one.load()]).to(self.experiment.group.device)
