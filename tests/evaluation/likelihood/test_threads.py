"""Work done side by side."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
import torch

from tutelage.evaluation.likelihood.masked import AHEAD, side_by_side


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 3])
def test_everything_is_found_in_order_and_within_what_was_asked(number: int) -> None:
    taken, found = [], []

    def pieces() -> Iterator[int]:
        for piece in range(20):
            taken.append(piece)
            assert len(taken) - len(found) <= AHEAD * number + 1, "taken as they are needed"
            yield piece

    def do(piece: int) -> tuple[int, bool, int, int]:
        return piece, torch.is_inference_mode_enabled(), torch.get_num_threads(), threading.get_ident()

    with threads(number):
        for one in side_by_side(do, pieces(), "cpu", torch.inference_mode):
            found.append(one)
        assert torch.get_num_threads() == number
    assert [piece for piece, *_ in found] == list(range(20))
    assert all(inside for _, inside, *_ in found)
    if number > 1:
        assert {count for _, _, count, _ in found} == {1}
        assert threading.get_ident() not in {thread for *_, thread in found}


def test_errors_come_through_and_nothing_goes_on() -> None:
    done = []

    def do(piece: int) -> int:
        if piece == 3:
            raise ValueError("no")
        done.append(piece)
        return piece

    with threads(2):
        with pytest.raises(ValueError, match="no"):
            list(side_by_side(do, range(100), "cpu", contextlib.nullcontext))
        assert torch.get_num_threads() == 2
    assert len(done) < 20
