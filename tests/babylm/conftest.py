"""Result files in a twentieth of the published sizes; the fixture `published_sizes` brings the whole ones back."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tutelage.babylm.format import FORMATS, SubmissionFormat, SubmissionTask, Year

PUBLISHED = dict(FORMATS)
SHARE, LEAST = 20, 12


def _smaller(form: SubmissionFormat) -> SubmissionFormat:
    def task(one: SubmissionTask) -> SubmissionTask:
        return replace(one, sizes={name: min(size, max(LEAST, size // SHARE)) for name, size in one.sizes.items()})

    parts = {part: tuple(map(task, getattr(form, part))) for part in ("full", "fast", "glue")}
    return replace(form, **parts, words=form.words // SHARE // 5 * 5)


@pytest.fixture(scope="module", autouse=True)
def smaller_formats() -> Iterator[None]:
    """The same tasks, sub-tasks and files, quick to write and to check."""
    with pytest.MonkeyPatch.context() as patch:
        for year, form in PUBLISHED.items():
            patch.setitem(FORMATS, year, _smaller(form))
        yield


@pytest.fixture
def published_sizes(monkeypatch: pytest.MonkeyPatch) -> dict[Year, SubmissionFormat]:
    """The published sizes, for one test."""
    for year, form in PUBLISHED.items():
        monkeypatch.setitem(FORMATS, year, form)
    return PUBLISHED
