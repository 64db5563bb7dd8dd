"""The teacher that a study names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tutelage.study.client.store import Store
from tutelage.study.client.teacher_llm import TeacherLLM
from tutelage.study.settings import Study


@contextmanager
def open_teacher(study: Study, store: Store) -> Iterator[TeacherLLM]:
    """Open the teacher of a study; nothing is connected or loaded before a request needs it.

    Args:
        study: names the endpoint or the weights, and the budget.
        store: open, see `store.open_store`.

    Raises:
        UserError: an address that cannot be, answers of another teacher in the store, a missing package.
    """
    if study.teacher.faults == "again":
        store.forget_faults()
    if study.teacher.endpoint is not None:
        from tutelage.study.client.remote import RemoteTeacher

        yield RemoteTeacher(study, store)
    else:
        from tutelage.study.client.local import LocalTeacher

        yield LocalTeacher(study, store)
