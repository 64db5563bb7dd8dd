"""Settings: how much teachers count, and when: schedules of weight and temperature, gates; see `recipe`."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from tutelage.recipe.data import Kinds, Section, Share
from tutelage.recipe.words import read_words

_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_COUNT = re.compile(r"([1-9]\d*[KMB]?) (tokens|words)")


class Length(NamedTuple):
    """A length of training as it is written.

    Attributes:
        amount: how much; a share is between 0 and 1.
        unit: of what.
    """

    amount: float
    unit: Literal["share", "steps", "tokens", "words"]


def read_length(written: str | int) -> Length:
    """Read `17%` (of the run), `2000` (steps), `5M tokens` or `1M words`; refuse with `ValueError` what is none."""
    if isinstance(written, int):
        found = Length(written, "steps")
    elif match := _SHARE.fullmatch(written):
        found = Length(float(match[1]) / 100, "share")
    elif match := _COUNT.fullmatch(written):
        found = Length(read_words(match[1]), "tokens" if match[2] == "tokens" else "words")
    else:
        ways = "a share like 17%, a number of steps nor a count like 5M tokens or 1M words"
        raise ValueError(f"'{written}' is neither {ways}")
    if found.amount <= 0:
        raise ValueError(f"a length of {written} is none; give more, or leave it out")
    return found


def _is_length(written: str | int) -> str | int:
    read_length(written)
    return written


Span = Annotated[str | int, AfterValidator(_is_length)]
"""A length of training: `17%` of the run, `2000` steps, `5M tokens`, `1M words`."""


class WeightScheduleSettings(Kinds):
    """How a teacher's weight falls to nothing over a stage; a word stands for `{kind: word}`. See docs/methods.md."""

    goes_with: ClassVar = {"warmup": "wsd", "decay": "wsd"}
    kind: Literal["step", "linear", "cosine", "wsd", "ratio_linear"]
    """`step`: whole, then nothing (SALT). `linear`, `cosine`: falls from the start. `wsd`: warm-up, stable, decay.
    `ratio_linear`: what falls in a straight line is its ratio to the text's weight."""
    over: Span | None = None
    """Length from the stage's start to where the weight is zero and the teacher is released: `30%` of the run, steps,
    `5M tokens`, `1M words`. To the stage's end unless given; `step` needs it."""
    warmup: Span | None = None
    """`wsd`: length of the rise from nothing to the whole weight; none unless given."""
    decay: Span | None = None
    """`wsd`: length of the fall at the end of `over`, in a straight line; a fifth of it unless given."""

    @model_validator(mode="after")
    def _step_has_an_end(self) -> WeightScheduleSettings:
        if self.kind == "step" and self.over is None:
            raise ValueError("`kind: step` needs `over`: until when the teacher teaches")
        return self


class TemperatureScheduleSettings(Section):
    """A temperature that changes over a stage."""

    start: Annotated[float, Field(gt=0)]
    """At the stage's start."""
    end: Annotated[float, Field(gt=0)]
    """At the end of `over`, and from there on."""
    kind: Literal["linear", "cosine"] = "linear"
    """The way from one to the other."""
    over: Span | None = None
    """Length from the stage's start; as long as the teachers have weight unless given."""


class GateSettings(Kinds):
    """How much teachers count at each token; what their weight loses, the text's gains. A word stands for
    `{kind: word}`. See docs/methods.md."""

    goes_with: ClassVar = {"share": "skip_certain", "scale": "advantage"}
    kind: Literal["skip_certain", "advantage", "confidence"]
    """`skip_certain`: not where they are surest, since the text tells as much there. `advantage`: more where they
    predict the next token better than the student does. `confidence`: more where they are surer."""
    share: Share = 0.15
    """`skip_certain`: the share of each row's tokens, those of lowest entropy, at which they do not count."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """`advantage`: the weight is the logistic function of the student's loss less the teachers', in nats, over this."""
