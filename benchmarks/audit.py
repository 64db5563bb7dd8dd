"""Filters and audit of a study corpus: seconds and memory for a million words.

    python benchmarks/audit.py

The corpus is made of the starter's sentences, drawn again into texts of its lengths, with one word in ten replaced by a
made-up one and labels drawn for all its classification tasks: more texts resemble each other than in a real corpus,
which is the harder case. One text in fifty is a near copy of an earlier one. Needs nothing but tutelage; with
`TUTELAGE_DATA`, BLiMP's sentences are looked for as well. `--steps` is the size in hundred thousands of words.
"""

from __future__ import annotations

import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from common import Json, arguments, median, peak_mb, table
from common import write as write_page

from tutelage import starter
from tutelage.base import machine
from tutelage.corpus.examples import Example, read_examples, write_examples
from tutelage.corpus.study_plan import StudyPlan, starter_plan
from tutelage.evaluation.suites.sentences import evaluation_sentences
from tutelage.report.audit_page import audit_page
from tutelage.study.filter.audit import audit_examples
from tutelage.study.filter.filters import filter_examples
from tutelage.study.settings import Filters

MADE_UP = 60_000
"""Different made-up words."""
T = TypeVar("T")


def corpus(words: int, plan: StudyPlan) -> Iterator[Example]:
    """Yield texts of so many words in all."""
    draw = random.Random(0)
    found = [example for file in starter.example_files() for example in read_examples(file)]
    sentences = [s for example in found for s in re.split(r"(?<=[.!?]) ", example.text.replace("\n", " ")) if s]
    tasks = [(task.name, list(task.labels)) for task in plan.tasks("classification")]
    last: list[str] = []
    while words > 0:
        wanted, text = draw.choice(found).word_count, list[str]()
        while len(text) < wanted:
            text += draw.choice(sentences).split()
        text = [f"w{draw.randrange(MADE_UP)}" if draw.random() < 0.1 else word for word in text]
        if draw.random() < 0.02 and last:
            text = [*last, "again"]
        last, words = text, words - len(text)
        labels = {name: draw.choice(of) for name, of in tasks}
        yield Example("classification", " ".join(text), labels=labels, task=draw.choice(tasks)[0])


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=3, steps=10)
    plan, size = starter_plan(), args.steps * 100_000
    suites = {"blimp": evaluation_sentences("blimp")} if os.environ.get("TUTELAGE_DATA") else {}
    seconds: dict[str, list[float]] = {}

    def timed(name: str, do: Callable[..., T], *given: Any) -> T:
        began = time.perf_counter()
        result = do(*given)
        seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "examples.jsonl"
        write_examples(file, corpus(size, plan))
        for _ in range(args.rounds):
            examples = timed("read", list, read_examples(file))
            kept = timed("filter", filter_examples, examples, plan, Filters(), suites)
            audit = timed("audit", audit_examples, examples, plan, Filters(), suites)
            timed("page", audit_page, audit)
    data: Json = {
        "words": audit.words,
        "texts": audit.texts,
        "labels": sum(task.labelled for task in audit.tasks.values()),
        "near duplicates": audit.duplicates["near"],
        "kept": len(kept.kept),
        "seconds": {name: median(times) for name, times in seconds.items()},
        "peak_mb": peak_mb(),
    }
    whole = data["seconds"]["read"] + data["seconds"]["audit"] + data["seconds"]["page"]
    rows = [(name, f"{value:.1f}") for name, value in data["seconds"].items()]
    rows.append(("`tutelage study audit`: read, audit, page", f"{whole:.1f}"))
    text = table(("what", "seconds"), rows)
    text += (
        f"\n\n{data['texts']:,} texts, {data['words']:,} words, {data['labels']:,} labels; "
        f"{data['near duplicates']:,} near duplicates; {data['peak_mb']:,.0f} MB at most."
    )
    how = f"Medians of {args.rounds} rounds in one process. Aim: an audit of 1M words takes under 60 seconds. "
    how += "BLiMP's sentences were looked for." if suites else "No evaluation sets were looked for."
    write_page("audit", "Filters and audit of a study corpus", text, {"audit": data}, args, how)


if __name__ == "__main__":
    machine.set_up()
    main()
