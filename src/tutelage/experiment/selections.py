"""The selection of a stage: which scores it needs, which rows or tokens it keeps, what that costs.

Scores lie in `runs/<recipe>/scores/<first digits of their content's fingerprint>/`, shared by all students and seeds.
What was selected lies in the run's own folder, `selections/stage-<n>.npz` and `.json`; a run that goes on, or a report,
reads it from there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage import recipe
from tutelage.base.errors import Interrupted, UserError
from tutelage.base.files import fingerprint, locked, read_json, sha256, write_bytes, write_json
from tutelage.base.progress import console, duration
from tutelage.base.run_folder import Json, RunFolder
from tutelage.base.stopping import stop_flag
from tutelage.corpus.batches import BatchSource, Ints, keyed_generator
from tutelage.corpus.tokens import TokenStore
from tutelage.experiment import caching
from tutelage.models.build import attention
from tutelage.teaching import selection
from tutelage.teaching.scores import Scores, folder_of
from tutelage.teaching.teachers import Ensemble
from tutelage.training.execution import ExecutionMode

if TYPE_CHECKING:
    from tutelage.experiment.setup import Experiment, Piece

BINS = 40
EXAMPLES = 3
"""Texts shown of what was kept and of what was dropped."""
EXAMPLE_TOKENS = 40

READER = recipe.Model(preset="llama-1m", steps=1)
"""Stands for whoever reads rows left to right as they stand, whatever its shape."""


@dataclass(frozen=True)
class Selection:
    """What a stage learns from.

    Attributes:
        rows: in rising order.
        targets: which positions of all rows keep their target; None where all do.
        facts: what the report says of it, JSON-like.
    """

    rows: Ints
    targets: selection.Mask | None
    facts: Json


# --- before training


def check(experiment: Experiment, name: str) -> None:
    """Find what would stop a model's selections, before any scorer is trained.

    Raises:
        UserError: rows that read anew in every epoch, or fewer selected rows than a batch has.
    """
    model = experiment.recipe.models[name]
    source = experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)
    for index, stage in enumerate(model.stages):
        if stage.select is None:
            continue
        key = f"models.{name}.stages.{index}.select"
        if source.shifts or model.reads == "masked":
            raise UserError(
                f"{key}: these rows read anew in every epoch, so that scores of one say nothing of the next; take "
                "data.rows.chunking=fixed, or a model that reads left to right"
            )
        if stage.select.by == "excess" and source.varies:
            raise UserError(
                f"{key}: `by: excess` selects targets of rows as they stand, but `ul2` rewrites them in every epoch; "
                "select rows (`by: salt_ds`), or learn from `next_token`"
            )
        wanted = stage.select.count(source.count)
        if wanted > source.count:
            raise UserError(f"{key}: rows={wanted:,}, but the training split has only {source.count:,}; take fewer")
        if wanted < model.optim.batch_rows:
            raise UserError(
                f"{key} leaves {wanted:,} of {source.count:,} rows, fewer than a batch of {model.optim.batch_rows} "
                "(optim.batch_rows): select more, or take smaller batches"
            )


def flops(experiment: Experiment, name: str) -> float:
    """Count the operations of the scoring passes that a model needs, each scorer once; as if nobody shared them."""
    model = experiment.recipe.models[name]
    scorers = {str(s): s for stage in model.stages if stage.select is not None for s in stage.select.scorers}
    tokens = experiment.rows_of(experiment.data.train, model, 1, shuffle=True).tokens_per_epoch
    return sum(experiment.cost_of(scorer, "causal").forward_flops * tokens for scorer in scorers.values())


# --- scores


def scores_of(experiment: Experiment, scorer: recipe.Teacher, folder: Path | None = None) -> Scores:
    """Return the scores of a model for the training rows, not yet open; the model must be trained.

    Args:
        experiment: whose rows.
        scorer: a model of the recipe, or one from outside.
        folder: where they lie; among the recipe's scores unless given.
    """
    # What is kept of the rows must be of these very rows.
    store = TokenStore.open(experiment.folder / "data", "train", verify=True)
    data = experiment.recipe.data
    source = experiment.rows_of(store, READER, 1, shuffle=True)
    if source.shifts:
        raise UserError("scores are of rows that read alike in every epoch; take data.rows.chunking=fixed")
    key = caching.key_of(data, store, source, [experiment.identity_of(scorer)])
    precision = experiment.precision_for(scorer)
    folder = folder or folder_of(experiment.folder / "scores", key, precision)
    stage = recipe.Stage(objectives=recipe.Objectives(distill=recipe.Distill()), teachers=(scorer,))

    def load(compiled: bool) -> Ensemble:
        return experiment.teachers_of(stage, "causal", ExecutionMode(attention(), compiled=compiled))

    return Scores(folder, key, source, load, precision)


@contextmanager
def scored(experiment: Experiment, scorer: recipe.Teacher, folder: Path | None = None) -> Iterator[Scores]:
    """Open the scores of a model for reading; first complete them where rows are missing.

    Raises:
        UserError: the scorer is not trained, the folder holds something else, or something damaged.
        Interrupted: SIGTERM or SIGINT came; what was computed is kept.
    """
    group, scores = experiment.group, scores_of(experiment, scorer, folder)
    with ExitStack() as stack:
        filler = stack.enter_context(ExitStack())
        if group.is_main:
            waiting = f"waiting for the scores of {scorer} in {scores.folder}, which another process computes"
            filler.enter_context(locked(scores.folder / "lock", str(scores.folder), waiting=waiting))
            scores.create()
        group.barrier()
        scores.open()
        stack.callback(scores.close)
        if group.from_main(not scores.complete):
            if group.is_main:
                console.print(f"scoring all training rows by {scorer}, kept in {scores.folder}")
            with stop_flag() as stop:
                finished = scores.build(
                    group.device, group.rank, group.size, lambda: bool(stop.number), f"score {scorer}"
                )
            if not finished:
                raise Interrupted(stop.number)
            group.barrier()
            if group.is_main:
                console.print(f"scores of {scorer} complete in {duration(scores.seconds)}")
        filler.close()
        yield scores


# --- selections


def ahead(experiment: Experiment, piece: Piece) -> tuple[dict[int, Selection], float]:
    """Return the selections of a piece by the index of their stage, and the seconds that their scores took."""
    model, run, group = experiment.recipe.models[piece.name], experiment.run_of(piece), experiment.group
    found: dict[int, Selection] = {}
    seconds: dict[str, float] = {}
    for index, stage in enumerate(model.stages):
        if stage.select is None:
            continue
        key = _key(experiment, piece, stage.select)
        if group.from_main(not _path(run, index).with_suffix(".json").is_file()):
            _choose(experiment, piece, index, stage.select, key)
        group.barrier()
        found[index] = read(run, index, key)
        seconds |= found[index].facts["scoring_seconds"]
        if group.is_main:
            _announce(experiment, piece, index, found[index])
    return found, sum(seconds.values())


def read(run: RunFolder, index: int, key: str | None = None) -> Selection:
    """Read what a run selected for a stage.

    Args:
        run: the run's folder.
        index: of the stage.
        key: what it must have been selected by; anything unless given.

    Raises:
        UserError: it was damaged, or selected by something else.
    """
    path = _path(run, index)
    facts = read_json(path.with_suffix(".json"))
    remedy = f"delete {run.path} and run again"
    if key is not None and facts["key"] != key:
        raise UserError(f"{path} was selected by other scores or settings than this recipe's: {remedy}")
    if not path.is_file() or sha256(path) != facts["sha256"]:
        raise UserError(f"{path} is missing or not what was written: {remedy}")
    with np.load(path, allow_pickle=False) as arrays:
        rows = arrays["rows"]
        targets = (
            np.unpackbits(arrays["targets"], count=facts["positions"]).astype(bool) if "targets" in arrays else None
        )
    return Selection(rows, targets, facts)


def facts_of(experiment: Experiment, piece: Piece) -> list[Json]:
    """Return what the report says of a finished piece's selections."""
    run, hidden = experiment.run_of(piece), ("key", "sha256", "positions", "scoring_seconds")
    stages = experiment.recipe.models[piece.name].stages
    facts = [read(run, index).facts | {"stage": index + 1} for index, stage in enumerate(stages) if stage.select]
    return [{key: value for key, value in fact.items() if key not in hidden} for fact in facts]


def _key(experiment: Experiment, piece: Piece, select: recipe.Select) -> str:
    store = experiment.data.train
    identities = [experiment.identity_of(scorer) for scorer in select.scorers]
    data = experiment.recipe.data
    rows = data.rows.model_dump(mode="json")
    return fingerprint([select.model_dump(mode="json"), identities, store.digest, store.tokenizer_id, rows, data.seed])


def _path(run: RunFolder, index: int) -> Path:
    return run.path / "selections" / f"stage-{index + 1}.npz"


def _choose(experiment: Experiment, piece: Piece, index: int, select: recipe.Select, key: str) -> None:
    """Select for a stage and write that down; all processes of a group together, for they score together."""
    model, path = experiment.recipe.models[piece.name], _path(experiment.run_of(piece), index)
    with ExitStack() as stack:
        scores = [stack.enter_context(scored(experiment, scorer)) for scorer in select.scorers]
        if not experiment.group.is_main:
            return
        source = experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)
        choose = _choose_tokens if select.by == "excess" else _choose_rows
        arrays, facts = choose(experiment, select, scores, source)
        seconds = {str(scorer): one.seconds for scorer, one in zip(select.scorers, scores, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, buffer.getvalue())
    about = {"by": select.by, "scorer": _name(select.scorer), "reference": _name(select.reference)}
    positions = int(source.row_lengths.sum())
    whole = {"key": key, "sha256": sha256(path), "positions": positions, "scoring_seconds": seconds}
    # Last: it is what says that the selection was made.
    write_json(path.with_suffix(".json"), whole | about | facts)


def _choose_rows(
    experiment: Experiment, select: recipe.Select, scores: Sequence[Scores], source: BatchSource
) -> tuple[dict[str, Any], Json]:
    values_R = row_values(select, scores, source.row_lengths)
    kept_R = chosen_rows(select, values_R, source.count, experiment.recipe.data.seed)
    texts = {
        f"texts_{which}": _examples(experiment, source, np.flatnonzero(part_R), values_R)
        for which, part_R in (("kept", kept_R), ("dropped", ~kept_R))
    }
    return {"rows": np.flatnonzero(kept_R)}, _facts(values_R, kept_R, UNITS[select.by], "rows") | texts


def _choose_tokens(
    experiment: Experiment, select: recipe.Select, scores: Sequence[Scores], source: BatchSource
) -> tuple[dict[str, Any], Json]:
    excess_N, real_N = token_excess(scores[0], scores[1], source.row_lengths)
    kept_N = np.zeros(len(excess_N), dtype=np.bool_)
    kept_N[real_N] = selection.highest(excess_N[real_N], max(1, round((select.share or 0.0) * int(real_N.sum()))))
    facts = _facts(excess_N[real_N], kept_N[real_N], UNITS[select.by], "tokens")
    texts = {"texts_kept": _bracketed(experiment, source, kept_N), "texts_dropped": []}
    return {"rows": np.arange(source.count), "targets": np.packbits(kept_N)}, facts | texts


def row_values(select: recipe.Select, scores: Sequence[Scores], lengths_R: Ints) -> selection.Floats | None:
    """Return each row's value by the scores of scorer and reference, `(rows,)`; None where rows are drawn by lot."""
    if not scores:
        return None
    values_R = np.empty(len(lengths_R))
    others = scores[1].blocks() if len(scores) > 1 else None
    for rows, found in scores[0].blocks():
        nll_RT = found["nll"].astype(np.float64)
        if select.by == "salt_ds":
            values_R[rows] = selection.salt_ds(nll_RT, found["rank"], select.k, select.unlearnable)
        elif others is not None:
            values_R[rows] = selection.difference(nll_RT, next(others)[1]["nll"].astype(np.float64))
        else:
            values_R[rows] = selection.mean_loss(nll_RT)
    return values_R


def chosen_rows(select: recipe.Select, values_R: selection.Floats | None, rows: int, seed: int) -> selection.Mask:
    """Return which rows are kept, `(rows,)`."""
    if values_R is None:
        values_R = keyed_generator(seed, 6).permutation(rows).astype(np.float64)
    if select.band is not None:
        return selection.between(values_R, *select.band)
    return selection.highest(values_R, select.count(rows))


def token_excess(scorer: Scores, reference: Scores, lengths_R: Ints) -> tuple[selection.Floats, selection.Mask]:
    """Return how much higher each position's loss is by the scorer, and which positions predict a token, `(N,)`."""
    starts_R = np.cumsum(lengths_R) - lengths_R
    values_N, real_N = np.zeros(int(lengths_R.sum())), np.zeros(int(lengths_R.sum()), dtype=np.bool_)
    for (rows, ours), (_, theirs) in zip(scorer.blocks(), reference.blocks(), strict=True):
        place_RT = starts_R[rows, None] + np.arange(ours["nll"].shape[1])
        values_N[place_RT] = ours["nll"].astype(np.float64) - theirs["nll"]
        real_N[place_RT] = True
    return values_N, real_N


# --- what the report says

UNITS = {
    "salt_ds": "median loss of learnable tokens, nats",
    "difference": "log p of scorer minus reference, nats a token",
    "perplexity": "mean loss, nats a token",
    "excess": "loss of scorer minus reference, nats",
    "random": "",
}


def _facts(values: selection.Floats | None, kept: selection.Mask, unit: str, what: str) -> Json:
    """Sum a selection up: sizes, thresholds, a histogram of the values."""
    facts: Json = {"what": what, "kept": int(kept.sum()), "of": len(kept), "unit": unit}
    finite = values[np.isfinite(values)] if values is not None else np.empty(0)
    if values is None or not len(finite):
        return facts | {"lowest": None, "highest": None, "edges": [], "counts": [], "counts_kept": []}
    inside = values[kept & np.isfinite(values)]
    # The ends of the scale would otherwise be those of a few outliers.
    low, high = np.quantile(finite, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts, counts_kept = (np.histogram(part.clip(edges[0], edges[-1]), edges)[0] for part in (finite, inside))
    return facts | {
        "lowest": float(inside.min()) if len(inside) else None,
        "highest": float(inside.max()) if len(inside) else None,
        "edges": [float(edge) for edge in edges],
        "counts": counts.tolist(),
        "counts_kept": counts_kept.tolist(),
    }


def _examples(experiment: Experiment, source: BatchSource, rows: Ints, values: selection.Floats | None) -> list[Json]:
    """Return the beginnings of some rows, from the highest value to the lowest, evenly spaced."""
    if not len(rows):
        return []
    order = rows if values is None else rows[np.argsort(-values[rows], kind="stable")]
    picked = order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).round().astype(int))]
    return [
        {
            "row": int(row),
            "value": None if values is None or not np.isfinite(values[row]) else float(values[row]),
            "text": _text(experiment, source.rows.row(int(row), 0)[:EXAMPLE_TOKENS]),
        }
        for row in picked
    ]


def _bracketed(experiment: Experiment, source: BatchSource, kept: selection.Mask) -> list[Json]:
    """Return the beginnings of some rows, tokens whose prediction is learned between brackets."""
    starts = np.cumsum(source.row_lengths) - source.row_lengths
    found = []
    for row in np.unique(np.linspace(0, source.count - 1, EXAMPLES).round().astype(int)).tolist():
        tokens = source.rows.row(row, 0)[:EXAMPLE_TOKENS]
        # A position's target is the token after it.
        learned = np.append(False, kept[starts[row] : starts[row] + len(tokens) - 1])
        pieces = [_text(experiment, [token]) for token in tokens]
        text = "".join(f"[{piece}]" if is_learned else piece for piece, is_learned in zip(pieces, learned, strict=True))
        share = float(kept[starts[row] : starts[row] + source.row_lengths[row] - 1].mean())
        found.append({"row": row, "value": share, "text": text})
    return found


def _text(experiment: Experiment, tokens: Any) -> str:
    return str(experiment.data.tokenizer.decode(tokens)).replace("\n", " ")


def _name(scorer: recipe.Teacher | None) -> str | None:
    return None if scorer is None else str(scorer)


def _announce(experiment: Experiment, piece: Piece, index: int, found: Selection) -> None:
    """Say what was kept, and warn where the stage reads rows again."""
    plan, model = experiment.plan_of(piece.name), experiment.recipe.models[piece.name]
    facts, steps = found.facts, plan.ends[index] - (plan.ends[index - 1] if index else 0)
    console.print(
        f"{piece} stage {index + 1}: {facts['kept']:,} of {facts['of']:,} {facts['what']} selected by {facts['by']}"
        + (f", from {facts['lowest']:.3g} to {facts['highest']:.3g} ({facts['unit']})" if facts["edges"] else "")
    )
    passes = steps * model.optim.batch_rows / len(found.rows)
    if passes > 1:
        console.print(
            f"[yellow]{piece} stage {index + 1}: its {steps:,} steps read the {len(found.rows):,} selected rows "
            f"{passes:.1f} times; with {steps * model.optim.batch_rows:,} rows or more none would be repeated"
        )
