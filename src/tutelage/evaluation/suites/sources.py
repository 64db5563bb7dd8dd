"""Known benchmarks of choices: where their files go, who publishes them, under which licence, how they are read.

Nothing is bundled but the starter pairs. Sizes, formats and readings: the pages named, and the files of the BabyLM
pipelines (see `conventions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from tutelage.evaluation.benchmarks.conventions import ItemRules
from tutelage.evaluation.suites.completions import read_comps, read_entity_tracking, read_ewok, read_global_piqa
from tutelage.evaluation.suites.pairs import read_pairs
from tutelage.evaluation.suites.questions import Paradigm

Reader = Callable[[Traversable, ItemRules], tuple[Paradigm, ...]]
"""Every reader is given the rules, though only those of sources that are `by_rules` look at them: one call fits all."""


def _pairs(folder: Traversable, rules: ItemRules) -> tuple[Paradigm, ...]:
    return read_pairs(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSource:
    """A benchmark."""

    folder: str
    """Where its files are looked for, below `eval`."""
    elsewhere: str | None = None
    """Another such place: a folder or a file."""
    origin: str
    """Who publishes it."""
    licence: str
    """As its authors state it."""
    items: int | None
    """How many it has as published, as far as is known."""
    read: Reader | None = _pairs
    """How its files become paradigms; None: WUG, which is compared with people."""
    by_rules: bool = False
    """Whether the years read it differently."""
    nested: bool = False
    """See `SuiteResult.nested`."""


_BLIMP = "https://github.com/alexwarstadt/blimp, folder data"
_BABYLM_FULL = "https://osf.io/ryjfm (BabyLM 2025), evaluation_data/full_eval"
_BABYLM_FAST = "https://osf.io/ryjfm (BabyLM 2025), evaluation_data/fast_eval"
_UNSTATED = "stated nowhere by its authors: do not pass it on"
_ASKED = "its authors ask that no plain copies be passed on"
_EWOK = f"see the terms on its page; {_ASKED}"
_UNCHECKED = "see its page (not checked by us)"
_EWOK_FAST = f"{_BABYLM_FAST}/ewok_fast.zip (its password stands in the README of the pipeline)"
_EWOK_FULL = (
    "https://huggingface.co/datasets/ewok-core/ewok-core-1.0 (accept its terms), filtered by "
    "evaluation_pipeline.ewok.dl_and_filter of https://github.com/babylm/evaluation-pipeline-2025"
)
_PIQA = "https://huggingface.co/datasets/mrlbenchmarks/global-piqa-"

SOURCES: Mapping[str, SuiteSource] = {
    "blimp": SuiteSource(folder="blimp", origin=_BLIMP, licence="CC BY 4.0", items=67000),
    "blimp-filtered": SuiteSource(
        folder="blimp_filtered", origin=_BABYLM_FULL, licence="CC BY 4.0 (BLiMP)", items=59875
    ),
    "blimp-fast": SuiteSource(
        folder="blimp_fast", origin=_BABYLM_FAST, licence="CC BY 4.0 (BLiMP)", items=13400
    ),
    "blimp-supplement": SuiteSource(
        folder="supplement_filtered", origin=_BABYLM_FULL, licence=_UNSTATED, items=5218
    ),
    "blimp-supplement-fast": SuiteSource(
        folder="supplement_fast", origin=_BABYLM_FAST, licence=_UNSTATED, items=250
    ),
    "ewok": SuiteSource(
        folder="ewok_filtered", origin=_EWOK_FULL, licence=_EWOK, items=7618,
        read=read_ewok, by_rules=True,
    ),
    "ewok-fast": SuiteSource(
        folder="ewok_fast", origin=_EWOK_FAST, licence=_EWOK, items=1100,
        read=read_ewok, by_rules=True,
    ),
    "entity-tracking": SuiteSource(
        folder="entity_tracking", origin=_BABYLM_FULL, licence=_ASKED, items=9483,
        read=read_entity_tracking, by_rules=True, nested=True,
    ),
    "entity-tracking-fast": SuiteSource(
        folder="entity_tracking_fast", origin=_BABYLM_FAST, licence=_ASKED, items=None,
        read=read_entity_tracking, by_rules=True, nested=True,
    ),
    "comps": SuiteSource(
        folder="comps", origin="https://github.com/kanishkamisra/comps, folder data/comps", licence=_UNCHECKED,
        items=91028, read=read_comps,
    ),
    "wug-past": SuiteSource(
        folder="wug_past_tense", elsewhere="wug/wug_past_tense.jsonl", origin=_BABYLM_FULL, licence=_UNSTATED,
        items=50, read=None,
    ),
    "wug-adj": SuiteSource(
        folder="wug_adj_nominalization", elsewhere="wug/wug_adj_nominalization.jsonl", origin=_BABYLM_FULL,
        licence=_UNSTATED, items=200, read=None,
    ),
    "global-piqa": SuiteSource(
        folder="global_piqa_parallel", origin=f"{_PIQA}parallel (eng_latn)", licence=_UNCHECKED,
        items=103, read=read_global_piqa,
    ),
    "global-piqa-nonparallel": SuiteSource(
        folder="global_piqa_nonparallel", origin=f"{_PIQA}nonparallel (eng_latn)", licence=_UNCHECKED,
        items=100, read=read_global_piqa,
    ),
}  # fmt: skip
