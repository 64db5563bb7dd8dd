"""Score finished models, and ensembles of them, on what the recipe names; each score is computed once.

Scores live in `<model>/seed-<n>/scores/`, those of ensembles under their own name beside the models. Every score notes
what it was measured on; another corpus, suite or convention measures anew. Held-out losses are measured here, all else
by `evaluations`. What the recipe wants along the training is measured of the finished model and of its checkpoints by
words seen, whose scores live in `words-3M/` and so on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json, write_json
from tutelage.base.progress import console
from tutelage.base.run_folder import Json, differences
from tutelage.compare.metrics import UNITS
from tutelage.corpus.batches import BatchSource
from tutelage.evaluation.buckets import row_losses
from tutelage.evaluation.measurements import Context, Need, Speakers
from tutelage.evaluation.named import Found, check_name, file_name, find, needs_of, read_score, write_score
from tutelage.evaluation.psychometrics.acquisition import Checkpoint
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import WordCheckpoint, asked_for, word_checkpoints
from tutelage.models.build import Kind
from tutelage.models.heads import TaskHeads, load_heads
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
        members: one model, finished or at a checkpoint, or several that speak as one.
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


class Scoring:
    """The scores of an experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.recipe = experiment.recipe

    def check_names(self) -> None:
        """Refuse evaluations that do not exist, before anything is downloaded or prepared."""
        for name in self.recipe.evaluate:
            check_name(name, HELD_OUT)
        for name in self.recipe.evaluation.along:
            check_name(name, HELD_OUT)
            needs: frozenset[Need] = frozenset({"held_out"}) if name in HELD_OUT else needs_of(name)
            for need in needs:
                raise UserError(
                    f"evaluation.along: '{name}' needs {BESIDE[need]}, and cannot be repeated at each "
                    "checkpoint; name suites, such as blimp-fast"
                )

    @cached_property
    def found(self) -> dict[str, Found]:
        """What the recipe evaluates beside held-out loss, its files read and checked; ask before training.

        Raises:
            UserError: missing or broken files, or evaluations along the training where no checkpoints are kept.
        """
        along = self.recipe.evaluation.along
        if along and not any(self.along(subject) for subject in self.subjects()):
            raise UserError(
                f"evaluation.along: {', '.join(along)} cannot be scored at checkpoints by words seen, since no model "
                "that is compared keeps any: name some in models.*.checkpoints, within the length of the run"
            )
        names = dict.fromkeys((*self.recipe.evaluate, *along))
        if any("labels" in needs_of(name) for name in names) and self.experiment.data.test.labels is None:
            raise UserError(f"evaluate: tasks: the corpus '{self.recipe.data.corpus}' has no labels; leave `tasks` out")
        return {name: find(name, self.recipe.evaluation) for name in names if name not in HELD_OUT}

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

    def along(self, subject: Subject) -> dict[int, Subject]:
        """Return by words seen what is scored along a model's training: the model as it was at its checkpoints.

        Nothing of ensembles, and where the recipe wants nothing along the training.
        """
        kept = self._checkpoints(subject) if self.recipe.evaluation.along else []
        return {one.words_seen: Subject(subject.name, subject.seed, (one.reference,)) for one in kept}

    def folder(self, subject: Subject) -> Path:
        """Return where a subject's scores live."""
        if subject.single:
            [member] = subject.members
            return self.experiment.run_of(self.experiment.piece_of(member)).scores_at(member.checkpoint)
        plain = "+".join(str(member) for member in subject.members).replace("/", "_")
        return self.experiment.folder / "ensembles" / plain / "scores"

    def score(self, subject: Subject) -> None:
        """Measure whatever is not measured yet: of the finished model, then of its checkpoints from the oldest on."""
        states, along = self.along(subject).values(), self.recipe.evaluation.along
        waiting = [state for state in states if any(self.read(state, name) is None for name in along)]
        if waiting:
            # Checkpoints that are not there are told of now, not after the finished model's evaluations.
            word_checkpoints(self.experiment, self.experiment.piece_of(subject.members[0]))
        self._measure(subject, dict.fromkeys((*self.recipe.evaluate, *(along if states else ()))))
        for state in waiting:
            self._measure(state, along)

    def _measure(self, subject: Subject, names: Iterable[str]) -> None:
        missing = [name for name in names if self.read(subject, name) is None]
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
                kept = {"of": self._of(subject, name), "precision": self._precision(subject), "score": score}
                write_json(self.folder(subject) / f"{name}.json", kept)
            else:
                score = self._evaluate(subject, speakers, name)
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
        for name in (name for name in self.recipe.evaluate if name not in HELD_OUT):
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
            str(member): fingerprint(self.experiment.spec(self.experiment.piece_of(member)))
            for member in subject.members
        }
        if name in HELD_OUT:
            return {"members": members, "tokens": self._split(name).digest}
        of: Json = {"members": members, "convention": self.recipe.evaluation.convention} | self.found[name].inputs
        if "held_out" in self.found[name].needs:
            of["tokens"] = self._split("test").digest
        if "labels" in self.found[name].needs and self._split("test").labels is not None:
            of["labels"] = self._split("test").labels.digest
        if "reference" in self.found[name].needs and (by := self._sorter) is not None:
            of["reference"] = [str(by), fingerprint(self.experiment.spec(self.experiment.piece_of(by)))]
        if "checkpoints" in self.found[name].needs:
            of["checkpoints"] = [one.name for one in self._checkpoints(subject)]
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
            lambda tokens, lengths: ensemble.dense_signal(tokens, lengths, precision),
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
            checkpoints=[
                Checkpoint(one.name, one.words_seen, partial(self._speaking, one)) for one in self._checkpoints(subject)
            ],
            parts=parts,
            held_out=lambda: self._held_out_rows(subject, "test"),
            reference=lambda: self._reference_rows,
            labelled=lambda: self.experiment.labelled_rows(
                self._split("test"), self.recipe.models[subject.members[0].model]
            ),
            heads=lambda: self._heads(subject),
        )
        score = write_score(self.folder(subject), self.found[name].run(context), name, of, context.precision)
        shutil.rmtree(parts, ignore_errors=True)
        return score

    def _heads(self, subject: Subject) -> TaskHeads | None:
        """Load the heads of a finished model; those of an ensemble do not speak together."""
        [member, *others] = subject.members
        return None if others else load_heads(self.experiment.run_of(self.experiment.piece_of(member)).hf)

    def _checkpoints(self, subject: Subject) -> list[WordCheckpoint]:
        """The checkpoints by words seen that the recipe asks of a single model, oldest first; none of an ensemble."""
        return asked_for(self.experiment, self.experiment.piece_of(subject.members[0])) if subject.single else []

    def _speaking(self, one: WordCheckpoint) -> Ensemble:
        return Ensemble([one.load()]).to(self.experiment.group.device)


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
