"""How threads should wait for each other on a CPU: sleep at once, spin for a while, or spin for good.

    python benchmarks/waiting.py            # needs an idle machine, and nothing beyond tutelage

A small student (Llama, 4 layers of width 128, vocabulary 16,000) learns from two live teachers, 8 rows of 128 tokens a
step: many short operations, between which threads wait. Each run is a process of its own; runs are interleaved, first
on the idle machine, then beside one process that never rests. Writes `waiting.json` and `waiting.md` here.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS, STEPS = 2, 12
WAYS = {
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "spin 1,000 times, then sleep": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"},
    "spin 10,000 times, then sleep": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"},
    "the library's default": {},
    "spin": {"OMP_WAIT_POLICY": "ACTIVE"},
}


def tokens_per_second() -> float:
    """Train for some steps in this process; the median, without the first steps."""
    import torch

    from tutelage import recipe
    from tutelage.base import machine
    from tutelage.bench.timed import MadeUpText, MadeUpTokenizer
    from tutelage.corpus.batches import BatchSource
    from tutelage.models.build import build
    from tutelage.teaching.teachers import Ensemble
    from tutelage.training.objectives import Learner, count, scales_for
    from tutelage.training.optim import adamw

    machine.set_up()
    llama = {"model_type": "llama", "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    shapes = [
        llama | {"hidden_size": 128},
        llama | {"hidden_size": 192},
        {"model_type": "gpt2", "n_embd": 192, "n_layer": 4, "n_head": 4},
    ]
    tokenizer = MadeUpTokenizer(16000)
    student, *teachers = (build(recipe.Model(config=shape, steps=1), tokenizer, 128, 0) for shape in shapes)
    source = BatchSource(MadeUpText.of(200_000, 16000), recipe.Rows(length=128), 8, seed=0)
    learner, ensemble = Learner(student).train(), Ensemble(teachers)
    optimizer = adamw(learner, recipe.Optim())
    what = recipe.Objectives.model_validate({"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}})
    seconds = []
    for step in range(STEPS):
        began = time.perf_counter()
        batch = source.batch(step)
        signal = ensemble.signal(batch, "bf16")
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = learner(batch, scales_for(what, count(batch)), signal)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return 8 * 128 / statistics.median(seconds[4:])


def measure(way: str) -> float:
    """Run in a new process that waits in a way."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, __file__, "--child"]
    return float(subprocess.run(command, env=clean | WAYS[way], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and write down."""
    from tutelage.base.machine import environment

    found: dict[str, dict[str, list[float]]] = {}
    for state in ("idle machine", "one core busy"):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if state == "one core busy" else None
        try:
            rounds = [{way: measure(way) for way in WAYS} for _ in range(ROUNDS)]
        finally:
            if busy:
                busy.kill()
        found[state] = {way: [row[way] for row in rounds] for way in WAYS}
    facts = {"machine": environment(), "date": str(date.today()), "tokens_per_second": found}
    (HERE / "waiting.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    medians = {state: {way: statistics.median(v) for way, v in ways.items()} for state, ways in found.items()}
    rows = "\n".join(f"| {way} | " + " | ".join(f"{medians[s][way]:,.0f}" for s in medians) + " |" for way in WAYS)
    (HERE / "waiting.md").write_text(
        f"# How threads wait\n\n{environment()['cpu']}, {environment()['cores']} cores, {facts['date']}; tokens/s of "
        f"a small student with two teachers, medians of {ROUNDS} interleaved runs.\n\n"
        "    python benchmarks/waiting.py\n\n"
        f"| threads that wait | {' | '.join(medians)} |\n|:--|--:|--:|\n{rows}\n",
        encoding="utf-8",
    )
    print(rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        print(tokens_per_second())
    else:
        main()
