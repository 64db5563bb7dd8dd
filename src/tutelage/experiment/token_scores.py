"""The verb `score`: one pass of a model over the training rows, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage import recipe
from tutelage.base.progress import duration, human
from tutelage.experiment import selections
from tutelage.experiment.setup import Experiment

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TOP = 10
"""A token is learnable, as SALT_DS has it, if it is among so many likeliest."""


@dataclass(frozen=True)
class ScoreReport:
    """What a model makes of the training rows.

    Attributes:
        folder: where the scores lie.
        model: as it was named.
        rows: how many there are.
        tokens: predicted tokens.
        loss: mean over them, in nats.
        entropy: mean of the predictions', in nats.
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
        """Write a few lines."""

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


def score(experiment: Experiment, scorer: recipe.Teacher, folder: Path | None = None) -> ScoreReport:
    """Score the training rows by a model, or go on with it, and sum up what is there.

    Args:
        experiment: whose rows, and perhaps whose model.
        scorer: a trained model of the recipe, a folder or a hub id.
        folder: where to keep the scores; where selections of this recipe look for them unless given.
    """
    with selections.scored(experiment, scorer, folder) as scores:
        medians = selections.row_values(
            recipe.Select(by="salt_ds", scorer=scorer, k=TOP, share=0.5), [scores], scores.source.row_lengths
        )
        tokens, loss, entropy, top, losses = 0, 0.0, 0.0, 0, np.empty(scores.source.count)
        for rows, found in scores.blocks():
            nll_RT = found["nll"].astype(np.float64)
            tokens += nll_RT.size
            loss += float(nll_RT.sum())
            entropy += float(found["entropy"].sum(dtype=np.float64))
            top += int((found["rank"] <= TOP).sum())
            losses[rows] = nll_RT.mean(axis=1)
        assert medians is not None
        return ScoreReport(
            folder=scores.folder,
            model=str(scorer),
            rows=scores.source.count,
            tokens=tokens,
            loss=loss / tokens,
            entropy=entropy / tokens,
            top=top / tokens,
            losses=tuple(float(value) for value in np.quantile(losses, QUANTILES)),
            medians=tuple(float(value) for value in np.quantile(medians, QUANTILES)),
            bytes=sum(path.stat().st_size for path in scores.folder.iterdir() if path.is_file()),
            seconds=scores.seconds,
        )
