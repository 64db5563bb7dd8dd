"""Progress on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tutelage.base import progress as module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("said", ["[/INST] was said", "[bold]loud[/bold]"])
def test_labels_and_notes_are_shown_as_they_are(monkeypatch, terminal, said) -> None:
    file = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=file, force_terminal=terminal, width=200, soft_wrap=True))
    monkeypatch.setattr(module.sys, "stderr", file)
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    with module.progress(f"label {said}", 2, "requests") as bar:
        bar.advance(1, f"note {said}")
    assert f"label {said}" in file.getvalue()
    assert f"note {said}" in file.getvalue()
