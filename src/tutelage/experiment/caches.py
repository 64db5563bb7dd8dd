"""The verbs about teacher caches: build, info, verify; and what caches of a recipe would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tutelage.base.errors import Interrupted, UserError
from tutelage.base.progress import duration, human
from tutelage.base.stopping import stop_flag
from tutelage.experiment.caching import cache_of, describe_error, encoding_at, epochs_of, opened_at, size_of
from tutelage.experiment.setup import Experiment, Piece
from tutelage.teaching.cache import TeacherCache
from tutelage.teaching.cache_store import MANIFEST


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
    for piece, index in _stages(experiment, model):
        cache = cache_of(experiment, piece, index)
        if cache.folder not in done:
            with opened_at(experiment, piece, index, mend=True):
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


def planned(experiment: Experiment, piece: Piece) -> Iterator[tuple[str, float]]:
    """Yield for each cached stage of a model what its cache will be, in words, and its bytes."""
    model = experiment.recipe.models[piece.name]
    source = experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)
    for index, stage in enumerate(model.stages):
        if stage.cache is None:
            continue
        per_token = sum(field.bytes for field in encoding_at(experiment, piece, index).fields)
        epochs, size = epochs_of(experiment, piece.name, index).stop, size_of(experiment, piece, index)
        slots = f"{epochs} epochs of rows" if source.varies else "each row once"
        yield f"{stage.cache.kind}, {per_token} bytes a token, {human(size)}B ({slots})", size


def _stages(experiment: Experiment, model: str | None = None) -> list[tuple[Piece, int]]:
    """List the stages with a cache, for the first seed of each model: all its seeds share it."""
    experiment.pieces(model)
    names = [model] if model is not None else list(experiment.recipe.models)
    found = [
        (Piece(name, experiment.recipe.models[name].seed_list[0]), index)
        for name in names
        for index, stage in enumerate(experiment.recipe.models[name].stages)
        if stage.cache is not None
    ]
    if not found:
        whose = f"models.{model}" if model is not None else "this recipe"
        raise UserError(f"{whose} has no stage with a cache: add `cache: hidden` (or sparse) beside `teachers`")
    return found


def _caches(experiment: Experiment) -> list[tuple[TeacherCache, tuple[str, ...]]]:
    """List the caches of a recipe, each once, with the models it serves."""
    found: dict[Path, tuple[TeacherCache, tuple[str, ...]]] = {}
    for piece, index in _stages(experiment):
        cache = cache_of(experiment, piece, index)
        names = found[cache.folder][1] if cache.folder in found else ()
        found[cache.folder] = (cache, tuple(dict.fromkeys((*names, piece.name))))
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
