"""Two choices for training on a CPU, measured: the form of attention, and how waiting threads behave.

    python benchmarks/cpu_choices.py

Runs are interleaved, medians of several; writes `cpu_choices.json` and `cpu_choices.md` beside this file.
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

ROWS, LENGTH, VOCABULARY = 32, 128, 8000
HERE = Path(__file__).parent


def step_rates(forms: list[str], rounds: int = 5) -> dict[str, float]:
    """Tokens/s of a training step of `llama-4m` (bf16), by form of attention."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tutelage import machine, recipe
    from tutelage.corpus.batches import Batch
    from tutelage.models.language_model import LanguageModel
    from tutelage.models.presets import PRESETS
    from tutelage.training.objectives import Learner, count, scales_for
    from tutelage.training.optim import adamw

    machine.set_up()
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=draw)
    batch = Batch(torch.arange(ROWS), torch.zeros(ROWS), tokens, tokens.roll(-1, 1), None, {})
    settings = dict(PRESETS["llama-4m"])
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=VOCABULARY, pad_token_id=0, **settings)
    scales = scales_for(recipe.Objectives(next_token=recipe.Objective()), count(batch))
    learners = {}
    for form in forms:
        hf = AutoModelForCausalLM.from_config(config, attn_implementation=form)
        learner = Learner(LanguageModel(hf, "causal", VOCABULARY)).train()
        learners[form] = (learner, adamw(learner, recipe.Optim()))
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds + 1):
        for form, (learner, optimizer) in learners.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss, _sums = learner(batch, scales)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            times[form].append(time.perf_counter() - began)
    return {form: ROWS * LENGTH / statistics.median(seconds[1:]) for form, seconds in times.items()}


def in_process(policy: str, forms: list[str]) -> dict[str, float]:
    """The same in a new process, whose threads wait as `policy` says."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    found = subprocess.run(
        [sys.executable, __file__, *forms], env=environment, capture_output=True, check=True, text=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def rate(policy: str, busy: bool) -> float:
    """Tokens/s in a new process, beside one that keeps a core busy or none."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        return in_process(policy, ["eager"])["eager"]
    finally:
        if neighbour is not None:
            neighbour.kill()


def main() -> None:
    """Measure and write down."""
    from tutelage.machine import environment

    forms = [in_process("PASSIVE", ["eager", "sdpa"]) for _ in range(3)]
    rows = [
        (f"attention `{form}`, idle machine", statistics.median(run[form] for run in forms))
        for form in ("eager", "sdpa")
    ]
    for busy in (False, True):
        rates: dict[str, list[float]] = {"PASSIVE": [], "ACTIVE": []}
        for _ in range(3):
            for policy, found in rates.items():
                found.append(rate(policy, busy))
        place = "one core busy" if busy else "idle machine"
        rows += [(f"waiting threads `{policy}`, {place}", statistics.median(found)) for policy, found in rates.items()]
    machine = environment()
    where = f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, {date.today()}"
    (HERE / "cpu_choices.json").write_text(
        json.dumps({"machine": machine, "tokens_per_second": dict(rows)}, indent=2) + "\n"
    )
    table = "\n".join(f"| {name} | {speed:,.0f} |" for name, speed in rows)
    (HERE / "cpu_choices.md").write_text(
        "# Choices for training on a CPU\n\n"
        f"A training step of `llama-4m` (4.2M parameters, vocabulary {VOCABULARY:,}) on {ROWS} rows of {LENGTH} "
        f"tokens, bf16; medians of interleaved runs. {where}.\n\n"
        f"    python benchmarks/cpu_choices.py\n\n| what | tokens/s |\n|:--|--:|\n{table}\n"
    )
    print(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(step_rates(sys.argv[1:])))
    else:
        main()
