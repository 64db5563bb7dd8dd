"""How many requests a study will take, before anything is asked: a forecast, repeats left out."""

from __future__ import annotations

from math import ceil

from tutelage.corpus.study_plan import ANNOTATED, StudyPlan, TaskKind
from tutelage.study.settings import Planning, Study
from tutelage.study.write.writing import EXPECTED


def forecast(study: Study, plan: StudyPlan | None = None) -> dict[str, int]:
    """Return the requests expected for each stage (`plan`, `write`, `label`).

    Texts of writing tasks are taken to have several lines, so that their words are not labelled: those on one line, of
    at most `labelling.tagged_words` words, take more requests. Before there is a plan its size follows from the
    settings, with as many of `labelling.tasks` in each kind as it can have: too many where several kinds are planned.
    """
    planned = study.plan if isinstance(study.plan, Planning) else Planning()
    topics = study.writing.corpus != "multi_task"
    kinds: tuple[TaskKind, ...] = ("generation",) if topics else planned.kinds
    if plan is None:
        tasks = dict.fromkeys(kinds, planned.tasks)
    else:
        tasks = {kind: len(plan.tasks(kind)) for kind in EXPECTED}
    labelled, planning = sum(tasks.get(kind, 0) for kind in ANNOTATED), 0
    if plan is None and isinstance(study.plan, Planning):
        planning = len(kinds) + labelled + sum(tasks.values())
    writing, texts = _writing(study, {} if topics else {kind: tasks.get(kind, 0) for kind in ANNOTATED}, tasks)
    steps = 2 if study.teacher.two_steps else 1
    asked = _asked(study, plan, tasks)
    return {"plan": steps * planning, "write": steps * writing, "label": steps * _labelling(study, asked, texts)}


def _asked(study: Study, plan: StudyPlan | None, tasks: dict[TaskKind, int]) -> dict[TaskKind, int]:
    """Return how many tasks of each kind are labelled."""
    names = study.labelling.tasks
    if names is None:
        return tasks
    if plan is None:
        return {kind: min(count, len(set(names))) for kind, count in tasks.items()}
    return {kind: sum(task.name in names for task in plan.tasks(kind)) for kind in ANNOTATED}


def _writing(
    study: Study, annotated: dict[TaskKind, int], tasks: dict[TaskKind, int]
) -> tuple[int, dict[TaskKind, int]]:
    """Return the requests for texts, and the texts of each kind."""
    writing, left = study.writing, float(study.writing.words)
    each, texts = writing.examples_per_task, dict[TaskKind, int]()
    if each is None:
        served: dict[TaskKind, int] = tasks if annotated else {"generation": tasks.get("generation", 0)}
        round_words = sum(count * EXPECTED[kind] for kind, count in served.items())
        rounds = left / round_words if round_words else 0
        texts = {kind: round(rounds * count) for kind, count in served.items()}
    else:
        wanted = {kind: each * count for kind, count in annotated.items()}
        needed = sum(count * EXPECTED[kind] for kind, count in wanted.items())
        share = min(1.0, left / needed) if needed else 0
        texts = {kind: round(share * count) for kind, count in wanted.items()}
        if tasks.get("generation"):
            texts["generation"] = round(max(0.0, left - needed) / EXPECTED["generation"])
    sizes = dict.fromkeys(ANNOTATED, writing.examples_per_request) | {"generation": writing.generation_per_request}
    return sum(ceil(count / sizes[kind]) for kind, count in texts.items()), texts


def _labelling(study: Study, tasks: dict[TaskKind, int], texts: dict[TaskKind, int]) -> int:
    """Return the requests for labels of so many texts, each for so many tasks."""
    at_once = study.labelling.ask == "family"
    asked: dict[TaskKind, tuple[TaskKind, ...]] = {
        "pair_classification": ("pair_classification",), "generation": ("classification",)
    }  # fmt: skip
    found = 0
    for kind, count in texts.items():
        planned = [tasks.get(one, 0) for one in asked.get(kind, ("classification", "tagging"))]
        found += count * sum(min(1, many) if at_once else many for many in planned)
    return found * study.labelling.votes
