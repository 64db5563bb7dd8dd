"""Hugging Face datasets as JSON-lines files in the cache, through the optional `datasets` library."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.network import check_address, through
from tutelage.base.progress import progress

_TEST_SPLITS = ("validation", "dev", "test")
"""The first of these that a dataset has is the test split, as with BabyLM's dev files."""


def export(name: str, text_field: str, folder: Path) -> dict[Literal["train", "test"], Path]:
    """Write the splits of `hf:dataset[:config]` as JSON lines with the field `text_field`; return their paths.

    The revision is looked up once and kept with the files, so that a later run reads the same text without a network.

    Raises:
        UserError: the `datasets` library is missing, no such dataset, no train split, or no such field.
    """
    dataset, _, config = name.removeprefix("hf:").partition(":")
    target = folder / re.sub(r"[^A-Za-z0-9._-]+", "--", f"{dataset}:{config}:{text_field}")
    if not target.exists():
        try:
            datasets: Any = importlib.import_module("datasets")
        except ImportError as error:
            raise UserError("corpora named hf:... need the `datasets` library: pip install 'tutelage[data]'") from error
        revision = _revision(dataset)
        try:
            found = datasets.load_dataset(dataset, config or None, revision=revision, streaming=True)
        except (ValueError, FileNotFoundError, ConnectionError) as error:
            raise UserError(f"data.corpus: cannot load '{name}': {error}") from error
        wanted = {"train": "train"}
        if test := next((split for split in _TEST_SPLITS if split in found), None):
            wanted["test"] = test
        if "train" not in found:
            raise UserError(f"data.corpus: '{name}' has no split 'train' (it has {sorted(found)})")
        with files.new_folder(target) as building:
            for ours, theirs in wanted.items():
                _write(found[theirs], building / f"{ours}.jsonl", text_field, name)
            files.write_json(building / "revision.json", {"dataset": dataset, "config": config, "revision": revision})
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    return {split: path for split in splits if (path := target / f"{split}.jsonl").exists()}


def _revision(dataset: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import ENDPOINT

    check_address(ENDPOINT)
    try:
        return str(HfApi().dataset_info(dataset).sha)
    except Exception as error:  # many kinds, for each way in which a network fails
        raise UserError(f"data.corpus: cannot find the dataset '{dataset}' on the Hugging Face hub"
                        f"{through(ENDPOINT)}: {error}") from error  # fmt: skip


def _write(rows: Any, path: Path, text_field: str, name: str) -> None:
    with path.open("w", encoding="utf-8") as file, progress(f"read {name}", None, "rows") as bar:
        for row in rows:
            if text_field not in row:
                raise UserError(f"data.text_field: '{name}' has no field '{text_field}' (it has {sorted(row)})")
            file.write(json.dumps({text_field: row[text_field]}, ensure_ascii=False) + "\n")
            bar.advance(1)
