"""What is said stands in the log too, and so does how a verb ended."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tutelage.base import console as module
from tutelage.base import progress
from tutelage.base.console import LoggingConsole, logged
from tutelage.base.errors import UserError

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[False, True], ids=["redirected", "terminal"])
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LoggingConsole:
    file = Terminal() if request.param else io.StringIO()
    made = LoggingConsole(file=file, force_terminal=request.param, width=80, soft_wrap=True)
    monkeypatch.setattr(module, "console", made)
    monkeypatch.setattr(progress, "console", made)
    monkeypatch.setattr(progress.sys, "stderr", file)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    return made


def lines(log: Path) -> list[str]:
    text = log.read_text()
    assert all(STAMP.match(line) for line in text.splitlines())
    return [STAMP.sub("", line) for line in text.splitlines()]


def test_messages_tables_and_progress_are_logged_without_colours(console: LoggingConsole, tmp_path: Path) -> None:
    log, table = tmp_path / "new" / "log.txt", Table("model", "loss", box=None)
    table.add_row("student", "3.85")
    with logged(log):
        console.print("[bold]read[/bold] 5 files")
        console.print(table)
        with progress.overall(lambda: ("1 of 2 trainings", 0.5)), progress.progress("train a", 10, "tok") as bar:
            bar.advance(5, "loss 4.0")
    said = lines(log)
    assert said[0].startswith("$ ")
    assert said[1] == "read 5 files"
    assert [line.split() for line in said[2:4]] == [["model", "loss"], ["student", "3.85"]]
    assert re.fullmatch(r"train a: 50 %, .* tok/s, .* left loss 4.0 \(1 of 2 trainings\)", said[4])
    assert said[5:] == ["done"]
    console.print("after")
    assert lines(log)[-1] == "done"


def test_how_a_verb_failed_stands_at_the_end(console: LoggingConsole, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(UserError), logged(log):
        raise UserError("data.corpus: no such folder")
    assert lines(log)[-1] == "stopped: data.corpus: no such folder"
    with pytest.raises(ZeroDivisionError), logged(log):
        _ = 1 / 0
    assert lines(log)[-1] == "ZeroDivisionError: division by zero"
    assert len([line for line in lines(log) if line.startswith("$ ")]) == 2


def test_a_log_that_cannot_be_written_stops_nothing(console: LoggingConsole, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with logged(tmp_path / "file" / "log.txt"):
        console.print("goes on")
    assert isinstance(console, Console)
    assert "goes on" in console.file.getvalue()  # type: ignore[attr-defined]
