"""Log-probabilities from encoder-decoder models (T5, BART): the backends `enc_dec_mask` and `enc_dec_prefix` of 2025.

They are no `LanguageModel`: two stacks, with inputs of their own. So this is a way by itself, from items to a
`Likelihood` that `judge` takes like any other:

    scores = encoder_decoder_log_probs(model, tokenizer, items_of(suite), "mask").reduced(...)
    result = judge(suite, scores, convention)

Both ways stand in `process_enc_dec_mask_sentences` and `process_enc_dec_prefix_sentences` of
`evaluation_pipeline/sentence_zero_shot/dataset.py` (github.com/babylm/evaluation-pipeline-2025). Where a tokenizer has
no mask or bos token, its first additional special token (T5's `<extra_id_0>`) takes the place, as that code means to do
(it misspells the attribute and fails).

Shapes: N items, R distinct rows, B rows of a batch, E tokens of the encoder, D of the decoder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Ints, Precision
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item, encode
from tutelage.evaluation.likelihood.batching import batch_size, whole_float32
from tutelage.evaluation.likelihood.causal import Likelihood, refuse_broken
from tutelage.evaluation.likelihood.masked import copies

Way = Literal["mask", "prefix"]
"""`mask`: each scored token is masked in the encoder, the decoder reads [bos, mask] and its last position predicts the
token. `prefix`: the encoder reads [cls] prefix [mask] [eos], the decoder [bos, mask] and the completion, each position
predicting the next token; cls and eos only if the tokenizer has them."""


def load_encoder_decoder(source: str, device: torch.device | None = None) -> Any:
    """Load an encoder-decoder model from a Hugging Face folder or hub id, ready to score.

    Raises:
        UserError: no such model, no (safetensors) weights, or code of its own.
    """
    if recipe.is_path(source) and not (Path(source).expanduser() / "config.json").is_file():
        raise UserError(f"{source} is no model folder: it has no config.json")
    try:
        place = str(Path(source).expanduser()) if recipe.is_path(source) else source
        hf = AutoModelForSeq2SeqLM.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises many kinds; each means that this source cannot be loaded
        raise UserError(f"cannot load the encoder-decoder model '{source}': {error}") from error
    return hf.eval().to(device or torch.device("cpu"))


def encoder_decoder_log_probs(
    hf: Any,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    way: Way,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
    label: str = "scoring",
) -> Likelihood:
    """Score items with an encoder-decoder model, from `load_encoder_decoder`.

    A space at a prefix's end is left out of what the encoder reads in the way `prefix`: there it only separates.
    `batch_tokens` changes the speed and nothing else; `bf16` runs the model under autocast.

    Raises:
        UserError: a tokenizer without the tokens these ways need, a text longer than the model's positions,
            or log-probabilities that are not finite.
    """
    mask = _special(tokenizer, "mask")
    parts = _masked_rows(tokenizer, items, mask) if way == "mask" else _prefixed_rows(tokenizer, items, mask)
    sums_N, counts_N = np.zeros(len(items)), np.zeros(len(items), dtype=np.int64)
    device = next(hf.parameters()).device
    size = batch_size(device.type, batch_tokens)
    with torch.inference_mode(), whole_float32(), progress(label, None, "rows") as tracker:
        for encoder_RE, decoder_RD, targets_RT, owners in parts:
            _check_positions(hf, max(encoder_RE.shape[1], decoder_RD.shape[1]))
            step = max(1, size // (encoder_RE.shape[1] + decoder_RD.shape[1]))
            for begin in range(0, len(encoder_RE), step):
                rows = slice(begin, begin + step)
                ids = encoder_RE[rows], decoder_RD[rows], targets_RT[rows]
                values = _target_sums(hf, *ids, precision)
                for value, items_of_row in zip(values, owners[rows], strict=True):
                    sums_N[items_of_row] += value
                    counts_N[items_of_row] += targets_RT.shape[1]
                tracker.advance(float(len(values)))
    refuse_broken(~np.isfinite(sums_N), [item.prefix + item.completion for item in items])
    return Likelihood(sums_N, counts_N)


_Rows = tuple[Ints, Ints, Ints, list[list[int]]]
"""Rows of equal lengths: what the encoder reads `(R, E)`, the decoder `(R, D)`, what its last positions shall predict
`(R, T)`, and the items each row belongs to."""


def _masked_rows(tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], mask: int) -> Iterator[_Rows]:
    convention = CONVENTIONS["2025"]
    rows = encode(tokenizer, items, "masked", convention)
    items_of_row: dict[int, list[int]] = defaultdict(list)
    for item, row in enumerate(rows.row_N.tolist()):
        items_of_row[row].append(item)
    decoder = [tokenizer.bos_token_id, mask] if tokenizer.bos_token_id is not None else [_special(tokenizer, "bos")]
    row_S = np.repeat(np.arange(len(rows.lengths_R)), rows.lengths_R)
    for group in copies(rows, mask, convention.masked):
        yield (
            group.tokens_CT[group.copy_M],
            np.tile(np.array(decoder), (len(group.copy_M), 1)),
            rows.tokens_S[group.target_M][:, None],
            [items_of_row[row] for row in row_S[group.target_M].tolist()],
        )


def _prefixed_rows(tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], mask: int) -> Iterator[_Rows]:
    bos = _special(tokenizer, "bos")
    before = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    texts = list(dict.fromkeys(text for item in items for text in (item.prefix.removesuffix(" "), item.completion)))
    ids = dict(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True)) if texts else {}
    owners: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        if not ids[item.completion] and item.completion:
            raise UserError(f"the tokenizer writes {item.completion[:80]!r} with no token at all")
        owners[item.prefix.removesuffix(" "), item.completion].append(index)
    groups: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
    for prefix, completion in owners:
        if ids[completion]:
            groups[len(ids[prefix]), len(ids[completion])].append((prefix, completion))
    for pairs in groups.values():
        yield (
            np.array([[*before, *ids[prefix], mask, *after] for prefix, _ in pairs]),
            np.array([[bos, mask, *ids[completion][:-1]] for _, completion in pairs]),
            np.array([ids[completion] for _, completion in pairs]),
            [owners[pair] for pair in pairs],
        )


def _target_sums(hf: Any, encoder_BE: Ints, decoder_BD: Ints,
                 targets_BT: Ints, precision: Precision) -> list[float]:  # fmt: skip
    """Sum of the log-probabilities of each row's targets, which the last T positions of the decoder predict."""
    device = next(hf.parameters()).device
    encoder, decoder, targets = (torch.from_numpy(part).to(device) for part in (encoder_BE, decoder_BD, targets_BT))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits: Tensor = hf(input_ids=encoder, decoder_input_ids=decoder, use_cache=False).logits
    log_p = logits[:, -targets.shape[1] :].float().log_softmax(-1)
    sums: list[float] = log_p.gather(-1, targets[..., None]).squeeze(-1).double().sum(-1).tolist()
    return sums


def _special(tokenizer: PreTrainedTokenizerFast, role: Literal["mask", "bos"]) -> int:
    """The token for a role, or the tokenizer's first additional special token."""
    token = getattr(tokenizer, f"{role}_token_id")
    extra = getattr(tokenizer, "extra_special_tokens", None) or []
    if token is None and not extra:
        raise UserError(
            f"encoder-decoder models are scored with a {role} token, and this tokenizer has neither that nor an "
            "additional special token such as T5's <extra_id_0>: name one"
        )
    return int(token if token is not None else tokenizer.convert_tokens_to_ids(str(extra[0])))


def _check_positions(hf: Any, length: int) -> None:
    limit = getattr(hf.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise UserError(f"a text has {length} tokens and the model has positions for {limit}")
