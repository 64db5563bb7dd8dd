"""The selection of a stage: which rows or tokens it keeps by the scores of models, and what the report says of that.

What was selected lies in the run's own folder, `selections/stage-<n>.npz` and `.json`; a run that resumes, or a report,
reads it from there.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tutelage import recipe
from tutelage.base.checksums import read_checked, write_checked
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, sha256, write_bytes
from tutelage.base.progress import console
from tutelage.base.run_folder import RunFolder
from tutelage.base.types import Bools, Floats, Ints, Json
from tutelage.corpus.batches import BatchSource, keyed_generator
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.loading import weights_digest
from tutelage.experiment.setup import Experiment
from tutelage.experiment.token_scores import scored
from tutelage.teaching import selection
from tutelage.teaching.scores import Scores

BINS = 40
EXAMPLES = 3
"""Texts shown of what was kept and of what was dropped."""
EXAMPLE_TOKENS = 40
TIES_TOLD, TIES_REFUSED = 0.01, 0.5
"""Shares of what is kept that equal something left out: told from the one on, refused beyond the other."""
TIES_STREAM = 7
"""Of the random numbers that decide between equal values; see `keyed_generator`."""
UNITS = {
    "salt_ds": "median loss of learnable tokens, nats",
    "difference": "log p of scorer minus reference, nats a token",
    "perplexity": "mean loss, nats a token",
    "excess": "loss of scorer minus reference, nats",
    "random": "",
}


@dataclass(frozen=True)
class Selection:
    """What a stage learns from, and what the report says of it.

    `rows` rise; `targets` says which positions of all rows keep their target, None where all do.
    """

    rows: Ints
    targets: Bools | None
    facts: Json


def select_ahead(experiment: Experiment, run: TrainingRun) -> tuple[dict[int, Selection], float]:
    """Return the selections of a run by the index of their stage, and the seconds that their scores took."""
    group, folder = experiment.group, run.folder
    found: dict[int, Selection] = {}
    seconds: dict[str, float] = {}
    for index, stage in enumerate(run.model.stages):
        if stage.select is None:
            continue
        key = _key(experiment, stage.select)
        if group.from_main(not _path(folder, index).with_suffix(".json").is_file()):
            _choose(experiment, run, index, stage.select, key)
        group.barrier()
        found[index] = read(folder, index, key)
        seconds |= found[index].facts["scoring_seconds"]
        if group.is_main:
            _announce(run, index, found[index])
    return found, sum(seconds.values())


def read(folder: RunFolder, index: int, key: str | None = None) -> Selection:
    """Read what a run selected for a stage.

    Raises:
        UserError: it was damaged, or selected by something else than the key if one is given.
    """
    path = _path(folder, index)
    remedy = f"delete {folder.path} and run again"
    facts = read_checked(path.with_suffix(".json"), remedy)
    if key is not None and facts["key"] != key:
        raise UserError(f"{path} was selected by other scores or settings than this recipe's: {remedy}")
    if not path.is_file() or sha256(path) != facts["sha256"]:
        raise UserError(f"{path} is missing or not what was written: {remedy}")
    with np.load(path, allow_pickle=False) as arrays:
        bits = np.unpackbits(arrays["targets"], count=facts["positions"]) if "targets" in arrays else None
        return Selection(arrays["rows"], None if bits is None else bits.astype(bool), facts)


def facts_of(run: TrainingRun) -> list[Json]:
    """Return what the report says of a finished run's selections."""
    hidden = ("key", "sha256", "positions", "scoring_seconds")
    facts = [
        read(run.folder, index).facts | {"stage": index + 1} for index, s in enumerate(run.model.stages) if s.select
    ]
    return [{key: value for key, value in fact.items() if key not in hidden} for fact in facts]


def _key(experiment: Experiment, select: recipe.Select) -> str:
    data, store = experiment.recipe.data, experiment.data.train
    identities = [weights_digest(experiment, scorer) for scorer in select.scorers]
    asked, rows = select.model_dump(mode="json"), data.rows.model_dump(mode="json")
    return fingerprint([asked, identities, store.digest, store.tokenizer_id, rows, data.seed])


def _path(folder: RunFolder, index: int) -> Path:
    return folder.path / "selections" / f"stage-{index + 1}.npz"


def _choose(experiment: Experiment, run: TrainingRun, index: int, select: recipe.Select, key: str) -> None:
    """Select for a stage and write that down; all processes of a group together, for they score together."""
    source, tokenizer, path = run.plan.source, experiment.data.tokenizer, _path(run.folder, index)
    with ExitStack() as stack:
        scores = [stack.enter_context(scored(experiment, scorer)) for scorer in select.scorers]
        if not experiment.group.is_main:
            return
        if select.by == "excess":
            arrays, facts = _choose_tokens(select, scores, source, tokenizer, experiment.recipe.data.seed)
        else:
            arrays, facts = _choose_rows(select, scores, source, tokenizer, experiment.recipe.data.seed)
        seconds = {str(scorer): one.seconds for scorer, one in zip(select.scorers, scores, strict=True)}
    _refuse_ties(f"{run} stage {index + 1}", select, facts)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, buffer.getvalue())
    names = (None if one is None else str(one) for one in (select.scorer, select.reference))
    about = {"by": select.by, **dict(zip(("scorer", "reference"), names, strict=True))}
    positions = int(source.row_lengths.sum())
    whole = {"key": key, "sha256": sha256(path), "positions": positions, "scoring_seconds": seconds}
    # Last: it is what says that the selection was made.
    write_checked(path.with_suffix(".json"), whole | about | facts)


def _choose_rows(
    select: recipe.Select, scores: Sequence[Scores], source: BatchSource, tokenizer: PreTrainedTokenizerFast, seed: int
) -> tuple[dict[str, Any], Json]:
    values_R = row_values(select, scores, source.row_lengths)
    kept_R = chosen_rows(select, values_R, source.count, seed)
    texts = {
        f"texts_{which}": _examples(tokenizer, source, np.flatnonzero(part_R), values_R)
        for which, part_R in (("kept", kept_R), ("dropped", ~kept_R))
    }
    return {"rows": np.flatnonzero(kept_R)}, _facts(values_R, kept_R, UNITS[select.by], "rows") | texts


def _choose_tokens(
    select: recipe.Select, scores: Sequence[Scores], source: BatchSource, tokenizer: PreTrainedTokenizerFast, seed: int
) -> tuple[dict[str, Any], Json]:
    excess_N, real_N = token_excess(scores[0], scores[1], source.row_lengths)
    kept_N = np.zeros(len(excess_N), dtype=np.bool_)
    count = max(1, round((select.share or 0.0) * int(real_N.sum())))
    kept_N[real_N] = selection.highest(excess_N[real_N], count, keyed_generator(seed, TIES_STREAM))
    facts = _facts(excess_N[real_N], kept_N[real_N], UNITS[select.by], "tokens")
    texts = {"texts_kept": _bracketed(tokenizer, source, kept_N), "texts_dropped": []}
    return {"rows": np.arange(source.count), "targets": np.packbits(kept_N)}, facts | texts


def row_values(select: recipe.Select, scores: Sequence[Scores], lengths_R: Ints) -> Floats | None:
    """Return each row's value by the scores of scorer and reference, `(rows,)`; None where rows are drawn at random."""
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


def chosen_rows(select: recipe.Select, values_R: Floats | None, rows: int, seed: int) -> Bools:
    """Return which rows are kept, `(rows,)`."""
    if values_R is None:
        values_R = keyed_generator(seed, 6).permutation(rows).astype(np.float64)
    draw = keyed_generator(seed, TIES_STREAM)
    if select.band is not None:
        return selection.between(values_R, *select.band, draw)
    return selection.highest(values_R, select.count(rows), draw)


def token_excess(scorer: Scores, reference: Scores, lengths_R: Ints) -> tuple[Floats, Bools]:
    """Return how much higher each position's loss is by the scorer, and which positions predict a token, `(N,)`."""
    starts_R = np.cumsum(lengths_R) - lengths_R
    size = int(lengths_R.sum())
    values_N, real_N = np.zeros(size), np.zeros(size, dtype=np.bool_)
    for (rows, ours), (_, theirs) in zip(scorer.blocks(), reference.blocks(), strict=True):
        place_RT = starts_R[rows, None] + np.arange(ours["nll"].shape[1])
        values_N[place_RT] = ours["nll"].astype(np.float64) - theirs["nll"]
        real_N[place_RT] = True
    return values_N, real_N


# --- what the report says


def _facts(values: Floats | None, kept: Bools, unit: str, what: str) -> Json:
    """Sum a selection up: sizes, ties, thresholds, a histogram of the values."""
    facts: Json = {"what": what, "kept": int(kept.sum()), "of": len(kept), "unit": unit}
    facts["ties"] = 0 if values is None else selection.ties(values, kept)
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
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "counts_kept": counts_kept.tolist(),
    }


def _examples(tokenizer: PreTrainedTokenizerFast, source: BatchSource, rows: Ints, values: Floats | None) -> list[Json]:
    """Return the beginnings of some rows, from the highest value to the lowest, evenly spaced."""
    if not len(rows):
        return []
    order = rows if values is None else rows[np.argsort(-values[rows], kind="stable")]
    picked = order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).round().astype(int))]
    return [
        {
            "row": int(row),
            "value": None if values is None or not np.isfinite(values[row]) else float(values[row]),
            "text": _text(tokenizer, source.rows.row(int(row), 0)[:EXAMPLE_TOKENS]),
        }
        for row in picked
    ]


def _bracketed(tokenizer: PreTrainedTokenizerFast, source: BatchSource, kept: Bools) -> list[Json]:
    """Return the beginnings of some rows, tokens whose prediction is learned between brackets."""
    starts = np.cumsum(source.row_lengths) - source.row_lengths
    found = []
    for row in np.unique(np.linspace(0, source.count - 1, EXAMPLES).round().astype(int)).tolist():
        tokens = source.rows.row(row, 0)[:EXAMPLE_TOKENS]
        # A position's target is the token after it.
        learned = np.append(False, kept[starts[row] : starts[row] + len(tokens) - 1])
        texts = [_text(tokenizer, [token]) for token in tokens]
        text = "".join(f"[{part}]" if is_learned else part for part, is_learned in zip(texts, learned, strict=True))
        share = float(kept[starts[row] : starts[row] + source.row_lengths[row] - 1].mean())
        found.append({"row": row, "value": share, "text": text})
    return found


def _text(tokenizer: PreTrainedTokenizerFast, tokens: Any) -> str:
    return str(tokenizer.decode(tokens)).replace("\n", " ")


def _refuse_ties(stage: str, select: recipe.Select, facts: Json) -> None:
    """Refuse a selection that is mostly chance.

    Raises:
        UserError: more than half of what is kept has the same value as something that is left out.
    """
    if facts["ties"] > TIES_REFUSED * facts["kept"]:
        remedy = "take a scorer that has trained longer, or a smaller `share`"
        remedy += ", a larger `k` or `unlearnable: drop`" if select.by == "salt_ds" else ""
        raise UserError(
            f"{stage}: select by {select.by} cannot decide: {facts['ties']:,} of the {facts['kept']:,} {facts['what']} "
            f"it would keep have the same value as {facts['what']} it would leave out; {remedy}"
        )


def _announce(run: TrainingRun, index: int, found: Selection) -> None:
    """Say what was kept, and warn where the stage reads rows again."""
    facts, steps = found.facts, run.plan.steps.ends[index] - run.plan.steps.start_of(index)
    stage, read_rows, rows = f"{run} stage {index + 1}", steps * run.model.optim.batch_rows, len(found.rows)
    ends = f", from {facts['lowest']:.3g} to {facts['highest']:.3g} ({facts['unit']})" if facts["edges"] else ""
    what = f"{facts['kept']:,} of {facts['of']:,} {facts['what']}"
    console.print(f"{stage}: {what} selected by {facts['by']}{ends}")
    if facts["ties"] > TIES_TOLD * facts["kept"]:
        console.print(
            f"[yellow]{stage}: {facts['ties']:,} of what is kept has the same value as {facts['what']} left out; which "
            "of them was drawn at random"
        )
    if read_rows > rows:
        console.print(
            f"[yellow]{stage}: its {steps:,} steps read the {rows:,} selected rows {read_rows / rows:.1f} times; with "
            f"{read_rows:,} rows or more none would be repeated"
        )
