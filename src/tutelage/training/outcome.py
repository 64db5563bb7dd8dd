"""What a training came to: losses on held-out text, where a gate let the teachers in, and `finished.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt

from tutelage.base.checksums import FileDigest, read_checked, write_checked
from tutelage.base.errors import UserError

if TYPE_CHECKING:
    # Needs torch, which reports do without.
    from tutelage.models.cost import Cost


@dataclass(frozen=True)
class HeldOut:
    """How well held-out text is predicted."""

    loss: float
    """Cross-entropy in nats per predicted token."""
    perplexity: float | None = None
    bits_per_byte: float | None = None
    """The same information per byte of text, comparable between tokenizers."""
    tokens: Annotated[NonNegativeInt | None, Field(exclude=True)] = None
    """Predicted tokens; a run has their number, a summary leaves it out."""


@dataclass(frozen=True)
class GateBin:
    """Tokens of about the same difficulty, and how much of the teachers' weight a gate let through there.

    Losses and entropy are in nats per token, at the divergence's temperature.
    """

    loss: float
    """The teachers'."""
    student: float
    """The student's loss."""
    entropy: float
    """The teachers'."""
    gate_weight: Annotated[float, Field(ge=0, le=1)]
    """The gate's mean weight."""
    tokens: NonNegativeInt


@dataclass(frozen=True)
class GateStage:
    """A stage with a gate: its number, counted from 0, and parts of the tokens from the easiest for the teachers on."""

    stage: int
    bins: list[GateBin]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `finished.json` of a run folder holds; its being there says that training is over."""

    steps: int
    """Of the optimizer."""
    tokens: int
    """Read, repeats included; words likewise."""
    words: int
    epochs: float
    """Passes over the training split."""
    seconds: float
    """Of wall time, caches and scoring for selections included."""
    seconds_teaching: float | None
    """The part in which teachers were asked; None on a GPU, where it cannot be told."""
    seconds_ahead: float
    """The part before the first step."""
    flops: float
    """Of the model's own training."""
    teacher_flops: float
    """Of its teachers' forward passes."""
    seconds_scoring: float
    """The part of `seconds` in which rows were scored for selections."""
    scoring_flops: float
    """Of these passes."""
    clip_rate: float
    """Share of steps whose gradient was clipped."""
    best_step: int
    """The step whose checkpoint was kept."""
    val: HeldOut
    """Its held-out loss."""
    cost: Cost
    architecture: str
    """As transformers names it."""
    gate_report: list[GateStage] = field(default_factory=list)
    heads: dict[str, Any] | None = None
    """Of the tasks, if the model has some: `parameters`, and the names of the `tasks`."""
    files: dict[str, FileDigest] | None = None
    """Digests of what else the run folder keeps for good, by name: the files of `hf/`, the metrics and the clock
    readings. None where an earlier version finished the run."""

    def write(self, path: Path) -> None:
        """Write the record, atomically; without gates, heads or digests, without their keys."""
        optional = ("gate_report", "heads", "files")
        write_checked(path, {key: value for key, value in asdict(self).items() if key not in optional or value})

    @classmethod
    def read(cls, path: Path) -> Finished:
        """Read a record that `write` wrote.

        Raises:
            UserError: it is damaged.
        """
        from tutelage.models.cost import Cost

        remedy = "delete it and run again, which writes it anew from the last checkpoint"
        value = read_checked(path, remedy)
        try:
            gates = [
                GateStage(g["stage"], [GateBin(**part) for part in g["bins"]]) for g in value.get("gate_report", [])
            ]
            parts = {"val": HeldOut(**value["val"]), "cost": Cost(**value["cost"]), "gate_report": gates}
            if value.get("files") is not None:
                parts["files"] = {name: FileDigest(**digest) for name, digest in value["files"].items()}
            return cls(**value | parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} lacks what a finished run has ({error}): {remedy}") from error
