"""Between two looks, a training step reads no number from a tensor that would be on a GPU: the host need not wait.

`test_gpu.py` shows the same on the device itself. Here, whatever reads is noted from the moment a batch has been copied
to the device until the next batch is asked for.
"""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tutelage import recipe
from tutelage.base.run_folder import RunFolder
from tutelage.corpus.batches import Batch, BatchSource
from tutelage.models.language_model import LanguageModel
from tutelage.teaching import prefetch
from tutelage.training import loop
from tutelage.training.execution import ExecutionMode
from tutelage.training.objectives import Learner
from tutelage.training.parallel import Group
from tutelage.training.plan import Plan

STEPS = 6


def notes(bench, monkeypatch, folder: Path, reading, how: str, attention: str, micro_rows: int | None = None) -> list:
    """Train for some steps; return what was read inside each."""
    masked = how == "masked"
    source, noted = bench.source(masked=masked), []
    stage = {"teachers": ["t"], "objectives": {"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}}}
    if masked:
        stage["objectives"] = {"masked": {"rate": 0.3}, "distill": {"weight": 0.5, "temperature": 2}}
    model = recipe.Model.model_validate({"preset": "llama-1m", "steps": STEPS, "stages": [stage],
                                         "optim": {"batch_rows": 4, "micro_batch_rows": micro_rows}})  # fmt: skip
    if how == "ahead":
        monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cpu", 4 * 4 * 16)
    monkeypatch.setitem(loop.SYNC_EVERY, "cpu", 16)
    # For CPUs alone, and not what a GPU does.
    monkeypatch.setattr(LanguageModel, "sparse_embedding_grad", lambda self: None)
    mode = ExecutionMode(attention)

    def teachers(_: int):
        if how in ("live", "ahead", "masked"):
            found = bench.teachers(masked=masked)
            for one in found.models:
                mode.apply(one)
            return found
        return bench.built(bench.cache(how, source, T=2.0))

    student = "modernbert" if masked else "gpt2"
    watching = ExitStack()
    original_to, original_batch, original_used = Batch.to, BatchSource.batch, loop.used_positions

    def to(self, device):
        found = original_to(self, device)
        watching.close()
        noted.append(watching.enter_context(reading()))
        return found

    def batch(self, step):
        watching.close()
        return original_batch(self, step)

    def used(micro, distills):
        watching.close()  # of the next micro-batch, on the host
        return original_used(micro, distills)

    teacher_source = teachers(0)  # a cache is filled before
    job = loop.Job("x", model, 0, source, source, 1.0, Plan(STEPS, (STEPS,), frozenset()), frozenset(),
                   lambda _: teacher_source, "fp32")  # fmt: skip
    learner = Learner(mode.apply(bench.make_model(student, 1, dropout=0.1)))
    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr(BatchSource, "batch", batch)
    monkeypatch.setattr(loop, "used_positions", used)
    with watching:
        loop.train(job, learner, RunFolder(folder), Group(0, 1, torch.device("cpu")))
    return noted


@pytest.mark.parametrize("micro_rows", [None, 2])
@pytest.mark.parametrize("how", ["live", "ahead", "hidden", "sparse", "top_k", "masked"])
def test_no_number_is_read_in_a_step(
    bench, monkeypatch, tmp_path: Path, reading, how: str, micro_rows: int | None
) -> None:
    noted = notes(bench, monkeypatch, tmp_path, reading, how, "causal", micro_rows)
    # The last step's look, and what is read at the end of the run, belong to no step.
    assert len(noted) >= STEPS
    assert sum(one.all > 10 for one in noted) >= STEPS
    assert [one.found for one in noted[:-1]] == [[]] * (len(noted) - 1)


def test_masks_of_transformers_would_be_noticed(bench, monkeypatch, tmp_path: Path, reading) -> None:
    assert any(one.found for one in notes(bench, monkeypatch, tmp_path, reading, "live", "sdpa")[:-1])
