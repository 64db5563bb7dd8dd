"""Courses of weight and temperature against their definitions, at lengths that divide nothing."""

import math

import pytest

from tutelage.teaching.schedule import TemperatureSchedule, WeightSchedule

LENGTHS = [1, 2, 3, 7, 100, 101]


def plain(kind: str, at: int, over: int, warmup: int, decay: int, weight: float, text: float) -> float:
    """The teachers' weight as the formulas of docs/methods.md have it."""
    d = at / over
    if d >= 1:
        return 0.0
    if kind == "step":
        return weight
    if kind == "linear":
        return weight * (1 - d)
    if kind == "cosine":
        return weight * (1 + math.cos(math.pi * d)) / 2
    if kind == "wsd":
        if warmup and at < warmup:
            return weight * (at + 1) / warmup
        return weight if at < over - decay else weight * (over - at) / decay
    ratio = weight / text * (1 - d)
    return (weight + text) * ratio / (1 + ratio)


@pytest.mark.parametrize("kind", ["step", "linear", "cosine", "wsd", "ratio_linear"])
@pytest.mark.parametrize("over", LENGTHS)
@pytest.mark.parametrize("start", [0, 13])
def test_weights_equal_their_formulas(kind: str, over: int, start: int) -> None:
    weight, text = 0.667, 0.333
    warmup, decay = over // 3, max(1, over // 4)
    fade = WeightSchedule(kind, start, over, warmup, decay, weight / text)
    for at in range(over + 3):
        expected = plain(kind, at, over, warmup, decay, weight, text)
        assert weight * fade.share(start + at) == pytest.approx(expected, abs=1e-12)
        assert (fade.share(start + at) > 0) == (start + at < fade.end)


@pytest.mark.parametrize("kind", ["linear", "cosine", "ratio_linear", "step"])
def test_weights_begin_whole_and_never_rise(kind: str) -> None:
    shares = [WeightSchedule(kind, 5, 50, ratio=2.0).share(step) for step in range(5, 60)]
    assert shares[0] == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("over", LENGTHS)
def test_temperatures_go_from_one_to_the_other_and_stay(kind: str, over: int) -> None:
    glide = TemperatureSchedule(kind, 4, over, 4.0, 1.0)
    found = [glide.at(4 + at) for at in range(over + 3)]
    assert found[0] == pytest.approx(4)
    assert found[over:] == [1.0, 1.0, 1.0]
    assert found == sorted(found, reverse=True)
    if over == 2:
        assert found[1] == pytest.approx(2.5)
