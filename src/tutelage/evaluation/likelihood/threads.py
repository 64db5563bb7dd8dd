"""Batches side by side on a CPU, a thread each: between a small model's products, threads hardly help each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from typing import TypeVar

import torch

Work = TypeVar("Work")
Done = TypeVar("Done")

AHEAD = 2
"""Pieces of work handed out to each thread; more would only take memory."""


def side_by_side(
    do: Callable[[Work], Done],
    pieces: Iterable[Work],
    device: str,
    inside: Callable[[], AbstractContextManager[object]],
) -> Generator[Done]:
    """Do pieces of work, as many at once as torch has threads, and yield what is found, in order.

    Args:
        do: the work; its tensors are computed by one thread.
        pieces: taken as they are needed.
        device: anything but `cpu` does one piece after the other, here.
        inside: makes what each piece is done within: such modes of torch belong to a thread.
    """

    def alone(piece: Work) -> Done:
        torch.set_num_threads(1)
        with inside():
            return do(piece)

    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1:
        for piece in pieces:
            with inside():
                yield do(piece)
        return
    left, waiting = iter(pieces), deque[Future[Done]]()
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                waiting.extend(pool.submit(alone, piece) for piece in islice(left, AHEAD * threads))
                while waiting:
                    found = waiting.popleft().result()
                    waiting.extend(pool.submit(alone, piece) for piece in islice(left, 1))
                    yield found
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        # Threads that torch starts later take the number that was set last.
        torch.set_num_threads(threads)
