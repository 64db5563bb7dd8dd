"""What decides the result of a run, and whether a folder holds just that run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.checksums import damage
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json
from tutelage.base.run_folder import RunFolder
from tutelage.base.types import Json, Precision
from tutelage.corpus.prepare import Prepared
from tutelage.experiment.plans import ModelPlan
from tutelage.recipe import Recipe, Teacher
from tutelage.teaching import outside
from tutelage.training.outcome import Finished

UNCHANGING: dict[str, Any] = {
    **dict.fromkeys(("keep", "checkpoints", "save_minutes", "like", "without", "seeds"), True),
    **dict.fromkeys(("attention", "compile", "cuda_graphs", "deterministic", "sharding"), True),
    "optim": {"micro_batch_rows"},
    "stages": {"__all__": {"cache": {"fill", "limit_gib"}}},
}
"""Settings of a model that do not change what it learns."""


@dataclass(frozen=True)
class TrainingRun:
    """One model with one seed, resolved: all that its training needs to know of the recipe.

    `plan` is what it shares with the model's other seeds. `seed` is as the recipe counts it, `initial_seed` that of its
    weights and draws. `spec` is everything that decides its result.
    """

    plan: ModelPlan
    seed: int
    initial_seed: int
    folder: RunFolder
    precision: Precision
    spec: Json

    @property
    def name(self) -> str:
        """The model's."""
        return self.plan.name

    @property
    def model(self) -> recipe.Model:
        """The model's settings, its length in steps."""
        return self.plan.model

    @property
    def reference(self) -> Teacher:
        """The finished model, as recipes refer to it."""
        return Teacher(model=self.name, seed=self.seed)

    @cached_property
    def digest(self) -> str:
        """Of everything that decides its result."""
        return fingerprint(self.spec)

    def finished(self) -> Finished:
        """Return what training came to.

        Raises:
            UserError: it is not trained, or was trained with other settings than this recipe's.
        """
        if not self.folder.is_finished or not self.folder.matches(self.spec):
            raise UserError(f"{self} is not trained yet; `tutelage run` trains what is missing, teachers first")
        return Finished.read(self.folder.finished)

    def records(self) -> tuple[list[Json], list[Json]]:
        """Return the lines of a finished run's metrics and of its clock readings, as they were written.

        Raises:
            UserError: one of the files is damaged.
        """
        folder, files = self.folder, self.finished().files or {}
        lines, readings = folder.lines(), folder.readings()
        for path, remedy in ((folder.metrics, folder.lost), (folder.timing, folder.lost_clock)):
            if path.is_file() and (fault := damage(folder.path, files, path.name)):
                raise UserError(f"{path.parent}: {fault}: {remedy}")
        return lines, readings

    def __str__(self) -> str:
        return f"{self.name}[{self.seed}]"


def resolve(
    what: Recipe, data: Prepared, plan: ModelPlan, seed: int, folder: Path, run_of: Callable[[Teacher], TrainingRun]
) -> TrainingRun:
    """Resolve a run in the experiment's folder; `run_of` returns the runs that teach it, or score rows for it."""
    model, rows = plan.model, what.data.rows
    run_folder = RunFolder(folder / plan.name / f"seed-{seed}")
    precision = _precision(model, run_folder)
    unused = {"buckets"} if rows.kind == "chunks" else {"chunking"}
    # Without what is left at its default, so that settings of later versions do not disown older runs.
    spec: Json = {
        "data": {
            "rows": rows.model_dump(mode="json", exclude_defaults=True, exclude=unused),
            "seed": what.data.seed,
            "train": data.train.digest,
            "val": data.val.digest,
            "tokenizer": data.train.tokenizer_id,
        },
        "model": model.model_dump(mode="json", exclude=UNCHANGING, exclude_defaults=True) | {"precision": precision},
        "seed": what.seed + seed,
        "teachers": {
            str(teacher): run_of(teacher).digest if teacher.model in what.models else outside.identity(teacher.model)
            for stage in model.stages
            for teacher in stage.needs
        },
    }
    if model.weights is not None:
        spec["weights"] = outside.identity(model.weights)
    if model.tasks and data.train.labels is not None:
        spec["labels"] = data.train.labels.digest
    return TrainingRun(plan, seed, what.seed + seed, run_folder, precision, spec)


def _precision(model: recipe.Model, folder: RunFolder) -> Precision:
    """Return a run's arithmetic: what it began with, also on a machine that would now choose another."""
    path = folder.path / "recipe.json"
    if model.precision == "auto" and path.is_file():
        begun: Precision = read_json(path)["model"]["precision"]
        return begun
    return machine.precision(model.precision)
