"""How each year's BabyLM evaluation scores text: every rule that differs is a field, every year an instance.

The rules were read in the published pipelines:

- 2023: github.com/babylm/evaluation-pipeline-2023, a fork of lm-eval 0.2 (`lm_eval/models/huggingface.py`,
  `lm_eval/api/task.py`, `babylm_eval.py`);
- 2024: github.com/babylm/evaluation-pipeline-2024, a fork of lm-eval 0.4 (`lm_eval/models/huggingface.py`), with
  minicons' `MaskedLMScorer` for masked models;
- 2025: github.com/babylm/evaluation-pipeline-2025 (`evaluation_pipeline/sentence_zero_shot/dataset.py` and
  `compute_results.py`);
- 2026: github.com/babylm-org/babylm-eval, folder `strict`.

They print logarithms to base e, the masked models of 2023 to base 2; here all are in nats, which decides nothing
differently. Beside a year's accuracy there is always the strict one, for which a tie is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tutelage.base.types import Bools, Floats, Ints

Reduction = Literal["sum", "mean"]
Backend = Literal["causal", "mlm", "mntp"]
"""How a model predicts: a causal one; a masked one at the mask (`mlm`), or from the position before it (`mntp`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalRules:
    """How causal models score a text. Position 0 of a row has no context and is never scored."""

    start: tuple[Literal["bos", "eos", "pad"], ...]
    """Put before a text without prefix: the first of these special tokens that the tokenizer has, so that the text's
    own first token is scored too; empty: nothing, and the first token is not scored. 2023 takes eos (`eot_token`), 2024
    bos, else eos, else pad (`prefix_token_id`), since 2025 nothing (`processor(text=sentence)`)."""
    own_specials: bool
    """Whether the tokenizer adds the special tokens of its own template (`tok_encode` of 2023 and 2024 says no, the
    call of 2025 yes). They are context, never scored."""
    leading_space: bool
    """Whether a text without prefix gets a space in front (the `text_target_separator` of 2023, the
    `target_delimiter` of 2024). A completion after a prefix brings its own."""
    completion: Literal["tokens", "characters"]
    """Where a completion begins. `tokens`: after as many tokens as the prefix has by itself, its trailing spaces left
    out (`_encode_pair` of lm-eval). `characters`: with the first token that ends behind the prefix (2025)."""
    reduction: Reduction = "sum"
    """Log-probabilities of the scored tokens are summed in every year."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedRules:
    """How masked models score a text: pseudo-log-likelihood (Salazar et al. 2020), one mask at a time.

    Special tokens of the tokenizer's template surround the text and are not scored. (The code of 2023 counts on exactly
    one on either side and misplaces the masks of any other tokenizer; that is not reproduced.)
    """

    prefix: Literal["ignored", "eos_if_empty", "as_is"]
    """`ignored`: the completion is scored by itself (`AutoMaskedLM.loglikelihood` of 2023). `eos_if_empty`: an empty
    prefix becomes the text of the eos token, `None` where there is none, and a space separates prefix and completion
    (2024: `conditional_score(context, continuation)`). `as_is` since 2025."""
    leading_space: bool
    """As for causal models. In 2024 the separator comes on top: two spaces."""
    reduction: Reduction
    """2024 takes the mean over tokens (the default of minicons' `conditional_score`), other years the sum."""
    masking: Literal["token", "rest_of_word"] = "token"
    """`token`: the scored token alone is masked (minicons' `original`), in every year. `rest_of_word`: the later tokens
    of its word too, so that a word of several tokens does not give itself away (Kauf and Ivanova 2023; minicons'
    `within_word_l2r`). Words are those of the tokenizer's own splitting."""
    logits: Literal["at_mask", "before_mask"] = "at_mask"
    """Where the prediction is read. `before_mask` is the `mntp` backend of 2025 and 2026, for models that learned to
    predict a masked token from the position before it. The row's first token is then scored only if the tokenizer
    *defines* a cls or bos token; if it defines one and does not put it in front, index -1 is read: the row's last
    position (in the published code the last of the batch's longest row)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemRules:
    """What becomes an item: the rules under which the files of some benchmarks are read."""

    ewok: Literal["targets", "contexts"]
    """`targets`: is Target1 likelier than Target2 after Context1 (2024, 2025)? `contexts`: is Target1 likelier after
    Context1 than after Context2 (2026)? `decode_ewok` of each year. 2023 had no EWoK and follows 2024."""
    ewok_whole: bool = False
    """Score context and target together rather than the target alone: `--full_sentence_scores` of 2025, off by
    default. Asks the same of `targets`; of `contexts` it asks which whole text is likelier."""
    entity_nothing: Literal["kept", "dropped"]
    """`dropped` since 2026: items of entity tracking of which any option contains `nothing` are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """One year's rules. `dataclasses.replace` makes variants; give them a name of their own."""

    name: str
    year: Literal["2023", "2024", "2025", "2026"]
    """Whose rules these are, or are a variant of: what is no choice between options goes by it."""
    causal: CausalRules
    masked: MaskedRules
    items: ItemRules
    length_normalised: tuple[str, ...] = ("global-piqa", "global-piqa-nonparallel")
    """Benchmarks whose scores are means over tokens, whatever `reduction` says: `LENGTH_NORMALIZED_TASKS` of 2026,
    the only year that has them."""
    ties: Literal["first", "random"]
    """Equal scores. `first`: the first option wins, which is the right one (`np.argmax`, `torch.max`; NaN counts as
    largest). `random` since 2026: drawn among the tied, NaN as minus infinity; here the draw depends on the item
    alone, so that it is the same in every run, on every machine."""
    macro: Literal["phenomena", "paradigms"]
    """What is averaged unweighted. 2023 scored 12 files, one a phenomenon, its paradigms pooled; later years average
    the 67 paradigms."""


_2025 = Convention(
    name="2025",
    year="2025",
    causal=CausalRules(start=(), own_specials=True, leading_space=False, completion="characters"),
    masked=MaskedRules(prefix="as_is", leading_space=False, reduction="sum"),
    items=ItemRules(ewok="targets", entity_nothing="kept"),
    ties="first",
    macro="paradigms",
)
_2024 = replace(
    _2025,
    name="2024",
    year="2024",
    causal=CausalRules(start=("bos", "eos", "pad"), own_specials=False, leading_space=True, completion="tokens"),
    masked=MaskedRules(prefix="eos_if_empty", leading_space=True, reduction="mean"),
)
_2023 = replace(
    _2024,
    name="2023",
    year="2023",
    causal=replace(_2024.causal, start=("eos",)),
    masked=MaskedRules(prefix="ignored", leading_space=True, reduction="sum"),
    macro="phenomena",
)
_2026 = replace(
    _2025, name="2026", year="2026", items=ItemRules(ewok="contexts", entity_nothing="dropped"), ties="random"
)
CONVENTIONS: Mapping[str, Convention] = {convention.name: convention for convention in (_2023, _2024, _2025, _2026)}


def next_token_by_mask(convention: Convention) -> Convention:
    """Return a convention for masked models that predict from the position before the mask: the backend `mntp`."""
    return replace(convention, name=f"{convention.name}-mntp", masked=replace(convention.masked, logits="before_mask"))


def choose(scores_NK: Floats, convention: Convention, keys: Sequence[str], options_N: Ints | None = None) -> Ints:
    """Return which of K options each of N items is given, `(N,)`, by log-probabilities of which column 0 is right.

    Args:
        keys: one string an item; it alone decides how that item's tie is drawn.
        options_N: how many options an item has, where it may be fewer than K; scores beyond are minus infinity.
    """
    if convention.ties == "first":
        first_N: Ints = np.argmax(scores_NK, axis=1)
        return first_N
    finite_NK = np.where(np.isnan(scores_NK), -np.inf, scores_NK)
    tied_NK = finite_NK == finite_NK.max(axis=1, keepdims=True)
    if options_N is not None:
        tied_NK &= np.arange(scores_NK.shape[1]) < options_N[:, None]
    chosen_N: Ints = np.argmax(tied_NK, axis=1)
    for item in np.flatnonzero(tied_NK.sum(axis=1) > 1).tolist():
        options = np.flatnonzero(tied_NK[item])
        draw = int.from_bytes(hashlib.sha256(keys[item].encode()).digest()[:8])
        chosen_N[item] = options[draw % len(options)]
    return chosen_N


def strictly_right(scores_NK: Floats) -> Bools:
    """Return whether option 0 scores above every other, `(N,)`; a tie or NaN is wrong."""
    right_N: Bools = np.all(scores_NK[:, :1] > scores_NK[:, 1:], axis=1)
    return right_N
