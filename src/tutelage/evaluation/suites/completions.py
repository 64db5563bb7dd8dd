"""Benchmarks that ask which text follows which: EWoK, entity tracking, COMPS, Global PIQA, as BabyLM publishes them.

Formats and readings: `decode_*` in `evaluation_pipeline/sentence_zero_shot/read_files.py` of
github.com/babylm/evaluation-pipeline-2025, and of github.com/babylm-org/babylm-eval, folder `strict` (2026).
"""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import Any

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import ItemRules
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.reading import json_lines
from tutelage.evaluation.suites.questions import Paradigm, Question, grouped, json_files, text, whole_number

COMPS_FILES = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}
"""COMPS's files, and what the pipelines call them."""


def read_ewok(folder: Traversable, rules: ItemRules) -> tuple[Paradigm, ...]:
    """Read EWoK (Ivanova et al. 2024): lines with Domain, Context1, Context2, Target1, Target2; a paradigm a domain.

    The files hold each item twice, the second time with 1 and 2 exchanged.
    """
    keys = ("Context1", "Context2", "Target1", "Target2")
    questions: dict[str, list[Question]] = {}
    for file in json_files(folder, "EWoK"):
        for where, row in json_lines(file, ("Domain", *keys)):
            context1, context2, target1, target2 = (text(row, key, where) for key in keys)
            other = (context1, target2) if rules.ewok == "targets" else (context2, target1)
            options = tuple(
                Item(f"{context} {target}") if rules.ewok_whole else Item(f" {target}", prefix=context)
                for context, target in ((context1, target1), other)
            )
            questions.setdefault(text(row, "Domain", where), []).append(Question(options))
    return grouped(questions)


def read_entity_tracking(folder: Traversable, rules: ItemRules) -> tuple[Paradigm, ...]:
    """Read entity tracking (Kim and Schuster 2023): lines with input_prefix, options (the first is right) and numops.

    A file is a split, which becomes the phenomenon; a paradigm is a split with a number of operations.

    Raises:
        UserError: a broken line, or a split of which the rules drop every item.
    """
    questions: dict[tuple[str, int], list[Question]] = {}
    for file in json_files(folder, "entity tracking"):
        split, kept = file.name.removesuffix(".jsonl"), 0
        for where, row in json_lines(file, ("input_prefix", "options", "numops")):
            prefix, operations = text(row, "input_prefix", where), whole_number(row, "numops", where)
            options: Any = row.get("options")
            listed = isinstance(options, list) and all(isinstance(option, str) and option for option in options)
            if not listed or len(options) < 2:
                raise UserError(f"{where}: 'options' is {options!r}, not a list of two texts or more, the right first")
            if rules.entity_nothing == "dropped" and any("nothing" in option for option in options):
                continue
            kept += 1
            question = Question(tuple(Item(option, prefix=prefix) for option in options))
            questions.setdefault((split, operations), []).append(question)
        if not kept:
            raise UserError(f"every item of {file} has an option with 'nothing', and the rules of 2026 drop those: "
                            "choose another convention, or remove the file")  # fmt: skip
    return tuple(
        Paradigm(f"{split}_{operations}_ops", tuple(questions[split, operations]), phenomenon=split)
        for split, operations in sorted(questions)
    )


def read_comps(folder: Traversable, rules: ItemRules) -> tuple[Paradigm, ...]:
    """Read COMPS (Misra et al. 2023): lines with prefix_acceptable, prefix_unacceptable, property_phrase; four files.

    The property is scored after either prefix and a space.

    Raises:
        UserError: a broken line, a missing file, or another one.
    """
    files = {file.name.removesuffix(".jsonl"): file for file in json_files(folder, "COMPS")}
    if set(files) != set(COMPS_FILES):
        wrong = sorted(set(files) ^ set(COMPS_FILES))[0]
        asked = ", ".join(f"{name}.jsonl" for name in COMPS_FILES)
        found = f"{wrong}.jsonl is {'one too many' if wrong in files else 'missing'}"
        raise UserError(f"COMPS in {folder} must be the four files {asked}: {found}")
    keys = ("prefix_acceptable", "prefix_unacceptable", "property_phrase")
    questions: dict[str, list[Question]] = {}
    for name, uid in COMPS_FILES.items():
        for where, row in json_lines(files[name], keys):
            right, wrong, phrase = (text(row, key, where) for key in keys)
            options = (Item(phrase, prefix=f"{right} "), Item(phrase, prefix=f"{wrong} "))
            questions.setdefault(uid, []).append(Question(options))
    return grouped(questions)


def read_global_piqa(folder: Traversable, rules: ItemRules) -> tuple[Paradigm, ...]:
    """Read Global PIQA: lines with prompt, solution0, solution1, ... (2 to 4), label and example_id; a paradigm a file.

    The solution that `label` names becomes the first option; the example's id becomes the question's name.
    """
    questions: dict[str, list[Question]] = {}
    for file in json_files(folder, "Global PIQA"):
        for where, row in json_lines(file, ("prompt", "solution0", "solution1", "label", "example_id")):
            count = 2
            while count < 4 and row.get(f"solution{count}") is not None:
                count += 1
            prompt, label = text(row, "prompt", where), whole_number(row, "label", where)
            options = [Item(" " + text(row, f"solution{index}", where), prefix=prompt) for index in range(count)]
            if label >= count:
                raise UserError(f"{where}: 'label' is {label}, and there are {count} solutions (the first is 0)")
            right = options.pop(label)
            question = Question((right, *options), name=text(row, "example_id", where))
            questions.setdefault(file.name.removesuffix(".jsonl"), []).append(question)
    return grouped(questions)
