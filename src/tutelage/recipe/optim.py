"""Settings: the optimizer, its schedule, and averages of the weights; see `recipe`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tutelage.recipe.data import Count, Section, Share

Decay = Annotated[float, Field(ge=0, lt=1)]


class MuonSettings(Section):
    """How Muon treats the matrices inside a model's layers."""

    other_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of all else (embeddings, output layer, norms, biases), by AdamW; `lr` unless given."""
    momentum: Decay = 0.95
    """Decay rate of the momentum."""
    steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz steps; fewer are faster and less orthogonal."""
    scale: Literal["rms", "spectral"] = "rms"
    """Size of an update: `rms` that of AdamW's, so that its `lr` serves; `spectral` as at first published (lr 0.02)."""
    normalise: bool = False
    """NorMuon: rows are divided by their running size, whose decay rate is the second of `betas`; the size is `rms`."""
    heads: bool = False
    """Make each head's queries, keys and values orthogonal by itself."""
    cautious: bool = False
    """Decay only weights that the update moves towards zero."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which momentum is made orthogonal; bfloat16 is faster on GPUs and on processors that have it."""


class Optim(Section):
    """The optimizer and its schedule."""

    kind: Literal["adamw", "muon"] = "adamw"
    """Which optimizer; `muon` is for the matrices inside the layers, and AdamW then for all else."""
    muon: MuonSettings = MuonSettings()
    """Settings of `kind: muon`."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate."""
    batch_rows: Count = 32
    """Rows in one optimizer step, over all processes and micro-batches."""
    micro_batch_rows: Count | None = None
    """Rows in memory at once in one process; all unless given. The result depends on it by dropout's draws only."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Learning rate after the warm-up; all but `constant` end at `final_lr` of the peak."""
    decay_share: Share = 0.2
    """Share of the run over which `wsd` (warm-up, stable, decay) falls, linearly."""
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of matrices and embeddings; biases and norms have none."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null switches clipping off."""


class Average(Section):
    """An average of the weights over training; a name (`ema`) stands for `{kind: ema}`."""

    kind: Literal["ema", "tail"]
    """`ema`: exponential moving average of the weights after each step. `tail`: their mean over the end of the run."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """What the average keeps of itself at each step (`ema`); less in the first steps."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The last share of the run that is averaged (`tail`)."""

    @model_validator(mode="before")
    @classmethod
    def _name_is_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value
