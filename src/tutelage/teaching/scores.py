"""What a model makes of every token of the training rows: computed in one pass, kept on disk.

Six bytes a token: negative log-likelihood (float16, nats), rank of the token among the model's predictions (uint16; 1
is the likeliest, 0 stands where nothing is predicted, as at a row's last position), entropy of the prediction (float16,
nats). The values of position t are about the prediction of token t + 1.

One softmax gives all three numbers. A long pass on a CPU compiles it to one loop over the logits, which takes less than
half the time of the plain operations, and the model's layers as well.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json, write_json
from tutelage.base.progress import console, progress
from tutelage.corpus.batches import IGNORE, Batch, BatchSource, Chunks, to_device
from tutelage.models.logits import LOSS, parts, softmax
from tutelage.teaching.cache_store import MANIFEST, SlotStore
from tutelage.teaching.encoding import Field
from tutelage.teaching.signal import DenseSignal
from tutelage.teaching.teachers import Ensemble

FIELDS = (Field("nll", "<f2", 1), Field("rank", "<u2", 1), Field("entropy", "<f2", 1))
BATCH_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens in a forward pass; fixed, so that an interrupted pass ends with the same bytes."""
COMPILED_TOKENS = 1 << 22
"""Rows of more tokens pay for compiling, which takes half a minute."""

TokenScores = tuple[Tensor, Tensor, Tensor]
"""Loss, rank and entropy, `(N,)` each."""
ScoreFunction = Callable[[Tensor, Tensor], TokenScores]
"""From logits `(N, V)` and targets `(N,)` to these."""


class Scores:
    """The scores of one model for all rows of a source, which must read alike in every epoch.

    `key` is everything else that decides them: rows, tokenizer, weights. `load` loads the model; compiled, if told so.
    """

    def __init__(
        self, folder: Path, key: dict[str, Any], source: BatchSource, load: Callable[[bool], Ensemble], precision: str
    ) -> None:
        self.folder, self.source, self.precision = folder, source, precision
        self.key = full_key(key, precision)
        self.store = SlotStore(folder, source.row_lengths, FIELDS, "score store")
        self._load = load

    # --- life

    def create(self) -> None:
        """Make the files, or check that they are of this key; one process at a time. See `SlotStore.create`."""
        self.store.create(self.key, 1, float("inf"), "name another folder for runs")

    def open(self, writable: bool = True) -> None:
        """Open the files; every process does, once they are made."""
        self.store.open(writable)

    def close(self) -> None:
        """Flush what was written and let the files go."""
        self.store.close()

    @property
    def exist(self) -> bool:
        """Whether the files were made; not whether they are full."""
        return (self.folder / MANIFEST).is_file()

    @property
    def complete(self) -> bool:
        """Whether every row is scored."""
        return bool(self.store.filled.all())

    @property
    def seconds(self) -> float:
        """How long the pass took, over all its parts."""
        path = self.folder / "info.json"
        return float(read_json(path)["seconds"]) if path.is_file() else 0.0

    # --- the pass

    def build(self, device: torch.device, rank: int, size: int, stopped: Callable[[], bool], label: str) -> bool:
        """Score every row that is not scored yet; process `rank` of `size` takes its share of the batches.

        `stopped` is asked before every batch. Returns whether it came to its end rather than was stopped.

        Raises:
            UserError: the model's predictions are not finite.
        """
        lengths, filled = self.source.row_lengths, self.store.filled
        began, before, finished = time.monotonic(), self.seconds, True
        rows = max(1, BATCH_TOKENS[device.type] // self.source.row_length)
        # Not by what is left to do: an interrupted pass shall end with the same bytes.
        compiled = device.type == "cpu" and self.source.tokens_per_epoch >= COMPILED_TOKENS
        # Rows of many lengths would each be compiled again.
        model = self._load(compiled and isinstance(self.source.rows, Chunks)).to(device)
        measure = compiled_measures() if compiled else in_tiles
        left = int(lengths[~filled].sum()) // size
        with torch.inference_mode(), progress(label, left, "tok") as bar:
            for number, batch in enumerate(self.source.with_batch_rows(rows).once()):
                if number % size != rank or filled[batch.rows_B.numpy()].all():
                    continue
                if stopped():
                    finished = False
                    break
                try:
                    self._score(model, batch, device, measure)
                except UserError:
                    raise
                except Exception as error:  # many kinds: no compiler, an architecture that it does not take
                    if not compiled:
                        raise
                    console.print(f"scoring cannot be compiled, and is slower: {type(error).__name__}")
                    with torch.inference_mode(False):
                        compiled, model, measure = False, self._load(False).to(device), in_tiles
                    self._score(model, batch, device, measure)
                bar.advance(batch.token_count)
        self.store.sync()
        if rank == 0 and left:
            write_json(self.folder / "info.json", {"seconds": before + time.monotonic() - began})
        return finished

    def _score(self, model: Ensemble, batch: Batch, device: torch.device, measure: ScoreFunction) -> None:
        index_N = (batch.targets_BT != IGNORE).flatten().nonzero().squeeze(1)
        targets_N = to_device(batch.targets_BT.flatten()[index_N], device)
        signal = model.signal(batch.to(device), self.precision).at(to_device(index_N, device))
        found = score_tokens(signal, targets_N, measure)
        kept = {}
        for field, values_N in zip(FIELDS, found, strict=True):
            whole = np.zeros(batch.targets_BT.numel(), field.dtype)
            whole[index_N.numpy()] = values_N
            kept[field.name] = whole.reshape(batch.targets_BT.shape)
        for place, row in enumerate(batch.rows_B.tolist()):
            length = int(self.source.row_lengths[row])
            self.store.write(row, {name: values[place, :length, None] for name, values in kept.items()})

    # --- reading

    def blocks(self, tokens: int = 1 << 20) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]]:
        """Yield rows of one length, and their scores by field, `(R, T)`: the predicted tokens alone.

        All rows come once, sorted by length, in blocks of at most about so many tokens. A row that is damaged or not
        scored is a `UserError`.
        """
        lengths = self.source.row_lengths
        for length in np.unique(lengths):
            same, most = np.flatnonzero(lengths == length), max(1, tokens // int(length))
            for start in range(0, len(same), most):
                rows = same[start : start + most]
                yield rows, {field.name: self._read(rows, field.name) for field in FIELDS}

    def _read(self, rows: npt.NDArray[np.int64], name: str) -> npt.NDArray[Any]:
        for row in rows.tolist():
            if not self.store.has_valid(row):
                raise UserError(
                    f"{self.folder}: the scores of row {row} are missing or do not fit their checksum; delete that "
                    "folder, the next run makes it again"
                )
        return np.stack([self.store.read(row, name)[:-1, 0] for row in rows.tolist()])


def score_tokens(
    signal: DenseSignal, targets_N: Tensor, measure: ScoreFunction
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.uint16], npt.NDArray[np.float16]]:
    """Return loss and rank of each target and the entropy of each prediction, `(N,)` in the types they are kept in.

    `measure` goes from a block of one model's logits to the numbers.
    """
    device, count = targets_N.device.type, len(targets_N)
    block = LOSS.block_rows(device, signal.vocab_size, signal.hidden[0].element_size())
    found: list[TokenScores] = []
    for part in parts(count, block):
        (logits,) = signal.at(part).products()
        found.append(measure(logits, targets_N[part]))
    nll_N, rank_N, entropy_N = (torch.cat(blocks).cpu() for blocks in zip(*found, strict=True))
    if not (nll_N.isfinite().all() and entropy_N.isfinite().all()):
        raise UserError("the scoring model's predictions are not finite: look at that model, or set precision to fp32")
    # Beyond the range of float16 no difference matters.
    nll = nll_N.clamp_max(torch.finfo(torch.float16).max).numpy().astype(np.float16)
    return nll, rank_N.clamp_max((1 << 16) - 1).numpy().astype(np.uint16), entropy_N.numpy().astype(np.float16)


def in_tiles(logits_NV: Tensor, targets_N: Tensor) -> TokenScores:
    """Return what `measures` does, tile by tile."""
    tile = LOSS.tile_rows(logits_NV.device.type, logits_NV.shape[1])
    tiles = [measures(logits_NV[part], targets_N[part]) for part in parts(len(targets_N), tile)]
    nll, rank, entropy = (torch.cat(found) for found in zip(*tiles, strict=True))
    return nll, rank, entropy


def measures(logits_NV: Tensor, targets_N: Tensor) -> TokenScores:
    """Return loss, rank and entropy in nats; of tokens that are equally likely, the target has the best rank."""
    logits = logits_NV.float()
    gold_N1 = logits.gather(1, targets_N[:, None])
    p, total_N = softmax(logits)
    entropy_N = total_N - torch.linalg.vecdot(p, logits)
    return total_N - gold_N1.squeeze(1), 1 + (logits > gold_N1).sum(-1), entropy_N


def _in_one_loop(logits_NV: Tensor, targets_N: Tensor) -> TokenScores:
    """Return what `measures` does, written so that compiled it reads the logits twice."""
    logits = logits_NV.float()
    gold_N1 = logits.gather(1, targets_N[:, None])
    highest_N1 = logits.amax(-1, keepdim=True)
    above = logits - highest_N1
    e = above.exp()
    sum_N = e.sum(-1)
    log_N = sum_N.log()
    nll_N = log_N + (highest_N1 - gold_N1).squeeze(1)
    return nll_N, 1 + (logits > gold_N1).sum(-1), log_N - (e * above).sum(-1) / sum_N


@cache
def compiled_measures() -> ScoreFunction:
    """Return `measures` as one compiled loop."""
    loop: ScoreFunction = torch.compile(_in_one_loop)

    def run(logits_NV: Tensor, targets_N: Tensor) -> TokenScores:
        # Blocks have many sizes, the vocabulary one.
        torch._dynamo.mark_dynamic(logits_NV, 0)
        torch._dynamo.mark_dynamic(targets_N, 0)
        return loop(logits_NV, targets_N)

    return run


def full_key(key: dict[str, Any], precision: str) -> dict[str, Any]:
    """Return everything that decides scores: the key with format and precision."""
    return {"format": 1, **key, "precision": precision}


def folder_of(scores: Path, key: dict[str, Any], precision: str) -> Path:
    """Return where scores of a key lie in the folder of all scores."""
    return scores / fingerprint(full_key(key, precision))[:16]
