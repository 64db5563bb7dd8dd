"""The report's first sentences: did the teacher pay off, how sure is that, and what did it cost?

Nothing is claimed beyond the comparisons: "not shown" and "not tested" are answers too, and stand first where they are
the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.compare.comparisons import student_and_control
from tutelage.compare.cost import cost_of, mean_of, sources_of
from tutelage.compare.metrics import MISSING, UNITS, measure_name, values_of
from tutelage.compare.summary import Summary
from tutelage.compare.summary_pairs import Comparison
from tutelage.report.table_training import share
from tutelage.report.tables import amount, difference, flops_text, interval, p_value

ALSO = 4
"""Further measures told one by one; the rest is counted."""
FULL = 3
"""So many pairs are each answered in full, tested or not."""
_NOT_TESTED = "Not tested"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The verdict on one student, and its circumstances: other measures, and the cost."""

    sentence: str
    details: str


def headline(summary: Summary) -> list[Conclusion]:
    """Conclusion the question for every student and control of the run, or say why it cannot be answered.

    Of many pairs, those that were not tested share one answer: what has one seed is a side issue beside what has three.
    """
    pairs = list(student_and_control(summary.models))
    if not pairs:
        return [_without_control(summary)]
    answers = [_pair_answer(summary, *pair) for pair in pairs]
    told = [answer for answer in answers if not answer.sentence.startswith(_NOT_TESTED)]
    if len(answers) <= FULL or not told:
        return answers
    untested = [pair for pair, answer in zip(pairs, answers, strict=True) if answer not in told]
    return [*told, *([_untested(summary, untested)] if untested else [])]


def _untested(summary: Summary, pairs: list[tuple[str, str]]) -> Conclusion:
    """One answer for all pairs without a test: their differences, and that chance may be all of it."""
    differences = []
    for student, control in pairs:
        found = (entry for entry in summary.comparisons if {entry.a, entry.b} == {student, control})
        entry = next((_oriented(entry, student) for entry in found), None)
        shown = MISSING if entry is None else f"{_signed(entry)} on {_measure_words(entry)}"
        differences.append(f"{student} against {control} {shown}")
    count = f"{len(pairs)} more pair{'s' if len(pairs) > 1 else ''} of student and control"
    return Conclusion(
        f"{_NOT_TESTED}: {count}, for want of seeds.", f"Differences that chance may explain: {'; '.join(differences)}."
    )


def _what(summary: Summary, student: str, control: str) -> str:
    """Say what a control is."""
    if not sources_of(summary.models[student]):
        return "the same model without its labels"
    model, what = summary.models[control], "the same model without its teachers"
    whole = " and its teachers" if model.flops_counted == "counted" else ""
    return f"{what}, trained for as many FLOPs as {model.flops_of}{whole}" if model.flops_of is not None else what


def verdict(entry: Comparison, student: str, control: str, what: str) -> str:
    """Say in one sentence whether a student (`a` of the entry) beat its control, described by `what`, on one measure.

    The wording follows from the comparison alone:

    - **Not tested**: there is no interval, for want of seeds or of spread between them. The sentence gives the
      difference and the reason.
    - **Not shown**: the interval holds zero.
    - **Yes** or **No**: the interval leaves zero out, and the student is on the better side or on the worse.
    """
    measure, size = _measure_words(entry), f"{amount(entry, abs(entry.mean))}{_unit(entry)}"
    if entry.interval is None:
        side = "ahead of" if _student_better(entry) else "behind"
        found = f"{student} came out {f'{size} {side}' if entry.mean else 'level with'} {control}, {what}"
        return f"{_NOT_TESTED}: on {measure} {found}, but {_reason(entry)}, so chance cannot be told from effect."
    seeds = f"{entry.n} seed{'s' if entry.n != 1 else ''}"
    p = f"p = {p_value(entry.p)}".replace("= <", "< ")
    evidence = f"({100 * entry.level:g} % interval {_unsigned_interval(entry)}, {seeds}, {p})"
    if entry.verdict == "not shown":
        return f"Not shown: on {measure} {student} and {control}, {what}, differ by {_signed(entry)} {evidence}."
    answer, verb = ("Yes", "beat") if _student_better(entry) else ("No", "fell behind")
    return f"{answer}: on {measure} {student} {verb} {control}, {what}, by {size} {evidence}."


def _caveat(entry: Comparison) -> str:
    """What "not shown" leaves open."""
    if entry.verdict != "not shown" or entry.detectable is None:
        return ""
    reach = f"{amount(entry, entry.detectable)}{_unit(entry)}"
    return f"That does not prove them equal: with {entry.n} seeds, effects below about {reach} mostly go unseen."


def _pair_answer(summary: Summary, student: str, control: str) -> Conclusion:
    entries = [_oriented(entry, student) for entry in summary.comparisons if {entry.a, entry.b} == {student, control}]
    order = {"test.loss": 0, "test.bits_per_byte": 1}
    entries.sort(key=lambda entry: order.get(entry.metric, 2))
    if not entries:
        missing = f"{_NOT_TESTED}: no comparison of {student} with its control {control} was made."
        return Conclusion(missing, _cost_sentence(summary, student, control))
    details = [_caveat(entries[0])]
    # Bits per byte and strict accuracies hardly add to what stands first.
    alike = ("test.bits_per_byte", ".strict")
    further = [entry for entry in entries[1:] if not entry.metric.endswith(alike)]
    details += [_also(entry) for entry in further[:ALSO]]
    if len(further) > ALSO:
        details.append(f"{_verdicts(further[ALSO:])} The comparisons below have them one by one.")
    details += [_reached_sentence(summary, student, control), _cost_sentence(summary, student, control)]
    sentence = verdict(entries[0], student, control, _what(summary, student, control))
    return Conclusion(sentence, " ".join(text for text in details if text))


def _verdicts(entries: list[Comparison]) -> str:
    """How many further measures came out which way; chance alone decides some of so many."""
    shown = [_student_better(entry) for entry in entries if entry.verdict.startswith("shown")]
    count = f"{len(entries)} more measure" + ("s" if len(entries) > 1 else "")
    return f"Of {count}, {sum(shown)} showed the student better, {len(shown) - sum(shown)} the control."


def _also(entry: Comparison) -> str:
    """A short sentence for a further measure."""
    between = f", {100 * entry.level:g} % interval {interval(entry)}" if entry.interval else ""
    outcome = entry.verdict if entry.interval is None or entry.verdict == "not shown" else "shown"
    return f"On {_measure_words(entry)} the difference is {_signed(entry)}{between}: {outcome}."


def _reached_sentence(summary: Summary, student: str, control: str) -> str:
    """When the student came to the control's loss, in steps and in operations."""
    entry = next((entry for entry in summary.reached if (entry.a, entry.b) == (student, control)), None)
    if entry is None:
        return ""
    arrived = sum(seed.student is not None for seed in entry.seeds)
    if arrived < len(entry.seeds):
        when = f"in {arrived} of {len(entry.seeds)} seeds only" if arrived else "in no seed"
        return f"It reached the control's lowest validation loss {when}."
    text = f"It reached the control's lowest validation loss after {share(entry, 'steps')} of the control's steps"
    if "flops_with_teachers" in entry.shares and sources_of(summary.models[student]):
        whole = share(entry, "flops_with_teachers")
        text += f", with {share(entry, 'flops')} of its FLOPs, or {whole} with the training of the teachers"
    return f"{text}."


def _cost_sentence(summary: Summary, student: str, control: str) -> str:
    """What the teacher cost, and whether the control had as long."""
    taught, plain = (cost_of(summary.models, name) for name in (student, control))
    if not taught.total_flops or not plain.total_flops:
        return ""
    ratio = taught.total_flops / plain.total_flops
    alone = ((taught.flops or 0) + taught.teacher_flops + taught.scoring_flops) / plain.total_flops
    cost = f"The student cost {_times(ratio)} the control's FLOPs"
    if not sources_of(summary.models[student]):
        return f"{cost}, its heads and the making of its labels not counted."
    totals = f"{flops_text(taught.total_flops)} against {flops_text(plain.total_flops)}"
    text = f"{cost}, the training of its teachers included ({totals}); once the teachers exist, {_times(alone)}."
    if taught.uncounted:
        text += f" The training of {', '.join(taught.uncounted)} happened elsewhere and is not counted."
    steps = [mean_of(run.steps for run in summary.models[name].seeds.values()) for name in (student, control)]
    if ratio > 1.1 and steps[0] is not None and steps[0] == steps[1]:
        equal = [name for name, model in summary.models.items() if model.flops_of == student]
        text += " Both took the same number of steps"
        none = ", so a control given the same FLOPs is not part of this comparison."
        text += f"; {', '.join(equal)} took as many FLOPs." if equal else none
    return text


def _without_control(summary: Summary) -> Conclusion:
    if any(model.role == "student" for model in summary.models.values()):
        sentence = "Cannot tell: this run has a student, but no control (the same model without its teachers)."
        details = ["Add a model `{like: <student>, without: teachers}` to the recipe."]
    else:
        sentence, details = "This run has no student with a control, so it does not ask whether a teacher pays off.", []
    losses = {name: mean_of(values_of(model, "test.loss").values()) for name, model in summary.models.items()}
    if measured := [(loss, name) for name, loss in losses.items() if loss is not None]:
        loss, best = min(measured, key=lambda pair: pair[0])
        details.append(f"The lowest held-out loss is {best}'s: {loss:.3f} nats per token.")
    return Conclusion(sentence, " ".join(details))


def _measure_words(entry: Comparison) -> str:
    held_out = {"test.loss": "held-out loss", "test.bits_per_byte": "held-out bits per byte"}
    name = measure_name(entry.metric, entry.unit).removesuffix(f" ({UNITS[entry.unit].points})")
    return held_out.get(entry.metric, name)


def _unit(entry: Comparison) -> str:
    return f" {UNITS[entry.unit].words}".rstrip()


def _signed(entry: Comparison) -> str:
    return f"{difference(entry)}{_unit(entry)}"


def _unsigned_interval(entry: Comparison) -> str:
    """The interval; where all of it lies on one side of zero, which side is said in words, so it goes unsigned."""
    low, high = entry.interval or (0.0, 0.0)
    if low * high <= 0:
        return interval(entry)
    near, far = sorted((abs(low), abs(high)))
    return f"{amount(entry, near)} to {amount(entry, far)}"


def _oriented(entry: Comparison, student: str) -> Comparison:
    """The comparison with the student first, whichever way round it was made."""
    if entry.a == student:
        return entry
    low, high = entry.interval or (0.0, 0.0)
    pairs = [(seed, right, left) for seed, left, right in entry.pairs]
    turned = {"a": entry.b, "b": entry.a, "mean": -entry.mean, "interval": entry.interval and (-high, -low)}
    return entry.model_copy(update={**turned, "pairs": pairs})


def _student_better(entry: Comparison) -> bool:
    return (entry.mean > 0) == (entry.better == "higher")


def _reason(entry: Comparison) -> str:
    if not entry.pairs:
        return entry.note or "their seeds do not pair"
    return "there is one seed only" if entry.n == 1 else entry.verdict.removesuffix(": not tested")


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 10 else f"{ratio:.0f} times"
