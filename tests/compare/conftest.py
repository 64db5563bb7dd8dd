"""Summaries made up for the tests: one like a BabyLlama run, one as bare as a run can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tutelage.compare.comparisons import with_comparisons

PHENOMENA = {
    "anaphor_agreement": ("morphology", 2),
    "argument_structure": ("syntax", 9),
    "binding": ("syntax_semantics", 7),
    "control_raising": ("syntax_semantics", 5),
    "determiner_noun_agreement": ("morphology", 8),
    "ellipsis": ("syntax", 2),
    "filler_gap_dependency": ("syntax", 7),
    "irregular_forms": ("morphology", 2),
    "island_effects": ("syntax", 8),
    "npi_licensing": ("semantics", 7),
    "quantifiers": ("semantics", 4),
    "subject_verb_agreement": ("morphology", 6),
}
SUPPLEMENT = ("hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking")
ENSEMBLE = "ensemble(teacher-llama, teacher-gpt2)"
STEPS = 6000
TOKENS_A_STEP = 4096


def paradigm_names() -> dict[str, tuple[str, str]]:
    """67 names as long as BLiMP's, each with its field and phenomenon."""
    return {
        f"{phenomenon}_with_distractor_{i + 1}": (field, phenomenon)
        for phenomenon, (field, count) in PHENOMENA.items()
        for i in range(count)
    }


def held_out(loss: float) -> dict[str, float]:
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / math.log(2) / 3.9}


def suite(generator: np.random.Generator, skill: float, supplement: bool = False) -> dict[str, Any]:
    """A suite whose phenomena differ in difficulty (the same for all models) and whose paradigms scatter."""
    difficulty = np.random.default_rng(7)
    names = dict.fromkeys(SUPPLEMENT, (None, None)) if supplement else paradigm_names()
    paradigms = {}
    for name, (field, phenomenon) in names.items():
        accuracy = float(np.clip(difficulty.uniform(0.42, 0.86) + skill + generator.normal(0, 0.015), 0, 1))
        paradigms[name] = {"accuracy": accuracy, "strict": max(0.0, accuracy - 0.002), "n": 1000}
        if field:
            paradigms[name] |= {"field": field, "phenomenon": phenomenon}

    def mean_by(key: str) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for entry in paradigms.values():
            if key in entry:
                groups.setdefault(str(entry[key]), []).append(float(entry["accuracy"]))
        return {group: float(np.mean(values)) for group, values in groups.items()}

    return {
        "convention": "2025",
        "accuracy": float(np.mean([entry["accuracy"] for entry in paradigms.values()])),
        "strict": float(np.mean([entry["strict"] for entry in paradigms.values()])),
        "items": 1000 * len(paradigms),
        "fields": mean_by("field"),
        "phenomena": mean_by("phenomenon"),
        "paradigms": paradigms,
    }


def seed_run(seed: int, final: float, skill: float, flops: float, teacher_flops: float = 0.0) -> dict[str, Any]:
    generator = np.random.default_rng([seed, int(final * 1e6)])
    loss = final + float(generator.normal(0, 0.006))

    def curve(count: int, noise: float, bottom: float, top: float) -> list[list[float]]:
        points = []
        for step in np.linspace(STEPS / count, STEPS, count).astype(int):
            value = bottom + (top - bottom) * math.exp(-6 * (step / STEPS) ** 0.45) + generator.normal(0, noise)
            points.append([int(step), int(step) * TOKENS_A_STEP, float(value)])
        return points

    curves = {"train_loss": curve(1000, 0.06, loss - 0.3, 9.7), "val_loss": curve(20, 0.004, loss, 9.7)}
    curves["lr"] = [[1, TOKENS_A_STEP, 0.0003]]
    if teacher_flops:
        curves["train_kl"] = curve(1000, 0.02, 0.35, 4.0)
    seconds = 900.0 + 250 * bool(teacher_flops)
    return {
        "steps": STEPS,
        "tokens": STEPS * TOKENS_A_STEP,
        "words": 17_400_000,
        "epochs": 20.0,
        "seconds": seconds,
        "flops": flops,
        "teacher_flops": teacher_flops,
        "seconds_teaching": 250.0 if teacher_flops else None,
        "best_step": STEPS,
        "val": held_out(loss - 0.01),
        "test": held_out(loss),
        "curves": curves,
        "clip_rate": 0.12,
        "suites": {"blimp": suite(generator, skill), "blimp-supplement": suite(generator, skill / 2, supplement=True)},
    }


def model(role: str, parameters: int, seeds: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": role, "parameters": parameters, "non_embedding_parameters": parameters // 2, "seeds": seeds, **more}


def make_full() -> dict[str, Any]:
    """Two teachers, a student and its control with three seeds each, and the teachers' ensemble."""
    ensemble_seed = {"val": held_out(3.40), "test": held_out(3.41)}
    ensemble_seed["suites"] = {"blimp": suite(np.random.default_rng(5), 0.045)}  # type: ignore[assignment]
    teachers = ["teacher-llama", "teacher-gpt2"]
    distill = {"weight": 0.5, "temperature": 2, "reduction": "per_token", "temperature_squared": False}
    return {
        "schema": 1,
        "recipe": "babyllama-1m",
        "created": "2026-11-21T02:00:00Z",
        "tutelage": "0.1.0",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.4.1"},
        "machine": {"cpu": "Example CPU", "cores": 2, "memory_gib": 24, "gpu": None},
        "resolved_recipe": {"name": "babyllama-1m", "models": {"student": {"optim": {"lr": 3e-4}}}},
        "data": {
            "corpus": "babylm-2023-1m",
            "words": {"train": 871_000, "val": 45_900, "test": 930_000},
            "tokens": {"train": 1_229_000, "val": 64_800, "test": 1_312_000},
            "vocab_size": 8000,
            "bytes_per_token": {"val": 3.91, "test": 3.9},
        },
        "models": {
            "teacher-llama": model("teacher", 12_400_000, {"0": seed_run(0, 3.52, 0.02, 6e14)}, architecture="llama"),
            "teacher-gpt2": model("teacher", 17_100_000, {"0": seed_run(0, 3.55, 0.025, 8e14)}, architecture="gpt2"),
            "student": model(
                "student",
                7_900_000,
                {str(s): seed_run(s, 3.47, 0.03, 3.6e14, 4.7e14) for s in range(3)},
                preset="llama-8m",
                architecture="llama",
                teachers=teachers,
                objectives=[{"next_token": 0.5, "distill": distill}],
            ),
            "control": model(
                "control",
                7_900_000,
                {str(s): seed_run(s, 3.53, 0.015, 3.6e14) for s in range(3)},
                preset="llama-8m",
                architecture="llama",
                like="student",
                objectives=[{"next_token": 1}],
            ),
            ENSEMBLE: model("ensemble", 29_500_000, {"0": ensemble_seed}, members=teachers),
        },
        "differences": [
            {"a": "student", "b": "control", "keys": [["teachers", teachers, []], ["optim.lr", 3e-4, 1e-3]]}
        ],
    }


def make_minimal() -> dict[str, Any]:
    """One model that was not even trained yet."""
    return {
        "schema": 1,
        "recipe": "bare",
        "created": "2026-11-21T02:00:00Z",
        "tutelage": "0.1.0",
        "models": {"only": {"role": "model"}},
    }


@pytest.fixture
def full() -> dict[str, Any]:
    """A complete run without its comparisons."""
    return make_full()


@pytest.fixture(scope="session")
def compared() -> dict[str, Any]:
    """The same with its comparisons; not to be changed."""
    return with_comparisons(make_full())


@pytest.fixture
def minimal() -> dict[str, Any]:
    return make_minimal()
