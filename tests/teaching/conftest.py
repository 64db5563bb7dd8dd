"""A cache over a small store, with two small teachers whose calls are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource, Masking
from tutelage.teaching.cache import TeacherCache, epochs_read
from tutelage.teaching.encoding import Encoding, Hidden, Sparse, TopK
from tutelage.teaching.teachers import Ensemble

VOCABULARY = 60
MASKING = Masking(rate=0.3, mask_id=3, vocab_size=VOCABULARY, special_ids=(0, 1, 2, 3, 4, 5), seed=9)


@dataclass
class Bench:
    """Makes caches that share a folder, rows and teachers."""

    folder: Path
    store: Any
    make_model: Callable[..., Any]
    loads: list[int] = field(default_factory=list)

    def source(self, kind: str = "chunks", chunking: str = "fixed", rows: int = 4, masked: bool = False) -> BatchSource:
        settings = recipe.Rows(kind=kind, length=16, chunking=chunking, buckets=(8,))
        return BatchSource(self.store, settings, rows, seed=5, masking=MASKING if masked else None)

    def teachers(self, combine: str = "mean_logits", masked: bool = False, seed: int = 1) -> Ensemble:
        self.loads.append(seed)
        shapes = ["modernbert", "modernbert"] if masked else ["llama", "gpt2"]
        models = [self.make_model(shapes[0], seed, width=32), self.make_model(shapes[1], seed + 1, width=48)]
        for model in models:
            with torch.no_grad():
                model.weight_VD.mul_(8)  # distributions with a shape
        return Ensemble(models, [1.0, 2.0], combine)

    def encoding(self, kind: str, precision: str = "fp32", combine: str = "mean_logits", **numbers: Any) -> Encoding:
        mixture = {"weights": [1 / 3, 2 / 3], "combine": combine}
        if kind == "hidden":
            return Hidden((32, 48), precision, (1 / 3, 2 / 3), combine)
        if kind == "sparse":
            return Sparse(numbers.get("draws", 8), numbers.get("sets", 3), numbers.get("T", 1.0), mixture, VOCABULARY)
        return TopK(numbers.get("k", 8), numbers.get("T", 1.0), mixture, VOCABULARY)

    def cache(
        self, kind: str = "sparse", source: BatchSource | None = None, precision: str = "fp32",
        combine: str = "mean_logits", teachers: int = 1, **numbers: Any,
    ) -> TeacherCache:  # fmt: skip
        source = source or self.source()
        key = {"tokens": "these", "rows": source.row_length, "teachers": [teachers]}
        masked = source.masking is not None
        encoding = self.encoding(kind, precision, combine, **numbers)
        return TeacherCache(
            self.folder, key, encoding, source, lambda: self.teachers(combine, masked, teachers), precision, seed=7
        )

    def opened(self, cache: TeacherCache, epochs: range = range(1), limit: float = 1e9) -> TeacherCache:
        cache.create(epochs, limit)
        cache.open()
        return cache

    def built(self, cache: TeacherCache, epochs: range = range(1)) -> TeacherCache:
        assert self.opened(cache, epochs).build(epochs, 0, 1, lambda: False, "test")
        return cache


@pytest.fixture
def bench(tmp_path: Path, store, make_model) -> Bench:
    return Bench(tmp_path / "caches", store, make_model)


@pytest.fixture
def read_epochs() -> Callable[[BatchSource, int, int], range]:
    return epochs_read
