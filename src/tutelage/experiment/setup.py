"""Run a recipe: prepare the data, train every model in the order of who teaches whom, score, report.

A *piece* is one model with one seed; it lives in `runs/<recipe>/<model>/seed-<n>/`. Whatever is finished is skipped;
whatever was begun goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import fingerprint, read_json
from tutelage.base.progress import console
from tutelage.base.run_folder import Json, RunFolder
from tutelage.corpus.batches import BatchSource, Masking
from tutelage.corpus.labels import LabelReader, LabelTask
from tutelage.corpus.prepare import Prepared, prepare
from tutelage.corpus.tokens import TokenStore
from tutelage.corpus.ul2 import mixture_of
from tutelage.experiment import caching, plans, selections
from tutelage.models.build import Kind, build, load, shape, shape_of
from tutelage.models.cost import Cost, cost_of
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import Recipe
from tutelage.recipe.words import write_words
from tutelage.teaching import outside
from tutelage.teaching.teachers import Ensemble
from tutelage.training import checkpoint, execution
from tutelage.training.execution import ExecutionMode
from tutelage.training.objectives import Learner
from tutelage.training.parallel import Group
from tutelage.training.plan import Plan, plan
from tutelage.training.tasks import learned, task_weights

UNCHANGING: dict[str, Any] = {
    **dict.fromkeys(("keep", "checkpoints", "save_minutes", "like", "without", "seeds"), True),
    **dict.fromkeys(("attention", "compile", "cuda_graphs", "deterministic", "sharding"), True),
    "optim": {"micro_batch_rows"},
    "stages": {"__all__": {"cache": {"fill", "limit_gib"}}},
}
"""Settings of a model that do not change what it learns."""


@dataclass(frozen=True)
class Piece:
    """One model with one seed."""

    name: str
    seed: int

    def __str__(self) -> str:
        """Write it as recipes do."""
        return f"{self.name}[{self.seed}]"


class Experiment:
    """A recipe and the folder of its runs.

    Args:
        what: the recipe.
        runs: folder that holds `<recipe name>/`.
        group: the processes that work together.
    """

    def __init__(self, what: Recipe, runs: Path, group: Group) -> None:
        self.recipe = what
        self.folder = runs / what.name
        self.group = group
        self._costs: dict[tuple[str, Kind], Cost] = {}
        machine.set_up()

    # --- who comes when

    def pieces(self, only: str | None = None) -> list[Piece]:
        """List what is to be trained, teachers before their students.

        Args:
            only: a model; then only it and those it needs.

        Raises:
            UserError: an unknown model, or models that teach each other in a circle.
        """
        if only is not None and only not in self.recipe.models:
            raise UserError(
                f"no model '{only}' in this recipe{nearest(only, self.recipe.models)} "
                f"(models: {', '.join(self.recipe.models)})"
            )
        order: list[Piece] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise UserError(f"models teach each other in a circle: {' -> '.join((*path, name))}")
            model = self.recipe.models[name]
            for teacher in (t for stage in model.stages for t in stage.needs):
                if teacher.model in self.recipe.models:
                    self.piece_of(teacher)
                    visit(teacher.model, (*path, name))
            for seed in model.seed_list:
                if Piece(name, seed) not in order:
                    order.append(Piece(name, seed))

        for name in [only] if only is not None else self.recipe.models:
            visit(name, ())
        return order

    def piece_of(self, teacher: recipe.Teacher) -> Piece:
        """Return the piece that a reference to a model of this recipe means."""
        seeds = self.recipe.models[teacher.model].seed_list
        seed = seeds[0] if teacher.seed is None else teacher.seed
        if seed not in seeds:
            raise UserError(f"'{teacher}' names seed {seed}, but {teacher.model} is trained with seeds {list(seeds)}")
        return Piece(teacher.model, seed)

    def run_of(self, piece: Piece) -> RunFolder:
        """Return the folder of a piece."""
        return RunFolder(self.folder / piece.name / f"seed-{piece.seed}")

    def references_to(self, name: str) -> list[recipe.Teacher]:
        """Return where a model is named as a teacher, scorer or member of an ensemble, or to sort held-out text."""
        teachers = [t for model in self.recipe.models.values() for stage in model.stages for t in stage.needs]
        teachers += [self.recipe.evaluation.buckets.by] if self.recipe.evaluation.buckets else []
        teachers += [
            recipe.Teacher.model_validate(member)
            for name_compared in self.recipe.compare.models
            for member in recipe.ensemble_members(name_compared)
        ]
        return [t for t in teachers if t.model == name]

    def milestones(self, name: str) -> frozenset[int]:
        """Return the steps of a model whose checkpoints are kept: named, by step or by words, or asked for by words."""
        return self._steps_named(name) | frozenset(self.plan_of(name).words.values())

    def _steps_named(self, name: str) -> frozenset[int]:
        written = (t.checkpoint for t in self.references_to(name))
        return frozenset(int(text.removeprefix("step-")) for text in written if text.startswith("step-"))

    # --- data

    @cached_property
    def data(self) -> Prepared:
        """The prepared corpus; built on first use."""
        folder = self.folder / "data"
        prepared = prepare(self.recipe.data, folder) if self.group.is_main else None
        self.group.barrier()
        return prepared if prepared is not None else prepare(self.recipe.data, folder)

    def rows_of(self, split: TokenStore, model: recipe.Model, batch_rows: int, shuffle: bool) -> BatchSource:
        """Return the batches of a split as a model reads them."""
        data, tokenizer = self.recipe.data, self.data.tokenizer
        masking = None
        masked = next((stage.objectives.masked for stage in model.stages if stage.objectives.masked), None)
        if model.reads == "masked" and tokenizer.mask_token_id is None:
            raise UserError("a masked model needs a mask token: data.tokenizer.extra_tokens must have '<mask>'")
        if data.rows.kind == "examples" and tokenizer.pad_token_id is None:
            raise UserError("rows of examples are padded, but this tokenizer has no pad token; use `kind: chunks`")
        if model.reads == "masked":
            rate = masked.rate if masked else recipe.Masked().rate
            special = tuple(sorted(tokenizer.all_special_ids))
            masking = Masking(rate, tokenizer.mask_token_id, len(tokenizer), special, data.seed)
        pad_id = tokenizer.pad_token_id or 0
        labels, tasks = None, self.tasks_of(model) if shuffle else ()
        if tasks and split.labels is not None:
            labels = LabelReader(split.labels, tasks, model.reads == "causal", model.tasks[0].confidence)
        # Held-out rows stay as they are, so that losses on them compare with any causal model's.
        ul2 = model.ul2 if shuffle else None
        mixture = mixture_of(ul2, tokenizer, data.rows.length, data.seed) if ul2 is not None else None
        return BatchSource(split, data.rows, batch_rows, data.seed, pad_id, masking, shuffle, mixture, labels)

    def labelled_rows(self, split: TokenStore, model: recipe.Model) -> BatchSource | None:
        """Return the rows of a split as they are, no token hidden, with all their labels; None if there are none."""
        if split.labels is None or self.recipe.data.rows.kind != "examples":
            return None
        labels = LabelReader(split.labels, split.labels.tasks, model.reads == "causal")
        pad_id = self.data.tokenizer.pad_token_id or 0
        return BatchSource(split, self.recipe.data.rows, 64, 0, pad_id, shuffle=False, labels=labels)

    def tasks_of(self, model: recipe.Model) -> tuple[LabelTask, ...]:
        """Return the tasks of the corpus that a model learns, in any of its stages.

        Raises:
            UserError: the corpus has no labels, or not those of a task that is named.
        """
        labels = self.data.train.labels
        found = {task.name for what in model.tasks for task in learned(what, labels.tasks if labels else ())}
        return tuple(task for task in labels.tasks if task.name in found) if labels else ()

    def task_weights(self, model: recipe.Model) -> tuple[tuple[float, ...], ...]:
        """Return of each stage what the tasks of a model weigh; nothing where it learns none."""
        tasks, labels = self.tasks_of(model), self.data.train.labels
        if not tasks or labels is None:
            return ()
        stages = []
        for stage in model.stages:
            what = stage.objectives.tasks
            weights = task_weights(what, learned(what, labels.tasks), labels.counts) if what else {}
            stages.append(tuple(weights.get(task.name, 0.0) for task in tasks))
        return tuple(stages)

    def plan_of(self, name: str) -> Plan:
        """Return a model's steps, stages and evaluations."""
        model = plans.in_steps(self, name)
        source = self.rows_of(self.data.train, model, model.optim.batch_rows, shuffle=True)
        words = frozenset(t.words for t in self.references_to(name) if t.words is not None)
        words_per_token = self.data.train.words / len(self.data.train)
        return plan(name, model, source, words_per_token, self._steps_named(name), words)

    # --- models

    def new_model(self, piece: Piece) -> LanguageModel:
        """Make a piece's model with its initial weights."""
        model = self.recipe.models[piece.name]
        return build(model, self.data.tokenizer, self.recipe.data.rows.length, self.recipe.seed + piece.seed)

    def new_heads(self, piece: Piece, width: int) -> TaskHeads | None:
        """Make a piece's heads with their initial weights, which leave the model's as they are; None without tasks."""
        model = self.recipe.models[piece.name]
        tasks = self.tasks_of(model)
        uncertain = any(what.weighting == "uncertainty" for what in model.tasks)
        return TaskHeads(tasks, width, self.recipe.seed + piece.seed, uncertain) if tasks else None

    def new_learner(self, piece: Piece) -> Learner:
        """Make a piece's model and heads, for weights to be loaded into."""
        model = self.new_model(piece)
        return Learner(model, self.new_heads(piece, model.weight_VD.shape[1]))

    def trained(self, teacher: recipe.Teacher, reads: Kind) -> LanguageModel:
        """Load a trained model of this recipe, or one from a folder or the hub, after checking its vocabulary."""
        if teacher.model not in self.recipe.models:
            return outside.load_teacher(teacher, self.data.tokenizer, reads, self.recipe.data.rows.length)
        piece = self.piece_of(teacher)
        run = self.run_of(piece)
        self.finished(piece)
        if teacher.checkpoint == "best":
            return load(str(run.hf.absolute()), self.data.tokenizer, reads)
        folder = self._kept(teacher)
        learner = self.new_learner(piece)
        fault = checkpoint.verify(folder)
        if fault is not None:
            raise UserError(f"'{teacher}': {folder}: {fault}; delete {run.path} and run again")
        checkpoint.load_weights(folder, learner)
        return learner.model

    def _kept(self, teacher: recipe.Teacher) -> Path:
        """Return the folder of a named checkpoint; refuse one that was not kept."""
        checkpoints, step = self.run_of(self.piece_of(teacher)).checkpoints, self.step_of(teacher)
        kept = checkpoint.steps_in(checkpoints)
        if step not in kept:
            raise UserError(
                f"'{teacher}': that checkpoint was not kept; there are {kept}. Those that a recipe names are kept, "
                "at models.*.checkpoints also, or "
                "all of them with models.*.keep=all"
            )
        return checkpoint.folder_of(checkpoints, step)

    def step_of(self, teacher: recipe.Teacher) -> int:
        """Return the step of a checkpoint of this recipe that is named: `last`, `step-N` or `words-N`.

        Raises:
            UserError: that many words were not seen, or no checkpoint was asked for there.
        """
        if teacher.checkpoint == "last":
            steps: int = self.finished(self.piece_of(teacher))["steps"]
            return steps
        if teacher.words is None:
            return int(teacher.checkpoint.removeprefix("step-"))
        kept = self.plan_of(teacher.model).words
        if teacher.words not in kept:
            there = ", ".join(map(write_words, kept)) or "none"
            raise UserError(
                f"'{teacher}': no checkpoint was asked for at so many words (there are: {there}); name it in "
                f"models.{teacher.model}.checkpoints before training, within the length of the run"
            )
        return kept[teacher.words]

    def teachers_of(self, stage: recipe.Stage, reads: Kind, mode: ExecutionMode | None = None) -> Ensemble:
        """Load a stage's teachers; they compute in a mode if one is given, as in their student's.

        Raises:
            UserError: they are not trained, or larger than the memory that is free.
        """
        self.check_memory(stage.teachers, reads)
        models = [self.trained(teacher, reads) for teacher in stage.teachers]
        if mode is not None:
            models = [mode.apply(model) for model in models]
        return Ensemble(models, [teacher.weight for teacher in stage.teachers], stage.combine)

    def check_memory(self, teachers: Sequence[recipe.Teacher], reads: Kind) -> None:
        """Refuse models that teach or score and do not fit in memory together, before any of them is loaded."""
        size = 4.0 * sum(self.cost_of(teacher, reads).parameters for teacher in teachers)
        machine.check_memory(size, " and ".join(map(str, teachers)), self.group.device.type)

    def identity_of(self, teacher: recipe.Teacher) -> str:
        """Return a digest of the weights that teach."""
        if teacher.model not in self.recipe.models:
            return outside.identity(teacher.model)
        piece = self.piece_of(teacher)
        run = self.run_of(piece)
        self.finished(piece)
        if teacher.checkpoint == "best":
            return outside.identity(str(run.hf.absolute()))
        manifest = read_json(self._kept(teacher) / "manifest.json")
        return fingerprint([self.spec(piece), manifest["sha256"]["model.safetensors"]])

    def check(self, pieces: Sequence[Piece]) -> None:
        """Find now what would otherwise stop a model when its turn comes, hours after its teachers'.

        Raises:
            UserError: a shape, length or stage that cannot be, a cache beyond its limit, a selection of too few rows,
                an outside model that is missing or speaks another vocabulary, live teachers larger than memory, or a
                folder that holds a run with other settings.
        """
        for name in dict.fromkeys(piece.name for piece in pieces):
            model = self.recipe.models[name]
            self.tasks_of(model)
            self.plan_of(name)
            if model.weights is not None:
                outside.check_vocabulary(model.weights, self.data.tokenizer)
            self.cost_of(recipe.Teacher(model=name), model.reads)
            for teacher in (t for stage in model.stages for t in stage.needs):
                if teacher.model not in self.recipe.models:
                    outside.check(teacher, self.data.tokenizer, self.recipe.models)
                elif model.ul2 and model.ul2.span and not self.recipe.models[teacher.model].ul2 and self.group.is_main:
                    console.print(
                        f"[yellow]{name}: its teacher '{teacher}' has never read a row with sentinels, and is asked "
                        "about such rows; give it the objective `ul2` too"
                    )
            selections.check(self, name)
        for piece in pieces:
            if self.run_of(piece).finished is None:
                model = self.recipe.models[piece.name]
                execution.check(piece.name, model, self.group.size)
                for stage in model.stages:
                    self.check_memory(stage.teachers if stage.cache is None else (), model.reads)
                    for scorer in stage.select.scorers if stage.select else ():
                        self.check_memory([scorer], model.reads)
            caching.check(self, piece)
            self.run_of(piece).matches(self.spec(piece))

    # --- training

    def finished(self, piece: Piece) -> Json:
        """Return what a piece's training came to.

        Raises:
            UserError: it is not trained, or was trained with other settings than this recipe's.
        """
        run = self.run_of(piece)
        finished = run.finished
        if finished is None or not run.matches(self.spec(piece)):
            raise UserError(f"{piece} is not trained yet; `tutelage run` trains what is missing, teachers first")
        return finished

    def precision_of(self, piece: Piece) -> Literal["fp32", "bf16"]:
        """Return a piece's arithmetic: what it began with, also on a machine that would now choose another."""
        wished = self.recipe.models[piece.name].precision
        path = self.run_of(piece).path / "recipe.json"
        if wished == "auto" and path.is_file():
            begun: Literal["fp32", "bf16"] = read_json(path)["model"]["precision"]
            return begun
        return machine.precision(wished)

    def precision_for(self, scorer: recipe.Teacher) -> Literal["fp32", "bf16"]:
        """Return the arithmetic in which a model scores: its own, or for one from outside the machine's."""
        inside = scorer.model in self.recipe.models
        return self.precision_of(self.piece_of(scorer)) if inside else machine.precision("auto")

    def spec(self, piece: Piece) -> Json:
        """Say everything that decides a piece's result; what a finished run is checked against."""
        model = plans.in_steps(self, piece.name)
        teachers = {}
        for teacher in (t for stage in model.stages for t in stage.needs):
            inside = teacher.model in self.recipe.models
            teachers[str(teacher)] = (
                fingerprint(self.spec(self.piece_of(teacher))) if inside else outside.identity(teacher.model)
            )
        data = self.recipe.data
        unused = {"buckets"} if data.rows.kind == "chunks" else {"chunking"}
        # Without what is left at its default, so that settings of later versions do not disown older runs.
        return {
            "data": {
                "rows": data.rows.model_dump(mode="json", exclude_defaults=True, exclude=unused),
                "seed": data.seed,
                "train": self.data.train.digest,
                "val": self.data.val.digest,
                "tokenizer": self.data.train.tokenizer_id,
            },
            "model": model.model_dump(mode="json", exclude=UNCHANGING, exclude_defaults=True)
            | {"precision": self.precision_of(piece)},
            "seed": self.recipe.seed + piece.seed,
            "teachers": teachers,
        } | self._beside(model)

    def _beside(self, model: recipe.Model) -> Json:
        """Say what decides a model's result beside its settings and teachers, where it has that: weights, labels."""
        found: Json = {}
        if model.weights is not None:
            found["weights"] = outside.identity(model.weights)
        if model.tasks and self.data.train.labels is not None:
            found["labels"] = self.data.train.labels.digest
        return found

    def cost_of(self, teacher: recipe.Teacher, reads: Kind) -> Cost:
        """Return the cost of a model of this recipe, or of a teacher from outside."""
        key = (teacher.model, reads)
        if key not in self._costs:
            length, model = self.recipe.data.rows.length, self.recipe.models.get(teacher.model)
            hf = shape_of(teacher.model, reads) if model is None else shape(model, self.data.tokenizer, length)
            self._costs[key] = cost_of(hf, reads, length)
        return self._costs[key]
