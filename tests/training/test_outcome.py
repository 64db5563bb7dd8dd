"""The record of a finished training is read as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tutelage.models.cost import Cost
from tutelage.training.outcome import Finished, GateBin, GateStage, HeldOut

PLAIN = Finished(
    steps=10, tokens=1000, words=700, epochs=1.5, seconds=3.0, seconds_teaching=None, seconds_ahead=0.0, flops=1e9,
    teacher_flops=0.0, seconds_scoring=0.0, scoring_flops=0.0, clip_rate=0.1, best_step=8,
    val=HeldOut(3.0, 20.1, 1.2, 400), cost=Cost(10, 2, 1.0, 3.0, 8, 64.0), architecture="llama",
)  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "gate_report": [GateStage(0, [GateBin(1.0, 1.1, 0.9, 0.5, 40)])],
            "heads": {"parameters": 4, "tasks": ["topic"]},
        },
    ],
)
def test_what_is_read_is_what_was_written(more: dict, tmp_path: Path) -> None:
    record = Finished(**{name: getattr(PLAIN, name) for name in PLAIN.__dataclass_fields__} | more)
    record.write(tmp_path / "finished.json")
    assert Finished.read(tmp_path / "finished.json") == record
    written = json.loads((tmp_path / "finished.json").read_text())
    assert {"gate_report", "heads"} & written.keys() == more.keys()
    assert written["val"]["tokens"] == 400
