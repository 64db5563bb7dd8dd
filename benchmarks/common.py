"""What the benchmark scripts share: inputs, one process for each run, interleaved rounds, medians, tables.

A script names *modes*: a way of training (a function) and the `Work` it gets. Every run is a process of its own, so
that its peak memory is its own and no set-up of one mode helps another; rounds go through the modes in turn (A-B-C,
A-B-C), so that a slow minute of the machine meets all of them. All modes load the same saved weights and tokens.

To set up an environment in which every mode runs, the peers included:

    python3 -m venv peers && . peers/bin/activate
    pip install torch==2.13.0                     # first and by itself: the CPU build, or that of your GPU
    pip install transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 trl==1.16.0
    pip install --no-deps liger-kernel==0.8.5     # with its dependencies it would pull triton
    pip install -e .                              # tutelage
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from tutelage import recipe
from tutelage.base.machine import cores
from tutelage.bench.timed import Clock, MadeUpText
from tutelage.teaching.cache import TeacherCache
from tutelage.training.parallel import process_group

HERE = Path(__file__).parent
PEERS = ("torch", "transformers", "accelerate", "trl", "liger-kernel")
CHILD = "--child"
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
"""What a run does not get to see: comparisons are made on CPUs. `gpu.py` empties it."""
LONG = 300
"""Steps of the run for which speed with start-up is told."""

Json = dict[str, Any]


@dataclass
class Work:
    """What a run does.

    Attributes:
        folder: where the saved models and `tokens.npy` are.
        vocabulary: different tokens.
        precision: `bf16` or `fp32`.
        student: folder of the student, within `folder`.
        teachers: folders of the teachers.
        rows: rows in a step.
        length: tokens in a row.
        steps: steps to run.
        lr: constant learning rate of AdamW, without weight decay; gradients are clipped at 1.
        temperature: of the distillation; half of the loss is cross-entropy, half divergence times its square.
        attention: tutelage's setting of that name; others take the default of transformers.
        compile: likewise.
        options: what only some ways of training read.
    """

    folder: str
    vocabulary: int
    precision: str = "fp32"
    student: str = "student"
    teachers: tuple[str, ...] = ()
    rows: int = 32
    length: int = 128
    steps: int = 10
    lr: float = 1e-3
    temperature: float = 2.0
    attention: str = "eager"
    compile: str = "off"
    options: Json = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self.rows * self.length


Way = Callable[[Work, "MemoryClock"], Json]
Modes = dict[str, tuple[str, Work]]
"""Name of a mode -> name of its way of training, and its work."""
Runs = dict[str, list[Json]]
"""Name of a mode -> what each round found."""


class MemoryClock(Clock):
    """A clock that also notes memory: at the first step, and the peak until the last, in MB."""

    before = peak = 0.0

    def tick(self) -> None:
        """Note that a step begins."""
        if self.marks:
            self.peak = peak_mb()
        else:
            self.before = self.peak = resident_mb()
            _forget_peak()
        super().tick()


def resident_mb() -> float:
    """Memory that this process holds."""
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def peak_mb() -> float:
    """The most it held since `_forget_peak`; since its start where the system cannot forget."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _status(key: str) -> float | None:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((float(line.split()[1]) / 1e3 for line in lines if line.startswith(key)), None)


def _forget_peak() -> None:
    # Loading a model may take more than training it.
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


# --- inputs


def save_inputs(folder: Path, models: dict[str, Json], vocabulary: int, tokens: int, sharp: Sequence[str] = ()) -> None:
    """Save models with random weights, and made-up text.

    Args:
        folder: where to.
        models: name -> settings of a Hugging Face configuration with `model_type`.
        vocabulary: different tokens.
        tokens: size of the text; rows repeat where a run needs more.
        sharp: models whose last norm is scaled up, so that they are as sure of themselves as trained teachers.
    """
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    np.save(folder / "tokens.npy", MadeUpText.of(tokens, vocabulary).tokens)
    ids = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    for number, (name, settings) in enumerate(models.items()):
        torch.manual_seed(number)
        hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**ids, **settings}))
        if name in sharp:
            norm = hf.base_model.norm if hasattr(hf.base_model, "norm") else hf.base_model.ln_f
            norm.weight.data.mul_(10)
        hf.save_pretrained(folder / name)


def llama(width: int, layers: int, ffn: int, heads: int) -> Json:
    """Settings of a Llama with tied embeddings."""
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
    }


def gpt2(width: int, layers: int, heads: int) -> Json:
    """Settings of a GPT-2 without dropout."""
    drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 512, **drops}


BODY_10M = llama(256, 8, 1024, 8)
"""10.4M parameters with 8,000 tokens."""


# --- running


def child(ways: dict[str, Way]) -> bool:
    """Do one run and print what it found, if this process was started for that; tell whether it was."""
    if sys.argv[1:2] != [CHILD]:
        return False
    import torch  # noqa: F401 - its import is no part of a run
    import transformers  # noqa: F401

    way, work = json.loads(sys.argv[2])
    clock = MemoryClock(work["steps"])
    imported, began = resident_mb(), time.perf_counter()
    found = ways[way](Work(**work), clock)
    found |= {"imported_mb": imported, "before_mb": clock.before, "peak_mb": clock.peak, "seconds": clock.seconds}
    found["until_first"] = clock.marks[0] - began if clock.marks else 0.0
    print(json.dumps(found))
    return True


def run_rounds(modes: Modes, arguments: argparse.Namespace) -> Runs:
    """Run every mode once a round; a mode that fails is noted as such and left out of further rounds."""
    modes = {name: mode for name, mode in modes.items() if not arguments.modes or name in arguments.modes}
    runs: Runs = {name: [] for name in modes}
    with tempfile.TemporaryDirectory() as caches:
        for number in range(arguments.rounds):
            for name, (way, work) in modes.items():
                if any("failed" in run for run in runs[name]):
                    continue
                found = _run(way, work, arguments.threads, Path(caches) / name.replace(" ", "-"))
                runs[name].append(found)
                rate = f"{work.tokens / median(found['seconds']):,.0f} tokens/s" if found.get("seconds") else ""
                print(f"round {number + 1}: {name}: {found.get('failed', rate)}", file=sys.stderr, flush=True)
    return runs


def run_once(way: str, work: Work, arguments: argparse.Namespace) -> Json:
    """Do one run apart from the rounds, which must not fail."""
    with tempfile.TemporaryDirectory() as cache:
        found = _run(way, work, arguments.threads, Path(cache))
    if "failed" in found:
        raise SystemExit(f"{way}: {found['failed']}")
    return found


def in_mode(work: Work, arguments: argparse.Namespace) -> Work:
    """Let tutelage choose its mode of execution as for a long run, unless `--mode plain`; ways need `mode`."""
    if arguments.mode == "plain":
        return work
    found = run_once("mode", work, arguments)
    print(f"mode of {work.precision}: {found['attention']}, compiled: {found['compiled']}", file=sys.stderr)
    return replace(work, attention=found["attention"], compile="on" if found["compiled"] else "off")


def _run(way: str, work: Work, threads: int, cache: Path) -> Json:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        # Empty before the first round: that one pays for compiling, later ones find it done.
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **HIDDEN,
    }
    if way.startswith(("ours", "mode", "profiled", "fill")):
        # As the command line sets it.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        environment.setdefault("GOMP_SPINCOUNT", "1000")
    command = [sys.executable, sys.argv[0], CHILD, json.dumps([way, asdict(work)])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


# --- arguments, medians, tables


def arguments(doc: str, rounds: int, steps: int, **more: Json) -> argparse.Namespace:
    """Read the command line; `--quick` lowers what is not given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a rehearsal: one round of few steps; nothing is written")
    parser.add_argument("--rounds", type=int, help=f"times that every mode runs ({rounds})")
    parser.add_argument("--steps", type=int, help=f"steps of a run ({steps}); the first ones do not count")
    parser.add_argument("--threads", type=int, default=cores(), help=f"threads of every run ({cores()})")
    parser.add_argument("--mode", choices=("auto", "plain"), help="tutelage's attention and compilation: chosen as for "
                        "a long run (auto), or eager and none (plain, also with --quick)")  # fmt: skip
    parser.add_argument("--modes", action="append", help="only this mode; may be given more than once")
    parser.add_argument("--output", type=Path, help="folder for the results (this script's)")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    found = parser.parse_args()
    found.rounds = found.rounds or (1 if found.quick else rounds)
    found.steps = found.steps or (3 if found.quick else steps)
    found.mode = found.mode or ("plain" if found.quick else "auto")
    found.dropped = min(2, found.steps - 1)
    if found.output is None and not found.quick:
        found.output = HERE
    return found


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def speed(runs: list[Json], work: Work, dropped: int) -> Json:
    """Sum a mode's rounds up: median speed and its range over rounds, speed with start-up, memory, first loss."""
    if any("failed" in run for run in runs):
        return {"failed": next(run["failed"] for run in runs if "failed" in run)}
    steps = [median(run["seconds"][dropped:]) for run in runs]
    step = median(second for run in runs for second in run["seconds"][dropped:])
    whole = [
        run["until_first"] + sum(run["seconds"][:dropped]) + (LONG - dropped) * s
        for run, s in zip(runs, steps, strict=True)
    ]
    return {
        "tokens_per_second": work.tokens / step,
        "slowest_round": work.tokens / max(steps),
        "fastest_round": work.tokens / min(steps),
        "step_seconds": step,
        "start_up_seconds_cold": whole[0] - LONG * steps[0],
        "tokens_per_second_of_300_steps_cold": work.tokens * LONG / whole[0],
        "tokens_per_second_of_300_steps_warm": work.tokens * LONG / median(whole[1:] or whole),
        "peak_mb": median(run["peak_mb"] for run in runs),
        "peak_over_loaded_mb": median(run["peak_mb"] - run["before_mb"] for run in runs),
        "losses": runs[0].get("losses", []),
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Lay rows out as a Markdown table; all but the first columns are numbers."""
    marks = [":--" if i < left else "--:" for i in range(len(columns))]
    lines = [columns, marks, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def ratio(speeds: dict[str, Json], one: str, other: str, key: str = "tokens_per_second") -> float | None:
    """Return a figure of one mode over that of another; None where either did not run."""
    found = [speeds.get(name, {}).get(key) for name in (one, other)]
    return found[0] / found[1] if all(found) else None


def against(speeds: dict[str, Json], bars: Iterable[tuple[str, str, str]]) -> str:
    """Lay out ratios of speeds beside what was aimed for: one mode, the other, the aim."""
    rows = []
    for one, other, aim in bars:
        found = ratio(speeds, one, other)
        if one in speeds and other in speeds:
            rows.append((f"{one} / {other}", "failed" if found is None else f"{found:.2f}", aim))
    return table(("tokens/s of", "ratio", "aim"), rows)


def write(name: str, title: str, text: str, data: Json, arguments: argparse.Namespace, how: str = "") -> None:
    """Print the page, and write it and its numbers beside the script unless this is a rehearsal.

    `how` says what was run, where it was not steps on made-up text.
    """
    from tutelage.base.machine import environment

    machine = environment()
    how = how or (
        f"Made-up text, random weights; {arguments.rounds} interleaved rounds of {arguments.steps} steps, of which the "
        f"first {arguments.dropped} do not count; medians."
    )
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    page = (
        f"# {title}\n\n{machine['cpu']}, {machine['cores']} cores ({arguments.threads} threads), {date.today()}; "
        f"{', '.join(f'{package} {version}' for package, version in _versions().items())}. "
        f"{how}\n\n    {command}\n\n{text}\n"
    )
    print(page)
    if arguments.output is not None:
        about = {"machine": machine, "versions": _versions(), "date": str(date.today()), "command": command}
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / f"{name}.json").write_text(json.dumps(about | data, indent=1) + "\n")
        (arguments.output / f"{name}.md").write_text(page)


def _versions() -> dict[str, str]:
    found = {}
    for package in PEERS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@contextmanager
def filled_cache(cache: TeacherCache, settings: recipe.Cache) -> Iterator[TeacherCache]:
    """Open a cache of one epoch, filled where it was not and its settings want that ahead."""
    epochs = range(1)
    with process_group() as group, ExitStack() as stack:
        cache.to(group.device).create(epochs, settings.limit_gib * 2**30)
        cache.open()
        stack.callback(cache.close)
        cache.to(group.device)
        if settings.fill == "ahead" and not cache.complete(epochs):
            cache.build(epochs, group.rank, group.size, lambda: False, "bench")
            cache.release()
        yield cache
