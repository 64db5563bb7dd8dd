"""Progress on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from tutelage.base import progress as module
from tutelage.base.console import LoggingConsole


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("said", ["[/INST] was said", "[bold]loud[/bold]"])
def test_labels_and_notes_are_shown_as_they_are(monkeypatch, terminal, said) -> None:
    file = Terminal() if terminal else io.StringIO()
    made = LoggingConsole(file=file, force_terminal=terminal, width=200, soft_wrap=True)
    monkeypatch.setattr(module, "console", made)
    monkeypatch.setattr(module.sys, "stderr", file)
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    with module.progress(f"label {said}", 2, "requests") as bar:
        bar.advance(1, f"note {said}")
    assert f"label {said}" in file.getvalue()
    assert f"note {said}" in file.getvalue()


def test_the_whole_is_told_with_the_time_that_is_left(monkeypatch) -> None:
    clock, share = [100.0], [0.5]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    whole = module.Overall(lambda: (f"{share[0]:.0%} done", share[0]))
    assert str(whole) == "50% done"  # nothing is known of its speed yet
    clock[0], share[0] = 160.0, 0.7
    assert str(whole) == "70% done, about 1 min 30 s left in all"
    clock[0], share[0] = 160.5, 0.9
    assert str(whole) == "70% done, about 1 min 30 s left in all", "looked at too often"
    clock[0] = 161.0
    assert str(whole) == "90% done, about 15 s left in all"


def test_only_the_outermost_bar_has_the_line_for_the_whole(monkeypatch) -> None:
    file = Terminal()
    monkeypatch.setattr(module, "console", LoggingConsole(file=file, force_terminal=True, width=80, soft_wrap=True))
    monkeypatch.setattr(module.sys, "stderr", file)
    with module.overall(lambda: ("2 of 6 trainings", 0.4)), module.progress("train", 2, "tok"):
        outer = module._bars[0]
        with module.progress("val", 2, "tok"):
            texts = [[str(one) for one in bar.get_renderables()] for bar in module._bars]
    assert [any("2 of 6 trainings" in text for text in bar) for bar in texts] == [True, False]
    assert "2 of 6 trainings" in file.getvalue()
    assert not module._bars
    assert outer.finished is False
