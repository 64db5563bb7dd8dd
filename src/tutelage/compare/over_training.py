"""Students and their controls while they train: apart at the same steps, and when the control's loss is reached.

Both read the validation curves, seed by seed. A student that reaches its control's loss early has saved steps; whether
it has saved work depends on what its teachers took, so steps, operations and seconds stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tutelage.compare.cost import cost_of
from tutelage.compare.statistics import paired_t
from tutelage.compare.summary import Models
from tutelage.compare.summary_pairs import CurveDifference, CurvePoint, Mean, Reached, ReachedSeed, Spent
from tutelage.compare.summary_runs import Point, SeedRun

AMOUNTS = ("steps", "flops", "flops_with_teachers", "seconds", "seconds_with_teachers")
"""What a way to the control's loss is measured in; `with_teachers`: the training of the teachers added, whole."""


def reached(models: Models, a: str, b: str, level: float = 0.95) -> Reached | None:
    """Find when student `a` reached the lowest validation loss of control `b`, seed by seed.

    Between two evaluations the loss is taken to fall in a straight line; a loss that was there at the first evaluation
    counts from then. Amounts are those up to that step, of the control up to its own lowest loss. Shares, student over
    control, get paired t-intervals over seeds, and only where every seed reached the loss: a mean over those that did
    would flatter. None where no seed has both curves.
    """
    one, two = models[a], models[b]
    seeds = [_reached_seed(models, a, b, seed) for seed in one.seeds if seed in two.seeds]
    known = [seed for seed in seeds if seed is not None]
    if not known:
        return None
    shares = {}
    for amount in AMOUNTS:
        ratios = [_ratio(seed.student, seed.control, amount) for seed in known]
        present = [ratio for ratio in ratios if ratio is not None]
        if len(present) == len(known):
            estimate = paired_t(present, level)
            shares[amount] = Mean(mean=estimate.mean, interval=estimate.interval)
    return Reached(a=a, b=b, level=level, seeds=known, shares=shares)


def curve_difference(models: Models, a: str, b: str, level: float = 0.95) -> CurveDifference | None:
    """Difference of validation loss (a minus b) at every step at which all paired seeds of both were evaluated.

    None where there is no such step.
    """
    pairs = []
    for seed, run in models[a].seeds.items():
        other = models[b].seeds.get(seed)
        if other is not None and run.curves.get("val_loss") and other.curves.get("val_loss"):
            pairs.append(tuple({p[0]: p for p in side.curves["val_loss"]} for side in (run, other)))
    shared = set.intersection(*(one.keys() & two.keys() for one, two in pairs)) if pairs else set()
    if not shared:
        return None
    points = []
    for step in sorted(shared):
        estimate = paired_t([one[step][2] - two[step][2] for one, two in pairs], level)
        tokens = pairs[0][0][step][1]
        points.append(CurvePoint(step=step, tokens=tokens, mean=estimate.mean, interval=estimate.interval))
    return CurveDifference(a=a, b=b, n=len(pairs), level=level, points=points)


def crossing(curve: Sequence[Point], loss: float) -> float | None:
    """First step at which a curve, straight between its points, is at or below a loss; None if it never is."""
    for before, after in zip([None, *curve[:-1]], curve, strict=True):
        if after[2] <= loss:
            if before is None:
                return float(after[0])
            return before[0] + (after[0] - before[0]) * (before[2] - loss) / (before[2] - after[2])
    return None


def _reached_seed(models: Models, a: str, b: str, seed: str) -> ReachedSeed | None:
    one, two = models[a].seeds[seed], models[b].seeds[seed]
    curves = one.curves.get("val_loss"), two.curves.get("val_loss")
    if not curves[0] or not curves[1]:
        return None
    lowest = min(curves[1], key=lambda point: point[2])
    step = crossing(curves[0], lowest[2])
    return ReachedSeed(
        seed=int(seed),
        loss=lowest[2],
        student=None if step is None else _spent(models, a, one, step),
        control=_spent(models, b, two, float(lowest[0])),
    )


def _spent(models: Models, name: str, run: SeedRun, step: float) -> Spent:
    """What a model had taken when it came to a step."""
    teachers = cost_of(models, name)
    flops, seconds = _at(run.curves.get("flops"), step), _at(run.curves.get("seconds"), step)
    return Spent(
        steps=step,
        flops=flops,
        flops_with_teachers=None if flops is None else flops + teachers.teachers_training_flops,
        seconds=seconds,
        seconds_with_teachers=None if seconds is None else seconds + teachers.teachers_training_seconds,
    )


def _at(curve: Sequence[Point] | None, step: float) -> float | None:
    if not curve:
        return None
    steps, _, values = np.asarray(curve, dtype=np.float64).T
    return float(np.interp(step, steps, values))


def _ratio(student: Spent | None, control: Spent, amount: str) -> float | None:
    above = None if student is None else getattr(student, amount)
    below = getattr(control, amount)
    return None if above is None or not below else above / below
