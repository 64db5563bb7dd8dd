"""The scores of a model for the training rows: one pass that says of every token how likely it was; and its verb.

Scores lie in `runs/<recipe>/scores/<first digits of their content's fingerprint>/`, shared by all students and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.progress import console, duration, human
from tutelage.corpus.tokens import TokenStore
from tutelage.experiment.filling import filled
from tutelage.experiment.loading import ensemble_of, scoring_precision, weights_digest
from tutelage.experiment.setup import Experiment
from tutelage.models.build import attention
from tutelage.recipe import Teacher
from tutelage.teaching import selection
from tutelage.teaching.keys import key_of
from tutelage.teaching.scores import Scores, folder_of
from tutelage.teaching.teachers import Ensemble
from tutelage.training.execution import ExecutionMode

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TOP = 10
"""A token is learnable, as SALT_DS has it, if it is among so many likeliest."""


@dataclass(frozen=True)
class ScoreReport:
    """What a model makes of the training rows.

    Attributes:
        folder: where the scores lie.
        model: as it was named.
        tokens: predicted ones; their mean `loss` and `entropy` are in nats.
        top: share of tokens among the `TOP` likeliest.
        losses: mean losses of rows at `QUANTILES`.
        medians: rows' median losses of learnable tokens (SALT_DS) at `QUANTILES`.
        bytes: on disk.
        seconds: that the pass took, whenever it was.
    """

    folder: Path
    model: str
    rows: int
    tokens: int
    loss: float
    entropy: float
    top: float
    losses: tuple[float, ...]
    medians: tuple[float, ...]
    bytes: int
    seconds: float

    def __str__(self) -> str:
        def at_quantiles(values: tuple[float, ...]) -> str:
            return ", ".join(f"{100 * q:g} % {value:.3f}" for q, value in zip(QUANTILES, values, strict=True))

        return (
            f"{self.model}: {self.tokens:,} tokens in {self.rows:,} rows, scored in {duration(self.seconds)}\n"
            f"loss {self.loss:.4f} nats a token, entropy {self.entropy:.4f}, "
            f"{100 * self.top:.1f} % of the tokens among the {TOP} likeliest\n"
            f"mean loss of a row, quantiles: {at_quantiles(self.losses)}\n"
            f"median of its learnable tokens (salt_ds, k = {TOP}): {at_quantiles(self.medians)}\n"
            f"kept in {self.folder} ({human(self.bytes)}B)"
        )


def scores_of(experiment: Experiment, scorer: Teacher, folder: Path | None = None) -> Scores:
    """Return the scores of a trained model for the training rows, not yet open.

    They lie in the folder, among the recipe's scores unless given.
    """
    # What is kept of the rows must be of these very rows.
    store = TokenStore.open(experiment.folder / "data", "train", verify=True)
    source = experiment.rows.unmasked
    if source.shifts:
        raise UserError("scores are of rows that read alike in every epoch; take data.rows.chunking=fixed")
    key = key_of(experiment.recipe.data, store, source, [weights_digest(experiment, scorer)])
    precision = scoring_precision(experiment, scorer)
    folder = folder or folder_of(experiment.folder / "scores", key, precision)

    def load(compiled: bool) -> Ensemble:
        return ensemble_of(experiment, [scorer], "causal", mode=ExecutionMode(attention(), compiled=compiled))

    return Scores(folder, key, source, load, precision)


@contextmanager
def scored(experiment: Experiment, scorer: Teacher, folder: Path | None = None) -> Iterator[Scores]:
    """Open the scores of a model for reading; first complete them where rows are missing.

    Raises:
        UserError: the scorer is not trained, the folder holds something else, or something damaged.
        Interrupted: SIGTERM or SIGINT came; what was computed is kept.
    """
    group, scores = experiment.group, scores_of(experiment, scorer, folder)

    def fill(stopped: Callable[[], bool]) -> bool:
        if group.is_main:
            console.print(f"scoring all training rows by {scorer}, kept in {scores.folder}")
        if not scores.build(group.device, group.rank, group.size, stopped, f"score {scorer}"):
            return False
        group.barrier()
        if group.is_main:
            console.print(f"scores of {scorer} complete in {duration(scores.seconds)}")
        return True

    what = f"the scores of {scorer}"
    with filled(scores, group, what, scores.create, lambda: not scores.complete, lambda: scores.complete, fill):
        yield scores


def score(experiment: Experiment, scorer: Teacher, folder: Path | None = None) -> ScoreReport:
    """Score the training rows by a model, or go on with it, and sum up what is there.

    Scores are kept in the folder; where selections of this recipe look for them unless given.
    """
    with scored(experiment, scorer, folder) as scores:
        tokens, loss, entropy, top = 0, 0.0, 0.0, 0
        losses_R, medians_R = np.empty((2, scores.source.count))
        for rows, found in scores.blocks():
            nll_RT = found["nll"].astype(np.float64)
            tokens += nll_RT.size
            loss += float(nll_RT.sum())
            entropy += float(found["entropy"].sum(dtype=np.float64))
            top += int((found["rank"] <= TOP).sum())
            losses_R[rows] = nll_RT.mean(axis=1)
            medians_R[rows] = selection.salt_ds(nll_RT, found["rank"], TOP)
        return ScoreReport(
            folder=scores.folder,
            model=str(scorer),
            rows=scores.source.count,
            tokens=tokens,
            loss=loss / tokens,
            entropy=entropy / tokens,
            top=top / tokens,
            losses=tuple(np.quantile(losses_R, QUANTILES).tolist()),
            medians=tuple(np.quantile(medians_R, QUANTILES).tolist()),
            bytes=sum(path.stat().st_size for path in scores.folder.iterdir() if path.is_file()),
            seconds=scores.seconds,
        )
