"""A run is resolved once: everything after it is given the same plan, rows and specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage import api
from tutelage.corpus.batches import BatchSource
from tutelage.experiment import identity, plans, setup

SMALL = ["models.control.epochs=null", "models.control.steps=2", "models.control.evaluations=1"]


def test_quickstart_builds_one_source_plan_and_spec_per_run_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **more: Any) -> Any:
            built[name] += 1
            return function(*args, **more)

        return count

    monkeypatch.setattr(BatchSource, "__init__", counted("source", BatchSource.__init__))
    monkeypatch.setattr(plans, "plan", counted("plan", plans.plan))
    monkeypatch.setattr(setup, "resolve", counted("spec", identity.resolve))
    summary = api.run("quickstart", SMALL, tmp_path)
    assert summary is not None
    models, runs, splits = 2, 6, 3
    assert built["plan"] == models
    assert built["spec"] == runs
    # Each model's training rows, and the held-out rows of `val` and `test`, which all causal models share.
    assert built["source"] == models + splits - 1
