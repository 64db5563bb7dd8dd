"""The report's first sentences: did the teacher pay off, how sure is that, and what did it cost?

Nothing is claimed beyond the comparisons: "not shown" and "not tested" are answers too, and stand first where they are
the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.compare.cost import cost_of, mean_of, sources_of
from tutelage.compare.metrics import MISSING, UNITS, measure_name, values_of
from tutelage.compare.standings import Standing, entries_of, judged, standings, student_better, weak_teachers
from tutelage.compare.summary import Summary, base_name
from tutelage.compare.summary_pairs import Comparison
from tutelage.report.table_training import share
from tutelage.report.tables import Table, amount, difference, flops_text, interval, p_value

ALSO = 4
"""Further measures told one by one; the rest is counted."""
ROWS = 10
"""Of more pairs than this, only each student's strongest control has a row, and all controls of the one judged."""
_LOSS = {"test.loss": "held-out loss", "test.bits_per_byte": "held-out bits per byte"}


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The report's answer, and its circumstances: other controls and measures, and the cost."""

    sentence: str
    details: str


def headline(summary: Summary) -> Conclusion:
    """Answer for the best student, against its strongest control; or say why it cannot be answered."""
    found = standings(summary)
    pairs = judged(summary, found)
    if pairs is None:
        return _without_control(summary)
    strongest = pairs[0]
    student, control, entry = strongest.student, strongest.control, strongest.entry
    cost = _cost_sentence(summary, student, control)
    if entry is None:
        return Conclusion(f"Cannot tell: no comparison of {student} with its control {control} was made.", cost)
    what = _what(summary, student, control)
    what += f", the strongest of its {len(pairs)} controls" if len(pairs) > 1 else ""
    sentence = verdict(entry, student, control, what)
    sentence += _numbers(summary, strongest) + _weak_teachers(summary, strongest)
    details = [
        _choice(found, student),
        _caveat(entry),
        _others(summary, pairs),
        *_further(entries_of(summary, student, control)[1:]),
        _condition(summary, strongest),
        _reached_sentence(summary, student, control),
        cost,
    ]
    return Conclusion(sentence, " ".join(text for text in details if text))


def verdicts_table(summary: Summary) -> Table:
    """One row a student and control: on the measure of the headline, how far apart, and what may be said."""
    found = standings(summary)
    speaks = judged(summary, found)
    count = sum(map(len, found.values()))
    pairs = [one for of in found.values() for one in (of if count <= ROWS or of is speaks else of[:1])]
    entries = [one.entry for one in pairs if one.entry is not None]
    measures = list(dict.fromkeys(entry.metric for entry in entries))
    rows = [_verdict_row(summary, one, len(measures) > 1) for one in pairs]
    green = {(row, 2) for row, one in enumerate(pairs) if _answer(one.entry) == "Yes"}
    on = f" on {_measure_words(entries[0])}" if len(measures) == 1 else ""
    note = "The strongest control of each student stands first."
    note += f" {count - len(rows)} weaker controls of other students are left out." if count > len(rows) else ""
    header = ("student", "control", "better?", "difference", "student's", "control's", "control trained for")
    return Table(f"Verdicts{on}", header, rows, note, left=2, green=green)


def _verdict_row(summary: Summary, one: Standing, named: bool) -> tuple[str, ...]:
    models, entry = summary.models, one.entry
    if entry is None:
        return (one.student, one.control, "not compared", MISSING, MISSING, MISSING, _training(summary, one))
    values = (mean_of(values_of(models[name], entry.metric).values()) for name in (one.student, one.control))
    around = f" ± {amount(entry, entry.detectable)}" if entry.detectable is not None else ""
    measure = f" {_measure_words(entry)}" if named else ""
    answer = {"Cannot tell": "not shown" if one.tested else "not tested"}.get(answered := _answer(entry), answered)
    return (
        one.student,
        one.control,
        answer,
        f"{difference(entry)}{around}{measure}",
        *(MISSING if value is None else amount(entry, value) for value in values),
        _training(summary, one),
    )


def _training(summary: Summary, one: Standing) -> str:
    """A control's length, and what it is long as."""
    model = summary.models[one.control]
    passes = mean_of(run.epochs for run in model.seeds.values())
    whole = " and its teachers'" if model.flops_counted == "counted" else ""
    parts = [] if passes is None else [f"{passes:.3g} passes"]
    parts += [f"{model.flops_of}'s{whole} FLOPs"] if model.flops_of is not None else []
    parts += ["teaches it"] if one.control in map(base_name, summary.models[one.student].teachers) else []
    return ", ".join(parts) or MISSING


def _what(summary: Summary, student: str, control: str) -> str:
    """Say what a control is."""
    taught, model = summary.models[student], summary.models[control]
    if not sources_of(taught):
        return "the same model without its labels"
    what = "the same model without its teachers"
    if control in map(base_name, taught.teachers):
        what = "the same model without teachers, seeds of which teach it"
    if model.flops_of is not None:
        whole = " and its teachers" if model.flops_counted == "counted" else ""
        return f"{what}, trained for as many FLOPs as {model.flops_of}{whole}"
    own, other = (mean_of(run.epochs for run in one.seeds.values()) for one in (model, taught))
    if own is None or other is None or f"{own:.3g}" == f"{other:.3g}":
        return what
    return f"{what}, trained for {own:.3g} passes instead of {other:.3g}"


def _numbers(summary: Summary, one: Standing) -> str:
    """Both values, so that a reader sees how large the difference is."""
    if one.entry is None:
        return ""
    values = (mean_of(values_of(summary.models[n], one.entry.metric).values()) for n in (one.student, one.control))
    shown = [amount(one.entry, value) for value in values if value is not None]
    return f" The two have {' and '.join(shown)}{_unit(one.entry)}; {one.entry.better} is better."


def _weak_teachers(summary: Summary, one: Standing) -> str:
    """Tell of teachers that are worse than the control, and what to do."""
    weak = {} if one.entry is None else weak_teachers(summary, one.student, one.control, one.entry)
    if one.entry is None or not weak:
        return ""
    whose, them = ("teachers are", "them") if len(weak) > 1 else ("teacher is", "it")
    values = ", ".join(f"{name} {amount(one.entry, value)}" for name, value in weak.items())
    return (
        f" Its {whose} worse than {one.control} ({values}): train {them} longer or with better settings, "
        "take larger ones, or let several seeds of the control teach."
    )


def _choice(found: dict[str, list[Standing]], student: str) -> str:
    """Say that the best of several students speaks for all."""
    if len(found) == 1:
        return ""
    return f"{student} is the best of {len(found)} students; the interval is not corrected for this choice."


def _others(summary: Summary, pairs: list[Standing]) -> str:
    """How the student stands against its other controls, with numbers."""
    told = []
    for one in pairs[1:]:
        if one.entry is None:
            continue
        outcome = {"Yes": "shown better", "No": "shown worse"}.get(_answer(one.entry), "not shown")
        outcome = outcome if one.tested else "not tested"
        told.append(f"{one.control} ({_training(summary, one)}) {_signed(one.entry)}, {outcome}")
    return f"Against its other controls: {'; '.join(told)}." if told else ""


def _further(entries: list[Comparison]) -> list[str]:
    """Other measures of the same pair. Bits per byte and strict accuracies hardly add to what stands first."""
    further = [entry for entry in entries if not entry.metric.endswith(("test.bits_per_byte", ".strict"))]
    told = [_also(entry) for entry in further[:ALSO]]
    return (
        [*told, f"{_verdicts(further[ALSO:])} The comparisons below have them one by one."] if further[ALSO:] else told
    )


def _condition(summary: Summary, one: Standing) -> str:
    """What an interval over seeds leaves out."""
    if not one.tested:
        return ""
    taught = "one set of teachers, " if sources_of(summary.models[one.student]) else ""
    return (
        f"The interval is over seeds of the two models, which share {taught}one corpus and one order of its rows: it "
        "does not say what another of these would give."
    )


def _answer(entry: Comparison | None) -> str:
    """Yes or No where the interval leaves zero out."""
    if entry is None or entry.interval is None or not entry.verdict.startswith("shown"):
        return "Cannot tell"
    return "Yes" if student_better(entry) else "No"


def verdict(entry: Comparison, student: str, control: str, what: str) -> str:
    """Say in one sentence whether a student (`a` of the entry) beat its control, described by `what`, on one measure.

    The wording follows from the comparison alone:

    - **Cannot tell**: there is no interval, for want of seeds or of spread between them, and the sentence gives the
      difference and the reason; or the interval holds zero.
    - **Yes** or **No**: the interval leaves zero out, and the student is on the better side or on the worse.
    """
    measure, size = _measure_words(entry), f"{amount(entry, abs(entry.mean))}{_unit(entry)}"
    if entry.interval is None:
        side = "ahead of" if student_better(entry) else "behind"
        found = f"{student} came out {f'{size} {side}' if entry.mean else 'level with'} {control}, {what}"
        return f"Cannot tell: on {measure} {found}, but {_reason(entry)}, so chance cannot be told from effect."
    seeds = f"{entry.n} seed{'s' if entry.n != 1 else ''}"
    p = f"p = {p_value(entry.p)}".replace("= <", "< ")
    evidence = f"({100 * entry.level:g} % interval {_unsigned_interval(entry)}, {seeds}, {p})"
    if entry.verdict == "not shown":
        return f"Cannot tell: on {measure} {student} and {control}, {what}, differ by {_signed(entry)} {evidence}."
    answer, verb = ("Yes", "beat") if student_better(entry) else ("No", "fell behind")
    return f"{answer}: on {measure} {student} {verb} {control}, {what}, by {size} {evidence}."


def _caveat(entry: Comparison) -> str:
    """What "not shown" leaves open."""
    if entry.verdict != "not shown" or entry.detectable is None:
        return ""
    reach = f"{amount(entry, entry.detectable)}{_unit(entry)}"
    return f"That does not prove them equal: with {entry.n} seeds, effects below about {reach} mostly go unseen."


def _verdicts(entries: list[Comparison]) -> str:
    """How many further measures came out which way; chance alone decides some of so many."""
    shown = [student_better(entry) for entry in entries if entry.verdict.startswith("shown")]
    count = f"{len(entries)} more measure" + ("s" if len(entries) > 1 else "")
    return f"Of {count}, {sum(shown)} showed the student better, {len(shown) - sum(shown)} the control."


def _also(entry: Comparison) -> str:
    """A short sentence for a further measure."""
    between = f", {100 * entry.level:g} % interval {interval(entry)}" if entry.interval else ""
    outcome = {"Yes": "shown better", "No": "shown worse"}.get(_answer(entry), entry.verdict)
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
    name = measure_name(entry.metric, entry.unit).removesuffix(f" ({UNITS[entry.unit].points})")
    return _LOSS.get(entry.metric, name)


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


def _reason(entry: Comparison) -> str:
    if not entry.pairs:
        return entry.note or "their seeds do not pair"
    return "there is one seed only" if entry.n == 1 else entry.verdict.removesuffix(": not tested")


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 10 else f"{ratio:.0f} times"
