"""BLiMP end to end: tutelage against lm-eval (Hugging Face backend), same model, same sentences, float32 and bf16.

    python -m venv lmeval
    lmeval/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    lmeval/bin/pip install -c constraints.txt lm-eval==0.4.13 accelerate==1.15.0 datasets==5.2.0 .
    TUTELAGE_DATA=... lmeval/bin/python benchmarks/blimp.py [--share 0.1] [--rounds 1] [--threads 2] [--model FOLDER]

Every run is a process of its own, from its start to the written result; runs are interleaved, medians of `--rounds`.
lm-eval reads the same files by its own BLiMP task (`multiple_choice` over both sentences, empty context), with the
batch size that was fastest for it on a sample; that search, which also fills its data cache, is not counted. Its rule,
bos before the sentence, is the convention of 2024. Without `--model` a 10M-parameter Llama with random weights is made;
its tokenizer is trained on the text in `$TUTELAGE_DATA/babymix-10m`. Writes `blimp.json` and `blimp.md` here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BATCH_SIZES = (32, 64, 128, 256)
SAMPLE = 20
"""Pairs of each paradigm on which lm-eval's batch size is chosen."""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {file}}}}}
output_type: multiple_choice
validation_split: train
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
num_fewshot: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
"""lm-eval's own task file but for the place of the data."""


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="share of each paradigm")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model", type=Path, help="folder of a causal model with its tokenizer")
    parser.add_argument("--only", nargs="*", default=["ours fp32", "lm-eval fp32", "ours bf16", "lm-eval bf16"])
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_pairs(folder, arguments.share)
        model = arguments.model or make_model(folder)
        sizes = {name: best_batch_size(folder, model, name) for name in arguments.only if name.startswith("lm-eval")}
        found: dict[str, list[Any]] = {name: [] for name in arguments.only}
        for _ in range(arguments.rounds):
            for name in arguments.only:
                found[name].append(run(folder, model, name, sizes.get(name, 0)))
                print(f"{name}: {found[name][-1]['seconds']:.1f} s", flush=True)
        write_down(summary(found, sizes, model, arguments))


def write_pairs(folder: Path, share: float) -> None:
    """Copy a share of every paradigm, and write lm-eval's task files."""
    (folder / "pairs").mkdir()
    (folder / "tasks").mkdir()
    for source in sorted((Path(os.environ["TUTELAGE_DATA"]) / "eval" / "blimp").glob("*.jsonl")):
        lines = source.read_text(encoding="utf-8").splitlines()
        target = folder / "pairs" / source.name
        target.write_text("\n".join(lines[: max(1, round(share * len(lines)))]) + "\n", encoding="utf-8")
        task = TASK.format(name=f"pairs_{source.stem}", file=target)
        (folder / "tasks" / f"{source.stem}.yaml").write_text(task, encoding="utf-8")


def make_model(folder: Path) -> Path:
    """Write a Llama of 8 layers of width 256 with random weights, and a tokenizer of 8,000 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tutelage import recipe
    from tutelage.corpus import tokenizer

    files = sorted((Path(os.environ["TUTELAGE_DATA"]) / "babymix-10m").glob("*.dev"))
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    trained = tokenizer.train(lines, recipe.Tokenizer(vocab_size=8000))
    # Tokens that only the model has are none to us, and some to lm-eval.
    assert len(trained) == 8000, len(trained)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=128, initializer_range=0.06, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save(trained, folder / "model")
    return folder / "model"


def best_batch_size(folder: Path, model: Path, name: str) -> int:
    """Return the batch size at which lm-eval scores a sample fastest."""
    seconds = {size: round(run(folder, model, name, size, SAMPLE)["scoring"], 2) for size in BATCH_SIZES}
    print(f"{name}: seconds by batch size {seconds}", flush=True)
    return min(seconds, key=lambda size: seconds[size])


def run(folder: Path, model: Path, name: str, batch_size: int, limit: int = 0) -> dict[str, Any]:
    """Score in a new process; seconds are its whole life, `cpu` those of all its threads (steadier beside others)."""
    out = folder / "result.json"
    job = json.dumps([str(folder), str(model), name, batch_size, limit, str(out)])
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(out.read_text(encoding="utf-8")) | {
        "seconds": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def ours(folder: Path, model: Path, precision: str) -> dict[str, Any]:
    """Accuracies and the log-probabilities of all sentences, by paradigm."""
    from tutelage.base import machine
    from tutelage.corpus import tokenizer
    from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
    from tutelage.evaluation.suites.suites import evaluate_suite, find_suite
    from tutelage.models import build
    from tutelage.teaching.teachers import Ensemble

    machine.set_up()
    tokens = tokenizer.load(str(model))
    ensemble = Ensemble([build.load(str(model), tokens, "causal")])
    suite = find_suite(f"pairs:{folder / 'pairs'}")
    began = time.perf_counter()
    result = evaluate_suite(ensemble, tokens, suite, CONVENTIONS["2024"], precision=precision)  # type: ignore[arg-type]
    return {
        "scoring": time.perf_counter() - began,
        "accuracy": {uid: score.accuracy for uid, score in result.paradigms.items()},
        "log_probs": {uid: scores.tolist() for uid, scores in result.log_probs.items()},
    }


def theirs(folder: Path, model: Path, precision: str, batch_size: int, limit: int) -> dict[str, Any]:
    """The same from lm-eval; log-probabilities are noted as they pass, which costs nothing."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    log_probs: dict[str, Any] = {}
    spent = []
    score = HFLM.loglikelihood

    def noted(self: Any, requests: Any, *rest: Any, **more: Any) -> Any:
        began = time.perf_counter()
        answers = score(self, requests, *rest, **more)
        spent.append(time.perf_counter() - began)
        for request, (value, _greedy) in zip(requests, answers, strict=True):
            rows = log_probs.setdefault(request.task_name.removeprefix("pairs_"), {})
            rows.setdefault(request.doc_id, [0.0, 0.0])[request.idx] = value
        return answers

    HFLM.loglikelihood = noted
    tasks = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    names = [f"pairs_{file.stem}" for file in sorted((folder / "tasks").glob("*.yaml"))]
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    found = simple_evaluate(
        "hf", {"pretrained": str(model), "dtype": dtype}, names, batch_size=batch_size, device="cpu",
        limit=limit or None, bootstrap_iters=0, log_samples=False, task_manager=tasks,
    )  # fmt: skip
    assert found is not None
    return {
        "scoring": sum(spent),
        "accuracy": {name.removeprefix("pairs_"): row["acc,none"] for name, row in found["results"].items()},
        "log_probs": {uid: [rows[item] for item in sorted(rows)] for uid, rows in log_probs.items()},
    }


def job(folder: str, model: str, name: str, batch_size: int, limit: int, out: str) -> None:
    """Score as one run and write what was found."""
    who, precision = name.split()
    if who == "ours":
        result = ours(Path(folder), Path(model), precision)
    else:
        result = theirs(Path(folder), Path(model), precision, batch_size, limit)
    Path(out).write_text(json.dumps(result), encoding="utf-8")


def summary(found: dict[str, list[Any]], sizes: dict[str, int], model: Path, arguments: Any) -> dict[str, Any]:
    """Medians, and how the numbers agree in each precision."""
    from transformers import AutoModelForCausalLM

    from tutelage.base.machine import environment

    last = {name: runs[-1] for name, runs in found.items()}
    return {
        "machine": environment() | {"threads": arguments.threads},
        "date": str(date.today()),
        "parameters": AutoModelForCausalLM.from_pretrained(model).num_parameters(),
        "pairs": sum(len(rows) for rows in next(iter(last.values()))["log_probs"].values()),
        "batch_sizes": sizes,
        "seconds": {name: statistics.median(run["seconds"] for run in runs) for name, runs in found.items()},
        "scoring": {name: statistics.median(run["scoring"] for run in runs) for name, runs in found.items()},
        "cpu_seconds": {name: statistics.median(run["cpu"] for run in runs) for name, runs in found.items()},
        "accuracy": {name: statistics.mean(run["accuracy"].values()) for name, run in last.items()},
        "agreement": {
            name: agreement(last[name], last["lm-eval fp32"])
            for name in last
            if name != "lm-eval fp32" and "lm-eval fp32" in last
        },
    }


def agreement(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Compare two runs: paradigms whose accuracy differs, their near ties, and the largest differences in nats."""
    differing = [uid for uid, value in one["accuracy"].items() if abs(value - other["accuracy"][uid]) > 1e-9]
    rows = [
        (uid, item, ours_K, theirs_K)
        for uid in one["log_probs"]
        for item, (ours_K, theirs_K) in enumerate(zip(one["log_probs"][uid], other["log_probs"][uid], strict=True))
    ]
    changed = [
        {"paradigm": uid, "pair": item, "ours": ours_K, "theirs": theirs_K}
        for uid, item, ours_K, theirs_K in rows
        if (ours_K[0] >= ours_K[1]) != (theirs_K[0] >= theirs_K[1])
    ]
    return {
        "paradigms_that_differ": differing,
        "pairs_decided_otherwise": len(changed),
        "first_of_them": changed[:10],
        "largest_difference": max(
            abs(a - b) for *_, one_K, other_K in rows for a, b in zip(one_K, other_K, strict=True)
        ),
        "mean_margin_difference": statistics.mean(
            abs((one_K[0] - one_K[1]) - (other_K[0] - other_K[1])) for *_, one_K, other_K in rows
        ),
    }


def write_down(found: dict[str, Any]) -> None:
    """Write the JSON and the table."""
    (HERE / "blimp.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    seconds, machine = found["seconds"], found["machine"]
    lines = []
    for name, value in seconds.items():
        ratios = [
            f"{seconds[other] / value:.2f}" if other in seconds else "" for other in ("lm-eval fp32", "lm-eval bf16")
        ]
        agree = found["agreement"].get(name)
        against = "" if agree is None else (
            f"{len(agree['paradigms_that_differ'])} | {agree['pairs_decided_otherwise']} | "
            f"{agree['largest_difference']:.1e}"
        )  # fmt: skip
        size = found["batch_sizes"].get(name, "")
        cells = [name, size, f"{value:.1f}", f"{found['cpu_seconds'][name]:.1f}", *ratios]
        lines.append(f"| {' | '.join(map(str, cells))} | {100 * found['accuracy'][name]:.2f} | {against or '| |'} |")
    table = "\n".join(lines)
    (HERE / "blimp.md").write_text(
        f"# BLiMP, end to end\n\n{found['pairs']:,} pairs, a Llama of {found['parameters'] / 1e6:.1f}M parameters; "
        f"whole processes, medians of interleaved runs. {machine['cpu']}, {machine['threads']} threads, torch "
        f"{machine['torch']}, {found['date']}. Agreement is with lm-eval in float32: paradigms with another accuracy, "
        "pairs decided otherwise, largest difference of a sentence's log-probability in nats.\n\n"
        "    python benchmarks/blimp.py\n\n"
        "| run | batch size | seconds | CPU seconds "
        "| x lm-eval fp32 | x lm-eval bf16 | accuracy % | paradigms | pairs | nats |\n"
        f"|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n{table}\n",
        encoding="utf-8",
    )
    print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job(*json.loads(sys.argv[2]))
    else:
        main()
