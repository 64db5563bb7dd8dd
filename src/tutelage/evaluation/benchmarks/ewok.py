"""EWoK from its authors: the gated dataset by the user's own access, filtered as BabyLM does it.

EWoK's authors ask that its items never stand on the web as plain text, so that no model learns them: nothing of it is
bundled, and what is fetched must not be passed on. The dataset is open to anyone who accepts its terms.

BabyLM keeps an item if every word of its four texts, in lower case and cut by NLTK's `word_tokenize`, is in a list of
words, and writes every item twice, the second time with contexts and targets swapped
(`evaluation_pipeline/ewok/dl_and_filter.py` of its pipeline of 2025).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.corpus.download import download
from tutelage.evaluation.benchmarks import publishers

DATASET = "ewok-core/ewok-core-1.0"
REVISION = "34d912a608066c92e2990a0328ffc3bd9a716042"
FILE = "data/test/ewok-core-1.0.parquet"
SHA256 = "4dbc0812bc21173c75f372c9c39078b88b77a91508df8e6c82f6c6853a4e1ac1"
"""Of that file at that revision, as others recorded it in public."""
VOCABULARY = "https://raw.githubusercontent.com/babylm/evaluation-pipeline-2025/main/evaluation_pipeline/ewok/vocab.txt"
TEXTS = ("Context1", "Context2", "Target1", "Target2")


def fetch(downloads: Path, target: Path, filtered: bool) -> None:
    """Write EWoK as JSON lines, one file a domain, to a new folder; if `filtered`, only the items that BabyLM keeps.

    Raises:
        UserError: no access (with the steps to get it), no connection, another file than expected, or a missing
            library.
    """
    keep = _in_vocabulary(downloads) if filtered else None
    domains: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(_parquet(downloads)):
        if keep is None or all(keep(row[key]) for key in TEXTS):
            domains.setdefault(row["Domain"], []).extend([row, swapped(row)])
    if not domains:
        raise UserError(f"no item of EWoK is left after filtering by {VOCABULARY}: has that list changed?")
    with files.new_folder(target) as folder:
        for domain, items in sorted(domains.items()):
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            files.write_text(folder / f"{Path(domain).name}.jsonl", lines)


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    """Return an item read the other way round: first and second context, and first and second target, exchanged."""
    turned = {one: row[other] for one, other in zip(TEXTS, ("Context2", "Context1", "Target2", "Target1"), strict=True)}
    return {**row, **turned}


def _parquet(downloads: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    home = f"{publishers.HUB}/datasets/{DATASET}"
    try:
        found = hf_hub_download(
            DATASET, FILE, repo_type="dataset", revision=REVISION, local_dir=downloads, endpoint=publishers.HUB
        )
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(
            f"EWoK is open only to those who accept its terms: do so at {home}, then log in with `hf auth login` or "
            "set HF_TOKEN to a token of yours, and run again"
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"cannot download {home}: {error}") from error
    if files.sha256(Path(found)) != SHA256:
        raise UserError(f"{found} is not the file that was expected (sha256 {SHA256}); delete it and run again")
    return Path(found)


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("EWoK is a Parquet file: pip install 'tutelage[data]'") from error
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    missing = {"Domain", *TEXTS} - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(sorted(missing))}: has EWoK's format changed?")
    return rows


def _in_vocabulary(downloads: Path) -> Callable[[str], bool]:
    """Whether BabyLM's list has every word of a text."""
    try:
        tokenize = importlib.import_module("nltk.tokenize").word_tokenize
        tokenize("two sentences. and words")
    except ImportError as error:
        raise UserError("BabyLM filters EWoK by NLTK's words: pip install nltk") from error
    except LookupError as error:
        raise UserError("NLTK lacks its sentence model: python -m nltk.downloader punkt_tab") from error
    words = set(download(VOCABULARY, downloads / "vocab.txt").read_text(encoding="utf-8").split())
    return lambda text: all(word in words for word in tokenize(text.lower()))
