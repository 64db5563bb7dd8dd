"""What a training came to: losses on held-out text, where a gate let the teachers in, and `finished.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt

from tutelage.base.files import read_json, write_json

if TYPE_CHECKING:
    # Needs torch, which reports do without.
    from tutelage.models.cost import Cost


@dataclass(frozen=True)
class HeldOut:
    """How well held-out text is predicted.

    Attributes:
        loss: cross-entropy in nats per predicted token.
        perplexity: its exponential.
        bits_per_byte: the same information per byte of text, comparable between tokenizers.
        tokens: predicted tokens; a run has their number, a summary leaves it out.
    """

    loss: float
    perplexity: float | None = None
    bits_per_byte: float | None = None
    tokens: Annotated[NonNegativeInt | None, Field(exclude=True)] = None


@dataclass(frozen=True)
class GateBin:
    """Tokens of about the same difficulty, and how much of the teachers' weight a gate let through there.

    Attributes:
        loss: the teachers', in nats per token at the divergence's temperature.
        student: the student's loss, likewise.
        entropy: the teachers', in nats per token.
        gate_weight: the gate's mean weight.
        tokens: how many.
    """

    loss: float
    student: float
    entropy: float
    gate_weight: Annotated[float, Field(ge=0, le=1)]
    tokens: NonNegativeInt


@dataclass(frozen=True)
class GateStage:
    """A stage with a gate: its number, counted from 0, and parts of the tokens from the easiest for the teachers on."""

    stage: int
    bins: list[GateBin]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `finished.json` of a run folder holds; its being there says that training is over.

    Attributes:
        steps: of the optimizer.
        tokens: read, repeats included.
        words: likewise.
        epochs: passes over the training split.
        seconds: of wall time, caches and scoring for selections included.
        seconds_teaching: the part in which teachers were asked; None on a GPU, where it cannot be told.
        seconds_ahead: the part before the first step.
        flops: of the model's own training.
        teacher_flops: of its teachers' forward passes.
        seconds_scoring: the part of `seconds` in which rows were scored for selections.
        scoring_flops: of these passes.
        clip_rate: share of steps whose gradient was clipped.
        best_step: the step whose checkpoint was kept.
        val: its held-out loss.
        cost: size and arithmetic of the model.
        architecture: as transformers names it.
        gate_report: of the stages with a gate.
        heads: of the tasks, if the model has some: `parameters`, and the names of the `tasks`.
    """

    steps: int
    tokens: int
    words: int
    epochs: float
    seconds: float
    seconds_teaching: float | None
    seconds_ahead: float
    flops: float
    teacher_flops: float
    seconds_scoring: float
    scoring_flops: float
    clip_rate: float
    best_step: int
    val: HeldOut
    cost: Cost
    architecture: str
    gate_report: list[GateStage] = field(default_factory=list)
    heads: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON; without gates or heads, without their keys."""
        optional = ("gate_report", "heads")
        return {key: value for key, value in asdict(self).items() if key not in optional or value}

    def write(self, path: Path) -> None:
        """Write the record, atomically."""
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> Finished:
        """Read a record that `write` wrote."""
        from tutelage.models.cost import Cost

        value = read_json(path)
        gates = [
            GateStage(one["stage"], [GateBin(**part) for part in one["bins"]]) for one in value.get("gate_report", [])
        ]
        parts = {"val": HeldOut(**value["val"]), "cost": Cost(**value["cost"]), "gate_report": gates}
        return cls(**value | parts)
