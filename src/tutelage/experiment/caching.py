"""The teacher cache of a stage: what decides its content, what it costs, who may fill it when.

Caches lie in `runs/<recipe>/caches/<first digits of the content's fingerprint>/`, shared by all students and seeds that
are taught the same; other teachers, rows or numbers mean another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tutelage import recipe
from tutelage.base.errors import Interrupted
from tutelage.base.files import locked
from tutelage.base.progress import console, duration, human
from tutelage.base.stopping import stop_flag
from tutelage.corpus.batches import BatchSource, Examples
from tutelage.corpus.tokens import TokenStore
from tutelage.models.cost import Cost
from tutelage.teaching.cache import SMALLER, TeacherCache, epochs_read
from tutelage.teaching.cache_error import error_of
from tutelage.teaching.cache_store import check_size
from tutelage.teaching.encoding import Encoding, Hidden, Sparse, TopK
from tutelage.teaching.signal import TeacherSource
from tutelage.training.execution import ExecutionMode
from tutelage.training.parallel import Group

if TYPE_CHECKING:
    from tutelage.experiment.setup import Experiment, Piece


def cache_of(experiment: Experiment, piece: Piece, index: int) -> TeacherCache:
    """Return the cache of a stage's teachers, not yet open; they must be trained.

    Its teachers compute in the machine's plain mode, whatever their students' mode: all share the cache.
    """
    what, model = experiment.recipe, experiment.recipe.models[piece.name]
    stage = model.stages[index]
    # What is kept of the rows must be of these very rows.
    store = TokenStore.open(experiment.folder / "data", "train", verify=True)
    source = _source(experiment, piece.name)
    identities = [experiment.identity_of(teacher) for teacher in stage.teachers]
    return TeacherCache(
        experiment.folder / "caches",
        key_of(what.data, store, source, identities),
        encoding_at(experiment, piece, index),
        source,
        live=lambda: experiment.teachers_of(stage, model.reads),
        precision=experiment.precision_of(piece),
        seed=what.data.seed,
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


def encoding_at(experiment: Experiment, piece: Piece, index: int) -> Encoding:
    """Return what the cache of a piece's stage keeps of each token; its teachers need not be trained yet."""
    model = experiment.recipe.models[piece.name]
    stage = model.stages[index]
    widths = [experiment.cost_of(teacher, model.reads).output_width for teacher in stage.teachers]
    varies, vocab_size = _source(experiment, piece.name).varies, len(experiment.data.tokenizer)
    return encoding_of(stage, widths, experiment.precision_of(piece), vocab_size, varies)


def epochs_of(experiment: Experiment, name: str, index: int) -> range:
    """Return the epochs for which the cache of a stage has slots; one where rows are the same in all."""
    plan = experiment.plan_of(name)
    return epochs_read(_source(experiment, name), plan.start_of(index), plan.taught_until(index))


def size_of(experiment: Experiment, piece: Piece, index: int) -> float:
    """Return the bytes that the cache of a stage takes once it is full."""
    per_token = sum(field.bytes for field in encoding_at(experiment, piece, index).fields)
    source = _source(experiment, piece.name)
    return float(per_token * source.tokens_per_epoch * epochs_of(experiment, piece.name, index).stop)


def check(experiment: Experiment, piece: Piece) -> None:
    """Refuse caches that would exceed their limit, before any teacher is trained for them."""
    for index, stage in enumerate(experiment.recipe.models[piece.name].stages):
        if stage.cache is not None:
            remedy = f"models.{piece.name}.stages.{index}: {SMALLER}"
            check_size(size_of(experiment, piece, index), stage.cache.limit_gib * 2**30, remedy)


def teacher_source(
    experiment: Experiment, piece: Piece, index: int | None, mode: ExecutionMode, opened_: ExitStack
) -> TeacherSource | None:
    """Return who teaches in a stage.

    Args:
        experiment: the experiment.
        piece: the student.
        index: of the stage; None where its teachers no longer teach.
        mode: the student's mode of execution.
        opened_: holds the cache of the stage before, which is closed.
    """
    opened_.close()
    if index is None:
        return None
    model = experiment.recipe.models[piece.name]
    stage = model.stages[index]
    if not stage.teachers:
        return None
    if stage.cache is None:
        return experiment.teachers_of(stage, model.reads, mode)
    return opened_.enter_context(opened_at(experiment, piece, index))


def build_ahead(experiment: Experiment, piece: Piece) -> float:
    """Complete the caches of a piece that are to be filled ahead; return the seconds that took, whenever it was."""
    seconds = 0.0
    for index, stage in enumerate(experiment.recipe.models[piece.name].stages):
        if stage.cache is not None and stage.cache.fill == "ahead":
            with opened_at(experiment, piece, index) as cache:
                seconds += cache.info().get("seconds", 0.0)
    return seconds


@contextmanager
def opened_at(experiment: Experiment, piece: Piece, index: int, mend: bool = False) -> Iterator[TeacherCache]:
    """Open the cache of a piece's stage; see `opened`."""
    wished, plan = experiment.recipe.models[piece.name].stages[index].cache, experiment.plan_of(piece.name)
    assert wished is not None
    epochs = epochs_of(experiment, piece.name, index)
    read = (
        (plan.taught_until(index) - plan.start_of(index))
        / _source(experiment, piece.name).steps_per_epoch
        / len(epochs)
    )
    cache = cache_of(experiment, piece, index)
    with opened(cache, wished, epochs, experiment.group, str(piece), mend, read) as one:
        yield one


@contextmanager
def opened(
    cache: TeacherCache,
    wished: recipe.Cache,
    epochs: range,
    group: Group,
    label: str,
    mend: bool = False,
    read: float = 1.0,
) -> Iterator[TeacherCache]:
    """Open a cache to teach from; first complete it where it is to be filled ahead.

    One group of processes fills at a time; others wait for it, with a word.

    Args:
        cache: not yet open.
        wished: how it is to be filled, and how large it may be.
        epochs: those it has slots for.
        group: the processes that work together, all of which call this.
        label: whom it is for.
        mend: fill it now in any case, and mend what is damaged.
        read: how much of its rows will be read; above 1 where they are read again.

    Raises:
        UserError: it is too large, or the folder holds something damaged.
        Interrupted: SIGTERM or SIGINT came; what was computed is kept.
    """
    with ExitStack() as stack:
        cache.to(group.device)
        filler = stack.enter_context(ExitStack())
        if group.is_main:
            waiting = f"{label}: waiting for the teacher cache in {cache.folder}, which another process fills"
            filler.enter_context(locked(cache.folder / "lock", str(cache.folder), waiting=waiting))
            cache.create(epochs, wished.limit_gib * 2**30)
        group.barrier()
        cache.open()
        stack.callback(cache.close)
        # All together or none: another process may have filled its share by now.
        if group.from_main(mend or (wished.fill == "ahead" and not cache.complete(epochs))):
            _build(cache, epochs, group, label, mend, read)
        group.barrier()
        if cache.complete(epochs):
            filler.close()
        cache.to(group.device)
        yield cache


def describe(cache: TeacherCache, epochs: range) -> str:
    """Say what a cache is and how large."""
    size = f"{cache.store.bytes_per_token} bytes a token, {human(cache.store.size(epochs.stop))}B"
    return f"{cache.encoding.key['kind']}, {size}"


def teaching_flops(stage: recipe.Stage, costs: Sequence[Cost], vocab_size: int, read: float, passed: float) -> float:
    """Count the operations of a stage's teachers.

    A cache is counted as if each student had filled it for itself.

    Args:
        stage: the stage.
        costs: of its teachers.
        vocab_size: of the tokenizer.
        read: tokens that the student reads.
        passed: tokens in a pass over all slots of the cache.
    """
    if stage.cache is None:
        return sum(cost.forward_flops * read for cost in costs)
    computed = passed if stage.cache.fill == "ahead" else min(passed, read)
    if stage.cache.kind != "hidden":
        return sum(cost.forward_flops * computed for cost in costs)
    # The output layers are left out of the pass, and applied at every step instead.
    heads = [2.0 * cost.output_width * vocab_size for cost in costs]
    return sum((c.forward_flops - head) * computed + head * read for c, head in zip(costs, heads, strict=True))


def _source(experiment: Experiment, name: str) -> BatchSource:
    model = experiment.recipe.models[name]
    return experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)


def key_of(data: recipe.Data, store: TokenStore, source: BatchSource, teachers: Sequence[str]) -> dict[str, Any]:
    """Say everything about rows and teachers that decides what the teachers say.

    Args:
        data: the recipe's.
        store: the training split.
        source: its rows as the student reads them.
        teachers: a digest of each teacher's weights, in order.
    """
    unused = {"buckets"} if data.rows.kind == "chunks" else {"chunking"}
    rows = data.rows.model_dump(mode="json", exclude=unused)
    if isinstance(source.rows, Examples):
        rows["borders"] = hashlib.sha256(source.rows.starts.tobytes() + source.rows.lengths.tobytes()).hexdigest()
    masking = asdict(source.masking) if source.masking is not None else None
    if masking is not None:
        masking["special_ids"] = list(masking["special_ids"])
    # Through JSON, since a key is compared with one that was read from a file.
    mixture = {} if source.mixture is None else {"ul2": json.loads(json.dumps(asdict(source.mixture)))}
    return {
        "tokens": store.digest,
        "tokenizer": store.tokenizer_id,
        "vocabulary": store.vocab_size,
        "rows": rows,
        "seed": data.seed,
        "masking": masking,
        "teachers": list(teachers),
    } | mixture


def _build(cache: TeacherCache, epochs: range, group: Group, label: str, mend: bool, read: float) -> None:
    if group.is_main:
        console.print(f"{label}: keeping what the teachers say in {cache.folder}: {describe(cache, epochs)}")
        if cache.encoding.biased:
            console.print(
                f"[yellow]{label}: the {cache.encoding.key['k']} most likely tokens are a biased sample of what the "
                "teachers say, and may teach worse than no teacher; `cache: sparse` is unbiased and "
                "smaller (docs/caches.md)"
            )
        if cache.source.varies:
            console.print(
                f"{label}: rows differ between epochs, so the teachers go over the text {len(epochs)} times, as "
                "without a cache; it serves the students that come after"
            )
        if read < 0.5 and not mend:
            console.print(
                f"{label}: this stage reads {100 * read:.0f} % of these rows only; `fill: first_epoch` would ask the "
                "teachers about no others"
            )
    with stop_flag() as stop:
        finished = cache.build(epochs, group.rank, group.size, lambda: bool(stop.number), f"cache {label}", mend)
        if not finished:
            raise Interrupted(stop.number)
    group.barrier()
    if group.is_main and cache.complete(epochs):
        error = error_of(cache, epochs)
        cache.note(error=error)
        took = duration(cache.info().get("seconds", 0.0))
        console.print(f"{label}: cache complete in {took}, {describe(cache, epochs)}; {describe_error(error)}")
    cache.release()


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
