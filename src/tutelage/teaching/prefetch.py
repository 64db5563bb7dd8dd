"""Teachers that read several steps' rows at once, ahead of the student.

A student's batch is often too small to fill a GPU with its teachers' forward pass. Their signal depends on the rows
alone, and the rows of all steps are known; so they read those of several coming steps at once, and the signal is handed
out in slices.

Steps are grouped by their absolute number, wherever a run starts or resumes, and a group is always read whole, past the
end of the stage too: so a resumed run computes the very same numbers, and all groups have one shape.

Shapes: B rows of a step, R rows of a group in one process, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from tutelage.corpus.batches import Batch, BatchSource, Chunks
from tutelage.teaching.signal import DenseSignal
from tutelage.teaching.teachers import Ensemble

PREFETCH_TOKENS = {"cpu": 0, "cuda": 1 << 15}
"""Tokens of a group in one process, at most; below two steps' worth, nobody reads ahead. A CPU gains nothing."""

Micros = Callable[[Batch], Sequence[Batch]]
"""Cuts this process's rows of a step's whole batch into micro-batches."""


def prefetching(teachers: Ensemble, source: BatchSource, step: int, micros: Micros) -> Ensemble | PrefetchingTeachers:
    """Let teachers, on their device, read ahead from `step` on where that is possible.

    It is for rows of running text, cut alike in every batch, and models whole in every process.
    """
    device = next(teachers.parameters()).device.type
    if not isinstance(source.rows, Chunks) or teachers.is_shared_out:
        return teachers
    rows = sum(len(micro.rows_B) for micro in micros(source.with_batch_rows(source.batch_rows).batch(0)))
    steps = PREFETCH_TOKENS[device] // (rows * source.row_length)
    return PrefetchingTeachers(teachers, source, step, micros, steps) if steps > 1 else teachers


class PrefetchingTeachers:
    """An ensemble that reads `steps` steps at once; a `TeacherSource` that is asked about every micro-batch in turn."""

    def __init__(self, teachers: Ensemble, source: BatchSource, step: int, micros: Micros, steps: int) -> None:
        self._teachers, self._micros, self._steps = teachers, micros, steps
        self._rows = source.batch_rows
        # Chunk rows run on from batch to batch: those of a group are one batch of a source with longer ones.
        self._source = source.with_batch_rows(steps * source.batch_rows)
        self._group = step // steps
        self._signals: dict[tuple[tuple[int, int], ...], DenseSignal] = {}

    def to(self, device: torch.device) -> PrefetchingTeachers:
        """Compute on a device from now on."""
        self._teachers.to(device)
        return self

    def signal(self, batch: Batch, precision: str) -> DenseSignal:
        """Return the teachers' distributions at every position of a micro-batch of this group of steps, or the next."""
        if _key(batch) not in self._signals:
            self._signals = {}  # before the next ones take their place in memory
            self._signals = self._read(self._group, batch.tokens_BT.device, precision)
            self._group += 1
        if _key(batch) not in self._signals:
            raise ValueError(f"rows {batch.rows_B.tolist()} are not among those of the steps that come next")
        return self._signals[_key(batch)]

    def _read(self, group: int, device: torch.device, precision: str) -> dict[tuple[tuple[int, int], ...], DenseSignal]:
        """Read a group of steps; return the signals, by micro-batch."""
        rows = self._source.batch(group)
        micros = [micro for step in rows.split(self._rows) for micro in self._micros(step)]
        tokens_RT = torch.cat([micro.tokens_BT for micro in micros])
        # No row is padded, and nothing else of a batch is told to a model.
        asked = replace(micros[0], tokens_BT=tokens_RT, targets_BT=tokens_RT, labels={})
        with torch.inference_mode():
            signal = self._teachers.signal(asked.to(device), precision)
        found, start = {}, 0
        for micro in micros:
            part = slice(start, start + len(micro.rows_B))
            found[_key(micro)] = replace(signal, hidden=tuple(hidden_RTD[part] for hidden_RTD in signal.hidden))
            start = part.stop
        return found


def _key(batch: Batch) -> tuple[tuple[int, int], ...]:
    """Name a micro-batch by its rows and the epochs that they are read in."""
    return tuple(zip(batch.rows_B.tolist(), batch.epochs_B.tolist(), strict=True))
