"""How well a model's heads label held-out text: accuracy and macro F1 by task, on text of which nothing is hidden.

Macro F1 is the mean over the labels that occur among the right answers or the given ones. Beside each task stands what
a model that always gives the commonest label would score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Ints, Precision
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.corpus.labels import LabelTask
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel

NAME = "tasks"
FAMILIES = ("classification", "pair_classification", "tagging")
RULES = "unmasked test split"
_Of = tuple[MeasuredValue, MeasuredValue, float]
"""Accuracy, macro F1, and what the commonest label alone scores."""
NO_HEAD = "the model has no head for it"
BLANK = "the test split has no label of it"


def evaluate_heads(
    model: LanguageModel,
    heads: TaskHeads | None,
    source: BatchSource,
    device: torch.device,
    precision: Precision = "fp32",
    label: str = NAME,
) -> MeasuredResult:
    """Measure a model's heads on every labelled row once; the model is on the device, its rows are unmasked.

    Without heads (None) a model learned no labels. `bf16` computes under autocast, as training does.

    Returns:
        `accuracy` and `macro_f1`, means over tasks; the same by family (`tagging`, `tagging:f1`) and by task
        (`tagging/pos`, `tagging/pos:f1`); None where there is no head, and for tasks without any label in these rows,
        which no mean counts. `predictions` counts right labels (rows) by given ones.
    """
    assert source.labels is not None
    tasks = source.labels.tasks
    known = {task.name for task in heads.tasks} if heads is not None else set()
    blank = frozenset(task.name for task in tasks if not source.labels.counts[task.name])
    if heads is None:
        return MeasuredResult(NAME, RULES, "accuracy", _values(tasks, {}, blank))
    counts = {task.name: np.zeros((len(task.labels),) * 2, dtype=np.int64) for task in tasks if task.name in known}
    columns = {tags: [task.name for task in tasks if task.tags == tags] for tags in (False, True)}
    heads = heads.to(device).eval()
    with torch.inference_mode(), progress(label, source.tokens_per_epoch, "tok") as bar:
        for batch in source.once():
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                given = heads.predict(model.hidden(batch.tokens_BT, batch.lengths_B), batch.labels)
            for tags, said in zip((False, True), given, strict=True):
                mine = [task.name for task in heads.tasks if task.tags == tags]
                right = batch.labels["tags" if tags else "classes"].flatten(0, -2)
                for place, name in enumerate(mine):
                    targets = right[:, columns[tags].index(name)]
                    there = targets != IGNORE
                    pairs = targets[there] * len(counts[name]) + said.flatten(0, -2)[there, place]
                    found = torch.bincount(pairs, minlength=counts[name].size).cpu().numpy()
                    counts[name] += found.reshape(counts[name].shape)
            bar.advance(batch.token_count)
    rows = {name: table.tolist() for name, table in counts.items()}
    return MeasuredResult(NAME, RULES, "accuracy", _values(tasks, counts, blank), {"right_by_given": rows})


def _values(tasks: Sequence[LabelTask], counts: dict[str, Ints], blank: frozenset[str]) -> dict[str, MeasuredValue]:
    """Make the numbers of tables of right (rows) by given (columns) labels; `blank` tasks have no labels to compare."""
    single = {task.name: _of_task(counts.get(task.name), task, task.name in blank) for task in tasks}
    values = _means("accuracy", "macro_f1", tasks, single, blank)
    for family in FAMILIES:
        if members := [task for task in tasks if task.kind == family]:
            values |= _means(family, f"{family}:f1", members, single, blank)
    for task in tasks:
        accuracy, f1, _ = single[task.name]
        values |= {f"{task.kind}/{task.name}": accuracy, f"{task.kind}/{task.name}:f1": f1}
    return values


def _of_task(table: Ints | None, task: LabelTask, blank: bool) -> _Of:
    if table is None or not (n := int(table.sum())):
        note = BLANK if blank or table is not None else NO_HEAD
        return MeasuredValue(None, "accuracy", note=note), MeasuredValue(None, "f1", note=note), 0.0
    hits, right, given = np.diag(table), table.sum(1), table.sum(0)
    there = right + given > 0
    f1 = float(np.mean(2 * hits[there] / (right + given)[there]))
    share = float(right.max() / n)
    note = f"always '{task.labels[int(right.argmax())]}' scores {100 * share:.1f} %"
    return MeasuredValue(float(hits.sum() / n), "accuracy", n=n, note=note), MeasuredValue(f1, "f1", n=n), share


def _means(
    accuracy: str, f1: str, tasks: Sequence[LabelTask], single: dict[str, _Of], blank: frozenset[str]
) -> dict[str, MeasuredValue]:
    """Average over tasks with labels, each alike; None unless the model has a head for each of them.

    The same tasks count for all models.
    """
    members = [single[task.name] for task in tasks if task.name not in blank]
    if not members:
        return {accuracy: MeasuredValue(None, "accuracy", note=BLANK), f1: MeasuredValue(None, "f1", note=BLANK)}
    found = {}
    for name, ones in ((accuracy, [one for one, _, _ in members]), (f1, [one for _, one, _ in members])):
        known = [one.value for one in ones if one.value is not None]
        if len(known) < len(ones):
            note = "the model has not a head for each of its tasks" if known else ones[0].note
            found[name] = MeasuredValue(None, ones[0].unit, note=note)
            continue
        alone = float(np.mean([share for _, _, share in members]))
        note = f"mean over {len(ones)} tasks; the commonest label of each scores {100 * alone:.1f} %"
        if without := len(tasks) - len(ones):
            note += f"; {without} without labels in the test split do not count"
        note = note if name == accuracy else ""
        found[name] = MeasuredValue(float(np.mean(known)), ones[0].unit, n=sum(one.n for one in ones), note=note)
    return found


def _tasks(context: Context) -> MeasuredResult:
    source = context.labelled()
    if source is None:
        raise UserError("evaluation 'tasks' needs a recipe whose corpus has labels (a study, or `starter`), with "
                        "data.separator=brackets and data.rows.kind=examples")  # fmt: skip
    label = f"tasks {context.label}"
    [model, *_] = context.fresh()
    return evaluate_heads(model.eval(), context.heads(), source, context.models.device, context.precision, label)


TASKS = Measurement(_tasks, needs=frozenset({"held_out", "labels"}))
