"""Known benchmarks of choices: how their files are read, and how many items they have.

Where the files are published, and under which licence, stands in `benchmarks/data.py`. Sizes, formats and readings: the
benchmarks' pages, and the files of the BabyLM pipelines (see `conventions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import PurePath

from tutelage.base.functions import is_function_name
from tutelage.evaluation.benchmarks.conventions import ItemRules
from tutelage.evaluation.benchmarks.data import BENCHMARKS, Benchmark, find
from tutelage.evaluation.suites.completions import read_comps, read_entity_tracking, read_ewok, read_global_piqa
from tutelage.evaluation.suites.pairs import read_pairs
from tutelage.evaluation.suites.questions import Paradigm

Reader = Callable[[Traversable, ItemRules], tuple[Paradigm, ...]]
"""Every reader is given the rules, though only those of sources that are `by_rules` look at them: one call fits all."""


@dataclass(frozen=True, slots=True)
class SuiteSource:
    """A benchmark, by the name that recipes write."""

    name: str
    items: int | None
    """How many it has as published, as far as is known."""
    read: Reader | None = lambda folder, rules: read_pairs(folder)
    """How its files become paradigms; None: WUG, which is compared with people."""
    by_rules: bool = False
    """Whether the years read it differently."""
    nested: bool = False
    part: str = ""
    """Of a benchmark whose files hold several suites, the folder or file of this one."""

    @property
    def data(self) -> Benchmark:
        """Its files, their publishers and their licence."""
        return BENCHMARKS["wug" if self.part else self.name]

    @property
    def folder(self) -> str:
        """Where its files are looked for, below `eval`."""
        return self.part or PurePath(self.data.place).name

    def place(self) -> Traversable:
        """Return its folder or file; a `MissingData` says where to get it."""
        others = (f"eval/{self.part}", f"{self.data.place}/{self.part}.jsonl") if self.part else ()
        return find("wug" if self.part else self.name, *others)


SOURCES: Mapping[str, SuiteSource] = {
    source.name: source
    for source in (
        SuiteSource("blimp", 67000),
        SuiteSource("blimp-filtered", 59875),
        SuiteSource("blimp-fast", 13400),
        SuiteSource("blimp-supplement", 5218),
        SuiteSource("blimp-supplement-fast", 250),
        SuiteSource("ewok", 7618, read_ewok, by_rules=True),
        SuiteSource("ewok-fast", 1100, read_ewok, by_rules=True),
        SuiteSource("entity-tracking", 9483, read_entity_tracking, by_rules=True, nested=True),
        SuiteSource("entity-tracking-fast", None, read_entity_tracking, by_rules=True, nested=True),
        SuiteSource("comps", 91028, read_comps),
        SuiteSource("wug-past", 50, None, part="wug_past_tense"),
        SuiteSource("wug-adj", 200, None, part="wug_adj_nominalization"),
        SuiteSource("global-piqa", 103, read_global_piqa),
        SuiteSource("global-piqa-nonparallel", 100, read_global_piqa),
    )
}

STARTER = "starter-pairs"
PAIRS, ZORRO, SYNTAXGYM = "pairs:", "zorro:", "syntaxgym:"
FOLDERS = (PAIRS, ZORRO, SYNTAXGYM)
"""What a name begins with that gives a format, and then a folder of the user's."""


def own_name(name: str) -> tuple[str, str] | None:
    """Take `package.module:function` or `package.module:function:argument` apart before the argument, else None."""
    module, _, rest = name.partition(":")
    function, _, argument = rest.partition(":")
    own = f"{module}:{function}"
    return (own, argument) if is_function_name(own) else None
