"""Distillation from two teachers: ours against Trainer with BabyLlama's loss, a plain loop, Liger's and TRL's losses.

    python benchmarks/distillation.py                # student of 128 x 4 layers, 8 rows a step
    python benchmarks/distillation.py --case 10m     # student of 10M parameters, 32 rows a step
    python benchmarks/distillation.py --quick        # a rehearsal

Needs the peers; how to set them up: see `common.py`. Teachers are a Llama and a GPT-2 of 192 x 4 layers, vocabulary
16,000, rows of 128 tokens. Loss: half cross-entropy, half KL(teachers' mean logits || student) at temperature 2 times
its square, both means over tokens. Two objectives differ and say so:

- Liger's loss hears the teachers only where there is a next token (127 of a row's 128 positions).
- "Trainer + TRL's GKD loss" has the divergence alone, no cross-entropy.

Liger and TRL know one teacher; two become one, exactly, by stacking hidden states and output layers side by side, each
with half its weight. Peak memory is that of the steps, over what the process held once models were loaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import (
    BODY_10M,
    Json,
    MemoryClock,
    Modes,
    Work,
    against,
    arguments,
    child,
    filled_cache,
    gpt2,
    in_mode,
    llama,
    ratio,
    run_once,
    run_rounds,
    save_inputs,
    speed,
    table,
)
from common import write as write_page
from torch import Tensor
from torch.nn import functional as F
from ways import autocast, ensemble, hf_model, hf_trainer, mode_of, ours, plain_loop, rows_of, text_of

from tutelage import recipe
from tutelage.base import machine
from tutelage.corpus.batches import BatchSource

VOCABULARY = 16000
TEACHERS = ("teacher-llama", "teacher-gpt2")
CACHES = ("hidden", "sparse")
TEACHER_WIDTH = 192


# --- rivals


def teachers_of(work: Work) -> list[Any]:
    """Load the teachers as transformers does."""
    return [hf_model(work, name).eval().requires_grad_(False) for name in work.teachers]


def mean_logits(work: Work, teachers: list[Any], tokens_BT: Tensor) -> Tensor:
    """Return the mean of the teachers' logits, `(B, T, V)`."""
    with torch.no_grad(), autocast(work):
        return torch.stack([teacher(input_ids=tokens_BT).logits for teacher in teachers]).mean(0)


def babyllama(work: Work) -> Callable[[Any, Json], Tensor]:
    """Make BabyLlama's loss, its divergence a mean over tokens instead of a sum over each row."""
    teachers, T = teachers_of(work), work.temperature

    # Trainer leaves its own autocast once the model has run; a softmax in bf16 would be another loss.
    @autocast(work)
    def loss_of(model: Any, inputs: Json) -> Tensor:
        student = model(**inputs)
        teacher = mean_logits(work, teachers, inputs["input_ids"])
        kl = F.kl_div(
            F.log_softmax(student.logits / T, -1).flatten(0, 1), F.softmax(teacher / T, -1).flatten(0, 1),
            reduction="batchmean",
        )  # fmt: skip
        return 0.5 * student.loss + 0.5 * T**2 * kl

    return loss_of


def trainer_babyllama(work: Work, clock: MemoryClock) -> Json:
    """Trainer with BabyLlama's loss."""
    return hf_trainer(work, clock, babyllama(work))


def loop_babyllama(work: Work, clock: MemoryClock) -> Json:
    """A plain loop with the same loss on full logits."""
    loss_of = babyllama(work)
    return plain_loop(work, clock, lambda model, tokens: loss_of(model, {"input_ids": tokens, "labels": tokens}))


@dataclass
class OneTeacher:
    """Several teachers as one wider output layer."""

    work: Work

    def __post_init__(self) -> None:
        self.models = teachers_of(self.work)
        heads = [model.lm_head.weight / len(self.models) for model in self.models]
        type_ = torch.bfloat16 if self.work.precision == "bf16" else torch.float32
        self.weight = torch.cat(heads, 1).to(type_)

    @torch.no_grad()
    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Return the stacked hidden states, `(B, T, sum of widths)`."""
        states = [model.base_model(input_ids=tokens_BT).last_hidden_state for model in self.models]
        return torch.cat(states, -1).to(self.weight.dtype)


def next_tokens(tokens_BT: Tensor) -> Tensor:
    """Return targets with nothing at the end of a row."""
    return F.pad(tokens_BT[:, 1:], (0, 1), value=-100)


def loop_liger(work: Work, clock: MemoryClock) -> Json:
    """A plain loop with Liger's chunked loss, compiled as it does by default."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    teacher = OneTeacher(work)
    fused = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.5, weight_soft_loss=0.5 * work.temperature**2, beta=0.0, temperature=work.temperature,
        chunk_size=work.options["chunk"],
    )  # fmt: skip

    def loss_of(model: Any, tokens_BT: Tensor) -> Tensor:
        student = model.base_model(input_ids=tokens_BT).last_hidden_state
        return fused(
            student.flatten(0, 1), model.lm_head.weight, teacher.hidden(tokens_BT).flatten(0, 1), teacher.weight,
            next_tokens(tokens_BT).flatten(),
        )  # fmt: skip

    return plain_loop(work, clock, loss_of)


def loop_trl(work: Work, clock: MemoryClock) -> Json:
    """A plain loop with TRL's chunked divergence, and cross-entropy beside it."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    teacher = OneTeacher(work)

    def loss_of(model: Any, tokens_BT: Tensor) -> Tensor:
        student = model.base_model(input_ids=tokens_BT).last_hidden_state
        kl, *_ = _chunked_divergence_loss(
            student, teacher.hidden(tokens_BT).to(student.dtype), model.lm_head.weight,
            teacher.weight.to(student.dtype), torch.ones_like(tokens_BT), beta=0.0, temperature=work.temperature,
        )  # fmt: skip
        logits = model.lm_head(student).flatten(0, 1)
        return 0.5 * F.cross_entropy(logits.float(), next_tokens(tokens_BT).flatten()) + 0.5 * work.temperature**2 * kl

    return plain_loop(work, clock, loss_of)


def trainer_gkd(work: Work, clock: MemoryClock) -> Json:
    """Trainer with the loss of TRL's GKDTrainer, on given text (its `lmbda=0`)."""
    from trl.experimental.gkd import GKDTrainer

    teachers = teachers_of(work)

    def loss_of(model: Any, inputs: Json) -> Tensor:
        student = model(input_ids=inputs["input_ids"]).logits.flatten(0, 1)
        teacher = mean_logits(work, teachers, inputs["input_ids"]).flatten(0, 1)
        return GKDTrainer.generalized_jsd_loss(student, teacher, beta=0.0, temperature=work.temperature)

    return hf_trainer(work, clock, loss_of)


# --- ours, with the teachers' outputs on disk


@contextmanager
def opened_cache(work: Work) -> Iterator[Any]:
    """Open the cache of what the teachers say, filled where it was not."""
    from tutelage.experiment import caches
    from tutelage.teaching.cache import TeacherCache

    distill = {"weight": 0.5, "temperature": work.temperature}
    stage = recipe.Stage.model_validate(
        {"teachers": work.teachers, "objectives": {"distill": distill}, "cache": work.options["cache"]}
    )
    cache = TeacherCache(
        Path(work.folder) / "caches",
        {"vocabulary": work.vocabulary, "teachers": work.teachers},
        caches.encoding_of(stage, [TEACHER_WIDTH] * 2, work.precision, work.vocabulary, varies=False),
        BatchSource(text_of(work), recipe.Rows(length=work.length), work.rows, seed=0),
        live=lambda: ensemble(work),
        precision=work.precision,
        seed=0,
    )
    with filled_cache(cache, stage.cache) as opened:
        yield opened


def fill_cache(work: Work, clock: MemoryClock) -> Json:
    """Fill a cache; tell how long it took and how large it is."""
    machine.set_up()
    with opened_cache(work) as cache:
        size = {"bytes_per_token": cache.store.bytes_per_token, "tokens": len(text_of(work).tokens)}
        return {"cache": cache.info() | size}


def ours_cached(work: Work, clock: MemoryClock) -> Json:
    """Ours, taught from a cache."""
    with opened_cache(work) as cache:
        return ours(work, clock, lambda _form: cache)


WAYS = {
    "ours": ours,
    "mode": mode_of,
    "fill": fill_cache,
    "ours-cached": ours_cached,
    "plain": plain_loop,
    "trainer": hf_trainer,
    "trainer-babyllama": trainer_babyllama,
    "loop-babyllama": loop_babyllama,
    "loop-liger": loop_liger,
    "loop-trl": loop_trl,
    "trainer-gkd": trainer_gkd,
}


# --- measuring


@dataclass(frozen=True)
class Case:
    """One size of student and batch."""

    student: Json
    rows: int
    rounds: int
    steps: int
    left_out: tuple[str, ...] = ()


CASES = {
    "small": Case(llama(128, 4, 384, 4), rows=8, rounds=2, steps=8),
    # What is slowest here was slowest there; naming a mode runs it all the same.
    "10m": Case(BODY_10M, rows=32, rounds=2, steps=4, left_out=("full logits", "TRL", "Trainer, cross-entropy")),
}

BARS = (
    ("ours bf16", "Trainer + BabyLlama's loss fp32", "3"),
    ("ours bf16", "Trainer + BabyLlama's loss bf16", "1.8"),
    ("ours fp32", "loop + Liger fp32", "1.1"),
    ("ours bf16", "loop + Liger bf16", "1.1"),
    ("ours bf16", "loop + Liger, default chunk bf16", "1.1"),
    ("ours bf16, cached sparse", "ours bf16, cross-entropy only", "0.85"),
)


def modes_of(fp32: Work, bf16: Work) -> Modes:
    """Name what is compared."""
    chunks, default_chunk = {"options": {"chunk": 128}}, {"options": {"chunk": 1024}}
    modes: Modes = {
        "ours fp32": ("ours", fp32),
        "ours bf16": ("ours", bf16),
        "Trainer + BabyLlama's loss fp32": ("trainer-babyllama", fp32),
        "Trainer + BabyLlama's loss bf16": ("trainer-babyllama", bf16),
        "loop + full logits fp32": ("loop-babyllama", fp32),
        "loop + full logits bf16": ("loop-babyllama", bf16),
        "loop + Liger fp32": ("loop-liger", replace(fp32, **chunks)),
        "loop + Liger bf16": ("loop-liger", replace(bf16, **chunks)),
        "loop + Liger, default chunk bf16": ("loop-liger", replace(bf16, **default_chunk)),
        "loop + TRL's chunked divergence fp32": ("loop-trl", fp32),
        "Trainer + TRL's GKD loss fp32": ("trainer-gkd", fp32),
        "ours bf16, cross-entropy only": ("ours", replace(bf16, teachers=())),
        "Trainer, cross-entropy only fp32": ("trainer", replace(fp32, teachers=())),
    }
    for kind in CACHES if "cache" in recipe.Stage.model_fields else ():  # what this version can keep
        modes[f"ours bf16, cached {kind}"] = ("ours-cached", replace(bf16, options={"cache": kind}))
    return modes


def expected_losses(work: Work) -> dict[str, float]:
    """Compute the first step's loss in fp32 from plain formulas, for each objective."""
    tokens_BT, T = rows_of(work)[0], work.temperature
    with torch.no_grad():
        logits = hf_model(work, work.student)(input_ids=tokens_BT).logits
        q = F.log_softmax(mean_logits(work, teachers_of(work), tokens_BT) / T, -1)
        kl_BT = (q.exp() * (q - F.log_softmax(logits / T, -1))).sum(-1)
        text = F.cross_entropy(logits.flatten(0, 1), next_tokens(tokens_BT).flatten())
    return {
        "as stated": float(0.5 * text + 0.5 * T**2 * kl_BT.mean()),
        "no teachers at a row's end": float(0.5 * text + 0.5 * T**2 * kl_BT[:, :-1].mean()),
        "divergence alone, without T squared": float(kl_BT.mean()),
        "drawn tokens": float("nan"),
        "text alone": float(text),
    }


def objective_of(name: str) -> str:
    """Tell which objective a mode has."""
    for part, objective in (
        ("Liger", "no teachers at a row's end"),
        ("GKD", "divergence alone, without T squared"),
        ("sparse", "drawn tokens"),
        ("only", "text alone"),
    ):
        if part in name:
            return objective
    return "as stated"


def main() -> None:
    """Measure and write down."""
    args = arguments(
        __doc__, rounds=0, steps=0, case={"choices": sorted(CASES), "default": "small", "help": "size (small)"}
    )
    case = CASES[args.case]
    args.rounds, args.steps = args.rounds or case.rounds, args.steps or case.steps
    args.dropped = min(2, args.steps - 1)
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "student": case.student,
            "teacher-llama": llama(TEACHER_WIDTH, 4, 512, 4),
            "teacher-gpt2": gpt2(TEACHER_WIDTH, 4, 4),
        }
        tokens = (args.steps + 2) * case.rows * 128
        save_inputs(Path(folder), models, VOCABULARY, tokens, sharp=TEACHERS)
        work = Work(folder, VOCABULARY, teachers=TEACHERS, rows=case.rows, steps=args.steps)
        expected = expected_losses(work)
        modes = modes_of(in_mode(work, args), in_mode(replace(work, precision="bf16"), args))
        if not args.modes:
            modes = {name: mode for name, mode in modes.items() if not any(part in name for part in case.left_out)}
        caches = {
            name: run_once("fill", this, args)["cache"]
            for name, (way, this) in modes.items()
            if way == "ours-cached" and (not args.modes or name in args.modes)
        }
        runs = run_rounds(modes, args)
        extra = _heads_over_student(work)
    speeds = {name: speed(found, work, args.dropped) for name, found in runs.items()}
    text = "\n\n".join((_table(speeds, expected), against(speeds, BARS), _notes(speeds, extra, caches)))
    data = {
        "speeds": speeds,
        "caches": caches,
        "expected_first_losses": expected,
        "heads_flops_over_student_flops": extra,
    }
    write_page(f"distillation-{args.case}", f"Distillation from two teachers, student `{args.case}`", text, data, args)


def _heads_over_student(work: Work) -> float:
    """Return the operations of the teachers' output layers over the student's training."""
    from tutelage.models.cost import cost_of

    heads = sum(2.0 * model.lm_head.weight.numel() for model in teachers_of(work))
    return heads / cost_of(hf_model(work, work.student), "causal", work.length).training_flops


def _table(speeds: dict[str, Json], expected: dict[str, float]) -> str:
    rows = []
    for name, s in speeds.items():
        if "failed" in s:
            rows.append((name, s["failed"], *[""] * 5))
            continue
        aim = expected[objective_of(name)]
        rows.append(
            (
                name,
                f"{s['tokens_per_second']:,.0f}",
                f"{s['slowest_round']:,.0f}-{s['fastest_round']:,.0f}",
                f"{s['peak_over_loaded_mb']:,.0f}",
                f"{s['peak_mb']:,.0f}",
                f"{s['losses'][0]:.4f}",
                "no two draws agree" if aim != aim else f"{s['losses'][0] - aim:+.1e} ({objective_of(name)})",
            )
        )
    columns = (
        "mode", "tokens/s", "rounds", "peak MB over loaded", "peak MB", "first loss", "off its formula (objective)",
    )  # fmt: skip
    return table(columns, rows)


def _notes(speeds: dict[str, Json], extra: float, caches: dict[str, Json]) -> str:
    lines = []
    for precision in ("fp32", "bf16"):
        for key, what in (("peak_mb", "peak memory"), ("peak_over_loaded_mb", "peak over loaded")):
            found = ratio(speeds, f"ours {precision}", f"loop + Liger {precision}", key)
            if found is not None:
                lines.append(f"- {what}, ours {precision} / loop + Liger {precision}: {found:.2f} (aim: at most 1.05)")
    hidden = ratio(speeds, "ours bf16, cached hidden", "ours bf16, cross-entropy only")
    if hidden is not None:
        lines.append(
            f"- tokens/s, cached hidden / cross-entropy only: {hidden:.2f} (aim: {0.9 / (1 + extra):.2f}, which "
            f"is 0.9 / (1 + {extra:.2f}), the teachers' output layers over the student's arithmetic)"
        )
    for name, cache in caches.items():
        seconds, size, tokens = (cache[key] for key in ("seconds", "bytes_per_token", "tokens"))
        lines.append(f"- {name}: {size:,} bytes a token, filled at {tokens / seconds:,.0f} tokens/s")
        rates = [speeds.get(mode, {}).get("tokens_per_second") for mode in ("ours bf16", name)]
        if all(rates):
            saved = 1 / rates[0] - 1 / rates[1]
            pays = f"from {seconds / tokens / saved:.1f} epochs on" if saved > 0 else "never here"
            lines[-1] += f"; against live teaching it pays {pays}"
    return "\n".join(lines)


if __name__ == "__main__" and not child(WAYS):
    main()
