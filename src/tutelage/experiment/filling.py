"""How teacher caches and token scores are filled: one group of processes at a time; others say that they wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tutelage.base.errors import Interrupted
from tutelage.base.files import locked
from tutelage.base.stopping import stop_flag
from tutelage.training.parallel import Group


class RowStore(Protocol):
    """Rows in the files of a folder, which are opened for reading and writing."""

    folder: Path

    def open(self) -> None: ...
    def close(self) -> None: ...


@contextmanager
def filled(
    store: RowStore,
    group: Group,
    what: str,
    create: Callable[[], None],
    missing: Callable[[], bool],
    complete: Callable[[], bool],
    fill: Callable[[Callable[[], bool]], bool],
) -> Iterator[None]:
    """Open a store; first fill it where rows are missing that are wanted now. All processes of the group call this.

    The lock is held until all rows are there, so that whoever fills it while it trains keeps others out.

    Args:
        store: not yet open.
        group: of processes.
        what: the store, in words.
        create: makes the files or checks them; called by the first process.
        missing: whether it is to be filled now.
        complete: whether all rows are there.
        fill: fills it, until its argument tells it to stop; returns whether it got to the end.

    Raises:
        UserError: the folder holds something else, or something damaged.
        Interrupted: SIGTERM or SIGINT came; what was computed is kept.
    """
    with ExitStack() as stack:
        filler = stack.enter_context(ExitStack())
        if group.is_main:
            waiting = f"waiting for {what} in {store.folder}, which another process fills"
            filler.enter_context(locked(store.folder / "lock", str(store.folder), waiting=waiting))
            create()
        group.barrier()
        store.open()
        stack.callback(store.close)
        # All together or none: another process may have filled its share by now.
        if group.from_main(missing()):
            with stop_flag() as stop:
                finished = fill(lambda: bool(stop.number))
            if not finished:
                raise Interrupted(stop.number)
        group.barrier()
        if complete():
            filler.close()
        yield
