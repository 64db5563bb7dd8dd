"""The teacher caches of a recipe: what decides their content, how large they are, who fills them when, and the verbs.

Caches lie in `runs/<recipe>/caches/<first digits of the content's fingerprint>/`, shared by all students and seeds that
are taught the same; other teachers, rows or numbers mean another folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import recipe
from tutelage.base.errors import Interrupted, UserError
from tutelage.base.progress import console, duration, human
from tutelage.base.stopping import stop_flag
from tutelage.corpus.tokens import TokenStore
from tutelage.experiment.filling import filled
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.loading import ensemble_of, weights_digest
from tutelage.experiment.setup import Experiment
from tutelage.teaching.cache import SMALLER, TeacherCache
from tutelage.teaching.cache_error import error_of
from tutelage.teaching.cache_store import MANIFEST, check_size
from tutelage.teaching.encoding import Encoding, Hidden, Sparse, TopK
from tutelage.teaching.keys import key_of
from tutelage.teaching.signal import TeacherSource
from tutelage.training.execution import ExecutionMode
from tutelage.training.parallel import Group


@dataclass(frozen=True)
class StageCache:
    """What the cache of one stage will be; its teachers need not be trained yet.

    Attributes:
        settings: the recipe's.
        encoding: what is kept of each token.
        epochs: for which it has slots; one where rows are the same in all.
        tokens: in one epoch.
        varies: whether rows differ between epochs.
    """

    settings: recipe.Cache
    encoding: Encoding
    epochs: range
    tokens: int
    varies: bool

    @property
    def bytes_per_token(self) -> int:
        """Bytes on disk for each token."""
        return sum(field.bytes for field in self.encoding.fields)

    @property
    def size(self) -> float:
        """Bytes that it takes once it is full."""
        return float(self.bytes_per_token * self.tokens * self.epochs.stop)

    def __str__(self) -> str:
        """Say what it will be."""
        slots = f"{self.epochs.stop} epochs of rows" if self.varies else "each row once"
        return f"{self.settings.kind}, {self.bytes_per_token} bytes a token, {human(self.size)}B ({slots})"


def planned(run: TrainingRun) -> dict[int, StageCache]:
    """Return by the index of its stage what each cache of a run will be."""
    found = {}
    for index, stage in enumerate(run.model.stages):
        if stage.cache is None:
            continue
        plan = run.plan
        widths = [plan.plans.cost_of(teacher.model, run.model.reads).output_width for teacher in stage.teachers]
        encoding = encoding_of(stage, widths, run.precision, plan.plans.vocab_size, plan.source.varies)
        epochs, source = plan.cache_epochs(index), plan.source
        found[index] = StageCache(stage.cache, encoding, epochs, source.tokens_per_epoch, source.varies)
    return found


def cache_of(experiment: Experiment, run: TrainingRun, index: int) -> TeacherCache:
    """Return the cache of a stage's teachers, not yet open; they must be trained.

    Its teachers compute in the machine's plain mode, whatever their students' mode: all share the cache.
    """
    data, stage, source = experiment.recipe.data, run.model.stages[index], run.plan.source
    # What is kept of the rows must be of these very rows.
    store = TokenStore.open(experiment.folder / "data", "train", verify=True)
    identities = [weights_digest(experiment, teacher) for teacher in stage.teachers]
    return TeacherCache(
        experiment.folder / "caches",
        key_of(data, store, source, identities),
        planned(run)[index].encoding,
        source,
        live=lambda: ensemble_of(experiment, stage.teachers, run.model.reads, stage.combine),
        precision=run.precision,
        seed=data.seed,
    )


def encoding_of(stage: recipe.Stage, widths: Sequence[int], precision: str, vocab_size: int, varies: bool) -> Encoding:
    """Return what the cache of a stage keeps of each token.

    Args:
        stage: with teachers and a cache.
        widths: of the teachers' last hidden states.
        precision: in which the teachers run.
        vocab_size: of the tokenizer.
        varies: whether rows differ between epochs; then every epoch has draws of its own, and one set is enough.
    """
    kept, distill = stage.cache, stage.objectives.distill
    assert kept is not None
    assert distill is not None
    total = sum(teacher.weight for teacher in stage.teachers)
    weights = tuple(teacher.weight / total for teacher in stage.teachers)
    if kept.kind == "hidden":
        return Hidden(tuple(widths), precision, weights, stage.combine)
    mixture: dict[str, Any] = {"weights": list(weights)}
    if len(weights) > 1:
        mixture["combine"] = stage.combine
    temperature = distill.temperature
    assert not isinstance(temperature, recipe.TemperatureScheduleSettings)  # the recipe refuses it
    if kept.kind == "sparse":
        return Sparse(kept.draws, 1 if varies else kept.sets, temperature, mixture, vocab_size)
    return TopK(min(kept.k, vocab_size), temperature, mixture, vocab_size)


def check(run: TrainingRun) -> None:
    """Refuse caches that would exceed their limit, before any teacher is trained for them."""
    for index, cache in planned(run).items():
        remedy = f"models.{run.name}.stages.{index}: {SMALLER}"
        check_size(cache.size, cache.settings.limit_gib * 2**30, remedy)


def teachers_at(
    experiment: Experiment, run: TrainingRun, index: int | None, mode: ExecutionMode, opened_: ExitStack
) -> TeacherSource | None:
    """Return who teaches in a stage.

    Args:
        experiment: the experiment.
        run: the student's.
        index: of the stage; None where its teachers no longer teach.
        mode: the student's mode of execution.
        opened_: holds the cache of the stage before, which is closed.
    """
    opened_.close()
    if index is None:
        return None
    stage = run.model.stages[index]
    if not stage.teachers:
        return None
    if stage.cache is None:
        return ensemble_of(experiment, stage.teachers, run.model.reads, stage.combine, mode)
    return opened_.enter_context(opened_at(experiment, run, index))


def build_ahead(experiment: Experiment, run: TrainingRun) -> float:
    """Complete the caches of a run that are to be filled ahead; return the seconds that took, whenever it was."""
    seconds = 0.0
    for index, stage in enumerate(run.model.stages):
        if stage.cache is not None and stage.cache.fill == "ahead":
            with opened_at(experiment, run, index) as cache:
                seconds += cache.info().get("seconds", 0.0)
    return seconds


@contextmanager
def opened_at(experiment: Experiment, run: TrainingRun, index: int, mend: bool = False) -> Iterator[TeacherCache]:
    """Open the cache of a run's stage; see `opened`."""
    settings, steps = run.model.stages[index].cache, run.plan.steps
    assert settings is not None
    epochs, cache = run.plan.cache_epochs(index), cache_of(experiment, run, index)
    read = (steps.taught_until(index) - steps.start_of(index)) / run.plan.source.steps_per_epoch / len(epochs)
    with opened(cache, settings, epochs, experiment.group, str(run), mend, read):
        yield cache


@contextmanager
def opened(
    cache: TeacherCache,
    settings: recipe.Cache,
    epochs: range,
    group: Group,
    label: str,
    mend: bool = False,
    read: float = 1.0,
) -> Iterator[None]:
    """Open a cache to teach from; first complete it where it is to be filled ahead.

    Args:
        cache: not yet open.
        settings: how it is to be filled, and how large it may be.
        epochs: those it has slots for.
        group: the processes that work together, all of which call this.
        label: whom it is for.
        mend: fill it now in any case, and mend what is damaged.
        read: how much of its rows will be read; above 1 where they are read again.

    Raises:
        UserError: it is too large, or the folder holds something damaged.
        Interrupted: SIGTERM or SIGINT came; what was computed is kept.
    """

    def fill(stopped: Callable[[], bool]) -> bool:
        if group.is_main:
            _announce(cache, epochs, label, read if read < 0.5 and not mend else None)
        if not cache.build(epochs, group.rank, group.size, stopped, f"cache {label}", mend):
            return False
        group.barrier()
        if group.is_main and cache.complete(epochs):
            cache.note(error=error_of(cache, epochs))
            facts = cache.info()
            console.print(
                f"{label}: cache complete in {duration(facts.get('seconds', 0.0))}, {describe(cache, epochs)}; "
                f"{describe_error(facts['error'])}"
            )
        cache.release()
        return True

    cache.to(group.device)
    with filled(
        cache,
        group,
        f"the teacher cache of {label}",
        create=lambda: cache.create(epochs, settings.limit_gib * 2**30),
        missing=lambda: mend or (settings.fill == "ahead" and not cache.complete(epochs)),
        complete=lambda: cache.complete(epochs),
        fill=fill,
    ):
        cache.to(group.device)
        yield


def _announce(cache: TeacherCache, epochs: range, label: str, share: float | None) -> None:
    """Say what is about to be filled, and what may be unwanted about it: that a small share of it will be read."""
    console.print(f"{label}: keeping the teachers' output in {cache.folder}: {describe(cache, epochs)}")
    if cache.encoding.biased:
        console.print(
            f"[yellow]{label}: the {cache.encoding.key['k']} most likely tokens are a biased sample of what the "
            "teachers say, and may teach worse than no teacher; `cache: sparse` is unbiased and smaller "
            "(docs/caches.md)"
        )
    if cache.source.varies:
        console.print(
            f"{label}: rows differ between epochs, so the teachers go over the text {len(epochs)} times, as "
            "without a cache; it serves the students that come after"
        )
    if share is not None:
        console.print(
            f"{label}: this stage reads {100 * share:.0f} % of these rows only; `fill: first_epoch` would ask the "
            "teachers about no others"
        )


def describe(cache: TeacherCache, epochs: range) -> str:
    """Say what a cache is and how large."""
    size = f"{cache.store.bytes_per_token} bytes a token, {human(cache.store.size(epochs.stop))}B"
    return f"{cache.encoding.key['kind']}, {size}"


def describe_error(error: dict[str, float]) -> str:
    """Say how far a cache is from live teaching."""
    if not error:
        return "error not measured"
    over = f"over {error['tokens']:,.0f} tokens"
    if "kl" in error:
        return f"KL to live teaching {error['kl']:.1e} nats a token {over}"
    parts = [f"noise {error['noise']:.2f} of a label's (all sets {error['noise_all_sets']:.2f})"]
    parts += [f"bias {100 * error['bias']:.2f} % (chance: {100 * error['bias_by_chance']:.2f} %)"]
    parts += [f"missing mass {100 * error['missing_mass']:.1f} %"] if "missing_mass" in error else []
    return f"{', '.join(parts)} {over}"


# --- the verbs


@dataclass(frozen=True)
class CacheReport:
    """What one cache holds.

    Attributes:
        folder: where it lies.
        models: the models it serves; none where this recipe does not use it.
        text: kind, bytes a token, size, filled share, error.
        damaged: epoch and row of each slot that does not fit its checksum, where that was looked for.
    """

    folder: Path
    models: tuple[str, ...]
    text: str
    damaged: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        """Write one line, and one for every few damaged rows."""
        line = f"{self.folder} ({', '.join(self.models) or 'not used by this recipe'}): {self.text}"
        if self.damaged:
            named = ", ".join(f"row {row} of epoch {epoch}" for epoch, row in self.damaged[:8])
            more = f" and {len(self.damaged) - 8} more" if len(self.damaged) > 8 else ""
            line += (
                f"\n  damaged: {named}{more}. They are computed again when they are next read, or now by "
                "`tutelage cache build`"
            )
        return line


def build(experiment: Experiment, model: str | None = None) -> None:
    """Fill the caches of a recipe, or of one model; mend what is damaged.

    Raises:
        UserError: there are none, or a teacher is not trained yet.
    """
    done: set[Path] = set()
    for run, index in _stages(experiment, model):
        cache = cache_of(experiment, run, index)
        if cache.folder not in done:
            with opened_at(experiment, run, index, mend=True):
                done.add(cache.folder)


def info(experiment: Experiment) -> list[CacheReport]:
    """Say what the caches of a recipe hold, and which others lie beside them."""
    used = {cache.folder: _report(cache, names) for cache, names in _caches(experiment)}
    beside = sorted((experiment.folder / "caches").glob(f"*/{MANIFEST}"))
    unused = [path.parent for path in beside if path.parent not in used]
    return [
        *used.values(),
        *(CacheReport(folder, (), f"{_size(folder)}; delete it to free the space") for folder in unused),
    ]


def verify(experiment: Experiment) -> list[CacheReport]:
    """Compare every checksum of the caches of a recipe.

    Raises:
        UserError: a file is missing, was cut or has another digest.
        Interrupted: SIGTERM or SIGINT came.
    """
    reports = []
    for cache, names in _caches(experiment):
        if not (cache.folder / MANIFEST).is_file():
            reports.append(CacheReport(cache.folder, names, "not built"))
            continue
        cache.store.check(cache.key)
        cache.open(writable=False)
        with stop_flag() as stop:
            damaged = tuple(cache.damaged(lambda stop=stop: bool(stop.number)))  # type: ignore[misc]
            if stop.number:
                raise Interrupted(stop.number)
        filled = cache.store.filled
        cache.close()
        text = f"{len(damaged)} of {int(filled.sum()):,} filled rows are damaged"
        reports.append(CacheReport(cache.folder, names, text, damaged))
    return reports


def _stages(experiment: Experiment, model: str | None = None) -> list[tuple[TrainingRun, int]]:
    """List the stages with a cache, for the first seed of each model: all its seeds share it."""
    names = [model] if model is not None else list(experiment.recipe.models)
    runs = {run.name: run for run in reversed(experiment.runs(model))}
    found = [
        (runs[name], index)
        for name in names
        for index, stage in enumerate(runs[name].model.stages)
        if stage.cache is not None
    ]
    if not found:
        whose = f"models.{model}" if model is not None else "this recipe"
        raise UserError(f"{whose} has no stage with a cache: add `cache: hidden` (or sparse) beside `teachers`")
    return found


def _caches(experiment: Experiment) -> list[tuple[TeacherCache, tuple[str, ...]]]:
    """List the caches of a recipe, each once, with the models it serves."""
    found: dict[Path, tuple[TeacherCache, tuple[str, ...]]] = {}
    for run, index in _stages(experiment):
        cache = cache_of(experiment, run, index)
        names = found[cache.folder][1] if cache.folder in found else ()
        found[cache.folder] = (cache, tuple(dict.fromkeys((*names, run.name))))
    return list(found.values())


def _report(cache: TeacherCache, names: tuple[str, ...]) -> CacheReport:
    kind = f"{cache.encoding.key['kind']}, {cache.store.bytes_per_token} bytes a token"
    if not (cache.folder / MANIFEST).is_file():
        return CacheReport(cache.folder, names, f"{kind}, not built")
    cache.store.check(cache.key)
    cache.open(writable=False)
    share = float(cache.store.filled.mean())
    cache.close()
    facts = cache.info()
    took = f", {duration(facts['seconds'])}" if "seconds" in facts else ""
    text = f"{kind}, {_size(cache.folder)}, {100 * share:.1f} % filled{took}; {describe_error(facts.get('error', {}))}"
    return CacheReport(cache.folder, names, text)


def _size(folder: Path) -> str:
    return f"{human(sum(path.stat().st_blocks * 512 for path in folder.iterdir()))}B on disk"
