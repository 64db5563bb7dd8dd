"""Settings: which rows a stage learns from; see `recipe` for the whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tutelage.recipe.data import Count, Section, ShareOrPercent
from tutelage.recipe.teacher import Teacher

TAKES = {"salt_ds": {"scorer", "k", "unlearnable"}, "difference": {"scorer", "reference"},
         "perplexity": {"scorer", "band"}, "random": set(), "excess": {"scorer", "reference"}}  # fmt: skip
"""Settings of each way of selecting, beside its size."""


class Select(Section):
    """Rows or tokens chosen by what models made of them. See docs/selection.md."""

    by: Literal["salt_ds", "difference", "perplexity", "random", "excess"]
    """`salt_ds`: rows whose median loss is highest, tokens that the scorer cannot learn left out. `difference`: rows
    that the scorer finds likelier than the reference does (MiniPLM). `perplexity`: a band of rows by mean loss.
    `random`: as many rows at random, the control. `excess`: not rows but tokens, those whose loss falls most from the
    scorer (an early checkpoint) to the reference (a late one); the text of the others is no target (Rho-1)."""
    share: Annotated[ShareOrPercent, Field(gt=0)] | None = None
    """How many of the rows (of the tokens, for `excess`): `50%`. Or `rows`."""
    rows: Count | None = None
    """How many rows."""
    scorer: Teacher | None = None
    """Whose losses count: a model of this recipe (`small@step-200`), a folder or a hub id, as for `teachers`."""
    reference: Teacher | None = None
    """The model that the scorer is set against."""
    k: Count = 10
    """`salt_ds`: a token is learnable if it is among the scorer's k likeliest."""
    unlearnable: Literal["zero", "drop"] = "zero"
    """`salt_ds`: tokens that are not learnable count with a loss of zero, or are left out of the median."""
    band: tuple[ShareOrPercent, ShareOrPercent] | None = None
    """`perplexity`: from which share of the rows to which, in rising order of their mean loss: `[20%, 80%]`."""

    @model_validator(mode="after")
    def _settings_fit(self) -> Select:
        takes = TAKES[self.by]
        for key in ("scorer", "reference", "band"):
            if key in takes and getattr(self, key) is None:
                raise ValueError(f"`by: {self.by}` needs `{key}`")
        for key in sorted({"scorer", "reference", "k", "unlearnable", "band"} - takes):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` does not go with `by: {self.by}`; leave it out")
        if self.by == "perplexity" and (self.share is not None or self.rows is not None):
            raise ValueError("`band` decides how many rows are taken: leave out `share` and `rows`")
        if self.by == "excess" and self.rows is not None:
            raise ValueError("`by: excess` selects tokens: give `share`, not `rows`")
        if self.by != "perplexity" and (self.share is None) == (self.rows is None):
            raise ValueError("give the size of the selection: `share` (50%) or `rows`, one of them")
        if self.band is not None and self.band[0] >= self.band[1]:
            raise ValueError("the `band` is empty: give a lower and a higher share, as in [20%, 80%]")
        if self.reference is not None and self.reference == self.scorer:
            raise ValueError(f"scorer and reference are the same, {self.scorer}; name two models or checkpoints")
        return self

    @property
    def scorers(self) -> tuple[Teacher, ...]:
        """The models whose scores are needed."""
        return tuple(model for model in (self.scorer, self.reference) if model is not None)

    def count(self, rows: int) -> int:
        """Return how many of so many rows are taken; all of them where tokens are selected."""
        if self.by == "excess":
            return rows
        if self.band is not None:
            return round(self.band[1] * rows) - round(self.band[0] * rows)
        return self.rows if self.rows is not None else round((self.share or 0.0) * rows)
