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
    """Return everything that decides what the teachers say.

    That is: the training split, its rows as the student reads them, a digest of each teacher's weights in order.
    """
    # Framed rows show by their borders.
    unused = {"framing", "buckets" if data.rows.kind == "chunks" else "chunking"}
    rows = data.rows.model_dump(mode="json", exclude=unused)
    if isinstance(source.rows, Examples):
        rows["borders"] = hashlib.sha256(source.rows.starts.tobytes() + source.rows.lengths.tobytes()).hexdigest()
    # Through JSON, since a key is compared with one that was read from a file.
    masking, mixture, hybrid = (
        None if part is None else json.loads(json.dumps(asdict(part)))
        for part in (source.masking, source.mixture, source.hybrid)
    )
    return {
        "tokens": store.digest,
        "tokenizer": store.tokenizer_id,
        "vocabulary": store.vocab_size,
        "rows": rows,
        "seed": data.seed,
        "masking": masking,
        "teachers": list(teachers),
    } | {name: part for name, part in (("ul2", mixture), ("hybrid", hybrid)) if part is not None}
