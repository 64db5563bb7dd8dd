"""Long work outside Python, done beside the main thread."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")


def beside_main(work: Callable[[], Result]) -> Result:
    """Do work in a thread and wait for it, so that signals are heard meanwhile (Ctrl-C, SIGTERM).

    Python hears them between two steps of its main thread; a call into compiled code is one step, however long. After
    a signal the thread is left behind; it does not keep the process from ending, which then has exit code 130.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        # In short waits: a signal that comes just before a wait begins is heard when it ends.
        while not future.done():
            wait([future], timeout=0.1)
        return future.result()
    except BaseException:
        if thread.is_alive():
            atexit.register(_leave, thread)
        raise


def _leave(thread: threading.Thread) -> None:
    """End the process before Python ends its threads: one that is in compiled code would abort it."""
    if thread.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
