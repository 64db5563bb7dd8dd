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


@dataclass(frozen=True)
class StageCache:
    """What the cache of one stage will be; its teachers need not be trained yet.

    It has slots for `epochs` of so many `tokens`: for one epoch unless rows differ between epochs (`varies`).
    """

    settings: recipe.Cache
    encoding: Encoding
    epochs: range
    tokens: int
    varies: bool

    @property
    def bytes_per_token(self) -> int:
        """On disk."""
        return sum(field.bytes for field in self.encoding.fields)

    @property
    def size(self) -> float:
        """Bytes on disk once it is full."""
        return float(self.bytes_per_token * self.tokens * self.epochs.stop)

    def __str__(self) -> str:
        slots = f"{self.epochs.stop} epochs of rows" if self.varies else "each row once"
        return f"{self.settings.kind}, {self.bytes_per_token} bytes a token, {human(self.size)}B ({slots})"


def planned(run: TrainingRun) -> dict[int, StageCache]:
    """Return by the index of its stage what each cache of a run will be."""
    found, plan, source = {}, run.plan, run.plan.source
    for index, stage in enumerate(run.model.stages):
        if stage.cache is not None:
            widths = [plan.plans.cost_of(teacher.model, run.model.reads).output_width for teacher in stage.teachers]
            encoding = encoding_of(stage, widths, run.precision, plan.plans.vocab_size, source.varies)
            epochs = plan.cache_epochs(index)
            found[index] = StageCache(stage.cache, encoding, epochs, source.tokens_per_epoch, source.varies)
    return found


def cache_of(experiment: Experiment, run: TrainingRun, index: int) -> TeacherCache:
    """Return the cache of a stage's teachers, not yet open; they must be trained.

    Its teachers compute in the machine's plain mode, whatever their students' mode: all share the cache.
    """
    data, stage, source = experiment.recipe.data, run.model.stages[index], run.plan.source
    # What is kept of the rows must be of these very rows.
    store = TokenStore.open(experiment.folder / "data", "train", verify=True)
    return TeacherCache(
        experiment.folder / "caches",
        key_of(data, store, source, [weights_digest(experiment, teacher) for teacher in stage.teachers]),
        planned(run)[index].encoding,
        source,
        live=lambda: ensemble_of(experiment, stage.teachers, run.model.reads, stage.combine),
        precision=run.precision,
        seed=data.seed,
    )


def encoding_of(stage: recipe.Stage, widths: Sequence[int], precision: str, vocab_size: int, varies: bool) -> Encoding:
    """Return what the cache of a stage keeps of each token.

    `widths` are those of the teachers' last hidden states. Where rows differ between epochs (`varies`), every epoch has
    draws of its own, and one set is enough.
    """
    kept, distill = stage.cache, stage.objectives.distill
    assert kept is not None
    assert distill is not None
    total = sum(teacher.weight for teacher in stage.teachers)
    weights = tuple(teacher.weight / total for teacher in stage.teachers)
    if kept.kind == "hidden":
        return Hidden(tuple(widths), precision, weights, stage.combine)
    mixture: dict[str, Any] = {"weights": list(weights)} | ({"combine": stage.combine} if len(weights) > 1 else {})
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
    experiment: Experiment, run: TrainingRun, index: int | None, mode: ExecutionMode, opened: ExitStack
) -> TeacherSource | None:
    """Return who teaches in a stage, in the student's mode; nobody where `index` is None.

    `opened` holds the cache of the stage before, which is closed.
    """
    opened.close()
    if index is None or not (stage := run.model.stages[index]).teachers:
        return None
    if stage.cache is None:
        return ensemble_of(experiment, stage.teachers, run.model.reads, stage.combine, mode)
    return opened.enter_context(opened_at(experiment, run, index))


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
    """Open the cache of a run's stage to teach from; first complete it where it is to be filled ahead.

    All processes of the group call this. With `mend` it is filled now in any case, and what is damaged is mended.

    Raises:
        UserError: it is too large, or the folder holds something damaged.
        Interrupted: SIGTERM or SIGINT came; what was computed is kept.
    """
    settings, group = run.model.stages[index].cache, experiment.group
    assert settings is not None
    epochs, cache = run.plan.cache_epochs(index), cache_of(experiment, run, index)

    def fill(stopped: Callable[[], bool]) -> bool:
        if group.is_main:
            _announce(cache, run, index, mend)
        if not cache.build(epochs, group.rank, group.size, stopped, f"cache {run}", mend):
            return False
        group.barrier()
        if group.is_main and cache.complete(epochs):
            cache.note(error=error_of(cache, epochs))
            facts = cache.info()
            took, kept = duration(facts.get("seconds", 0.0)), _describe(cache, epochs)
            console.print(f"{run}: cache complete in {took}, {kept}; {_describe_error(facts['error'])}")
        cache.release()
        return True

    cache.to(group.device)
    with filled(
        cache,
        group,
        f"the teacher cache of {run}",
        create=lambda: cache.create(epochs, settings.limit_gib * 2**30),
        missing=lambda: mend or (settings.fill == "ahead" and not cache.complete(epochs)),
        complete=lambda: cache.complete(epochs),
        fill=fill,
    ):
        cache.to(group.device)
        yield cache


def _announce(cache: TeacherCache, run: TrainingRun, index: int, mend: bool) -> None:
    """Say what is about to be filled, and what may be unwanted about it."""
    epochs, steps = run.plan.cache_epochs(index), run.plan.steps
    console.print(f"{run}: keeping the teachers' output in {cache.folder}: {_describe(cache, epochs)}")
    if cache.encoding.biased:
        console.print(
            f"[yellow]{run}: the {cache.encoding.key['k']} most likely tokens are a biased sample of what the teachers "
            "say, and may teach worse than no teacher; `cache: sparse` is unbiased and smaller (docs/caches.md)"
        )
    if cache.source.varies:
        console.print(
            f"{run}: rows differ between epochs, so the teachers go over the text {len(epochs)} times, as without a "
            "cache; it serves the students that come after"
        )
    share = (steps.taught_until(index) - steps.start_of(index)) / cache.source.steps_per_epoch / len(epochs)
    if share < 0.5 and not mend:
        console.print(
            f"{run}: this stage reads {100 * share:.0f} % of these rows only; `fill: first_epoch` would ask the "
            "teachers about no others"
        )


def _describe(cache: TeacherCache, epochs: range) -> str:
    return f"{_kind(cache)}, {human(cache.store.size(epochs.stop))}B"


def _kind(cache: TeacherCache) -> str:
    return f"{cache.encoding.key['kind']}, {cache.store.bytes_per_token} bytes a token"


def _describe_error(error: dict[str, float]) -> str:
    """Say how far a cache is from live teaching."""
    if not error:
        return "error not measured"
    over = f"over {error['tokens']:,.0f} tokens"
    if "kl" in error:
        return f"KL to live teaching {error['kl']:.1e} nats a token {over}"
    missing = f", missing mass {100 * error['missing_mass']:.1f} %" if "missing_mass" in error else ""
    return (
        f"noise {error['noise']:.2f} of a label's (all sets {error['noise_all_sets']:.2f}), "
        f"bias {100 * error['bias']:.2f} % (chance: {100 * error['bias_by_chance']:.2f} %){missing} {over}"
    )


# --- the verbs


@dataclass(frozen=True)
class CacheReport:
    """What one cache holds, in words: kind, bytes a token, size, filled share, error.

    `models` are those that it serves; none where this recipe does not use it. `damaged` names epoch and row of each
    slot that does not fit its checksum, where that was looked for.
    """

    folder: Path
    models: tuple[str, ...]
    text: str
    damaged: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        """Write one line, and one for the first few damaged rows."""
        line = f"{self.folder} ({', '.join(self.models) or 'not used by this recipe'}): {self.text}"
        if not self.damaged:
            return line
        named = ", ".join(f"row {row} of epoch {epoch}" for epoch, row in self.damaged[:8])
        more = f" and {len(self.damaged) - 8} more" if len(self.damaged) > 8 else ""
        remedy = "They are computed again when they are next read, or now by `tutelage cache build`"
        return f"{line}\n  damaged: {named}{more}. {remedy}"


def build(experiment: Experiment, model: str | None = None) -> None:
    """Fill the caches of a recipe, or of one model; mend what is damaged.

    Raises:
        UserError: there are none, or a teacher is not trained yet.
    """
    done: set[Path] = set()
    for run, index in _stages(experiment, model):
        folder = cache_of(experiment, run, index).folder
        if folder not in done:
            with opened_at(experiment, run, index, mend=True):
                done.add(folder)


def info(experiment: Experiment) -> list[CacheReport]:
    """Say what the caches of a recipe hold, and which others lie beside them."""
    used = {cache.folder: _report(cache, names) for cache, names in _caches(experiment)}
    beside = [path.parent for path in sorted((experiment.folder / "caches").glob(f"*/{MANIFEST}"))]
    unused = [folder for folder in beside if folder not in used]
    return [*used.values(), *(CacheReport(one, (), f"{_size(one)}; delete it to free the space") for one in unused)]


def verify(experiment: Experiment) -> list[CacheReport]:
    """Compare every checksum of the caches of a recipe.

    Raises:
        UserError: a file is missing, was cut or has another digest.
        Interrupted: SIGTERM or SIGINT came.
    """
    reports = []
    for cache, names in _caches(experiment):
        if not _open(cache):
            reports.append(CacheReport(cache.folder, names, "not built"))
            continue
        with stop_flag() as stop:
            damaged = tuple(cache.damaged(lambda stop=stop: bool(stop.number)))  # type: ignore[misc]
            if stop.number:
                raise Interrupted(stop.number)
        text = f"{len(damaged)} of {int(cache.store.filled.sum()):,} filled rows are damaged"
        cache.close()
        reports.append(CacheReport(cache.folder, names, text, damaged))
    return reports


def _stages(experiment: Experiment, model: str | None = None) -> list[tuple[TrainingRun, int]]:
    """List the stages with a cache, for the first seed of each model: all its seeds share it."""
    runs = {run.name: run for run in reversed(experiment.runs(model))}
    names = experiment.recipe.models if model is None else [model]
    found = [(runs[name], index) for name in names for index, s in enumerate(runs[name].model.stages) if s.cache]
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


def _open(cache: TeacherCache) -> bool:
    """Open a cache for reading, after checking its files; false where it is not built."""
    if not (cache.folder / MANIFEST).is_file():
        return False
    cache.store.check(cache.key)
    cache.open(writable=False)
    return True


def _report(cache: TeacherCache, names: tuple[str, ...]) -> CacheReport:
    kind = _kind(cache)
    if not _open(cache):
        return CacheReport(cache.folder, names, f"{kind}, not built")
    share, facts = float(cache.store.filled.mean()), cache.info()
    cache.close()
    took = f", {duration(facts['seconds'])}" if "seconds" in facts else ""
    text = f"{kind}, {_size(cache.folder)}, {100 * share:.1f} % filled{took}; {_describe_error(facts.get('error', {}))}"
    return CacheReport(cache.folder, names, text)


def _size(folder: Path) -> str:
    return f"{human(sum(path.stat().st_blocks * 512 for path in folder.iterdir()))}B on disk"
