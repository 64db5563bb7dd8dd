"""What a verb says goes to stderr, and while a log is open also there, each line with the time.

Results go to stdout, so that they can be piped.
"""

from __future__ import annotations

import io
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.control import Control

from tutelage.base.errors import Interrupted, UserError

LOG_WIDTH = 120
"""Columns of tables in a log."""
NARROWEST = 12
"""Letters of a name that a table shows in one line, however narrow the terminal is."""


class LoggingConsole(Console):
    """A console that also writes to a log, where one is open."""

    log_path: Path | None = None

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        # Bars refresh themselves by printing an order to the terminal, many times a second.
        if self.log_path is not None and not all(isinstance(one, Control) for one in objects):
            plain = Console(file=io.StringIO(), width=LOG_WIDTH, color_system=None, highlight=False, soft_wrap=True)
            plain.print(*objects, **options)
            self.write_log(plain.file.getvalue())  # type: ignore[attr-defined]

    def write_log(self, text: str) -> None:
        """Add lines to the log alone; a log that cannot be written stops nobody's training."""
        if self.log_path is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{stamp}  {line}\n" for line in text.rstrip().splitlines())
        with suppress(OSError):
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            # Opened anew for each message: several processes may add to one log.
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(lines)


console = LoggingConsole(stderr=True, highlight=False, soft_wrap=True)


def output() -> Console:
    """Return where results are printed: stdout, wide enough for tables where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=120)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what is said inside also to the end of a log: the command first, an error or the end of it last."""
    before, console.log_path = console.log_path, path
    console.write_log(f"$ {' '.join((Path(sys.argv[0]).name.replace('__main__.py', 'tutelage'), *sys.argv[1:]))}")
    try:
        yield
        console.write_log("done")
    except (UserError, Interrupted) as error:
        console.write_log(f"stopped: {error}")
        raise
    except BaseException:
        console.write_log(traceback.format_exc())
        raise
    finally:
        console.log_path = before
