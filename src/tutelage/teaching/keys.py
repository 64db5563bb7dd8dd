"""What decides what teachers say of the training rows: the key of caches and scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tutelage import recipe
from tutelage.corpus.batches import BatchSource, Examples
from tutelage.corpus.tokens import TokenStore


def key_of(data: recipe.Data, store: TokenStore, source: BatchSource, teachers: Sequence[str]) -> dict[str, Any]:
    """Return everything about rows and teachers that decides what the teachers say.

    Args:
        data: the recipe's.
        store: the training split.
        source: its rows as the student reads them.
        teachers: a digest of each teacher's weights, in order.
    """
    unused = {"buckets"} if data.rows.kind == "chunks" else {"chunking"}
    rows = data.rows.model_dump(mode="json", exclude=unused)
    if isinstance(source.rows, Examples):
        rows["borders"] = hashlib.sha256(source.rows.starts.tobytes() + source.rows.lengths.tobytes()).hexdigest()
    masking = asdict(source.masking) if source.masking is not None else None
    if masking is not None:
        masking["special_ids"] = list(masking["special_ids"])
    # Through JSON, since a key is compared with one that was read from a file.
    mixture = {} if source.mixture is None else {"ul2": json.loads(json.dumps(asdict(source.mixture)))}
    return {
        "tokens": store.digest,
        "tokenizer": store.tokenizer_id,
        "vocabulary": store.vocab_size,
        "rows": rows,
        "seed": data.seed,
        "masking": masking,
        "teachers": list(teachers),
    } | mixture
