"""Do scores agree? Log-probabilities on all of BLiMP against lm-eval, on part of it against minicons, item by item.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    peers/bin/pip install -c constraints.txt lm-eval==0.4.13 minicons==0.3.39 accelerate==1.15.0 .
    TUTELAGE_DATA=... peers/bin/python benchmarks/agreement.py [--share 1.0] [--steps 150] [--only NAMES]

Models: a Llama with random weights, a Llama and a GPT-2 that were trained for `--steps` steps on the text in
`$TUTELAGE_DATA/babymix-10m`, all of about 2M parameters with 4,000 tokens; for minicons a ModernBERT, trained twice as
long, and every 60th pair. All in float32. lm-eval's rule is the convention of 2024; minicons' metrics `original` and
`within_word_l2r` are that of 2025 with `masking` `token` and `rest_of_word`. Writes `agreement.json` and
`agreement.md` here.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from blimp import agreement, run, write_pairs  # beside this file

HERE = Path(__file__).parent
CAUSAL = ("llama, random", "llama, trained", "gpt2, trained")
MASKED = "modernbert, trained"
METRICS = {"original": "token", "within_word_l2r": "rest_of_word"}


def main() -> None:
    """Train, score and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="share of each paradigm")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    parser.add_argument("--only", nargs="*", default=[*CAUSAL, MASKED], help="models; rows of the others are kept")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_pairs(folder, arguments.share)
        tokens = make_tokenizer(folder)
        for name in (name for name in CAUSAL if name in arguments.only):
            architecture, state = name.split(", ")
            make(folder / "model", architecture, tokens, arguments.steps if state == "trained" else 0)
            found = {who: run(folder, folder / "model", f"{who} fp32", 64) for who in ("ours", "lm-eval")}
            rows[f"{name}; lm-eval"] = compare_causal(found["ours"], found["lm-eval"])
            print(name, rows[f"{name}; lm-eval"], flush=True)
        if MASKED in arguments.only:
            make(folder / "model", "modernbert", tokens, 2 * arguments.steps)
            for metric in METRICS:
                rows[f"{MASKED}; minicons {metric}"] = compare_masked(folder, metric)
                print(metric, rows[f"{MASKED}; minicons {metric}"], flush=True)
    write_down(rows)


def make_tokenizer(folder: Path) -> Any:
    """A tokenizer of 4,000 tokens that surrounds texts by cls and sep when it is asked for special tokens."""
    from tokenizers import processors

    from tutelage import recipe
    from tutelage.corpus import tokenizer

    extra = ("<mask>", "<cls>", "<sep>")
    tokens = tokenizer.train(text_lines(), recipe.Tokenizer(vocab_size=4000, extra_tokens=extra))
    ids = [(token, tokens.convert_tokens_to_ids(token)) for token in ("<cls>", "<sep>")]
    tokens.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A <sep>", special_tokens=ids)
    assert len(tokens) == 4000, len(tokens)
    return tokens


def text_lines() -> list[str]:
    files = sorted((Path(os.environ["TUTELAGE_DATA"]) / "babymix-10m").glob("*.dev"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def make(target: Path, architecture: str, tokens: Any, steps: int) -> None:
    """Write a small model, trained for some steps on rows of 64 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    from tutelage.corpus import tokenizer
    from tutelage.models.presets import PRESETS

    torch.manual_seed(0)
    settings = PRESETS[{"modernbert": "modernbert-4m"}.get(architecture, f"{architecture}-2m")]
    ids = {f"{role}_token_id": getattr(tokens, f"{role}_token_id") for role in ("pad", "bos", "eos", "cls", "sep")}
    rest = {key: value for key, value in settings.items() if key != "model_type"}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokens), **ids, **rest)
    masked = architecture == "modernbert"
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    text = "\n".join(text_lines()[::7])[:8_000_000]
    stream = torch.tensor(tokens(text, add_special_tokens=False, verbose=False)["input_ids"])
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(stream) - 64, (32, 1), generator=draw)
        rows = stream[starts + torch.arange(64)]
        labels = rows
        if masked:
            hidden = torch.rand(rows.shape, generator=draw) < 0.3
            labels = torch.where(hidden, rows, -100)
            rows = torch.where(hidden, tokens.mask_token_id, rows)
        model(input_ids=rows, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)
    tokenizer.save(tokens, target)


def compare_causal(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What `benchmarks/blimp.py` compares, and how near to a tie the pairs are that were decided otherwise."""
    found = agreement(ours, theirs)
    scores = [np.array(result["log_probs"][uid]) for uid in theirs["log_probs"] for result in (ours, theirs)]
    mine, other = np.concatenate(scores[::2]), np.concatenate(scores[1::2])
    margins, others = mine[:, 0] - mine[:, 1], other[:, 0] - other[:, 1]
    differ = (margins >= 0) != (others >= 0)
    return {
        "texts": int(mine.size),
        "largest_difference": float(np.abs(mine - other).max()),
        "above_1e-4": int((np.abs(mine - other) >= 1e-4).sum()),
        "paradigms": len(theirs["accuracy"]),
        "paradigms_that_differ": len(found["paradigms_that_differ"]),
        "decided_otherwise": int(differ.sum()),
        "largest_margin_among_those": float(np.abs(others[differ]).max(initial=0)),
        "accuracy": float(np.mean(list(ours["accuracy"].values()))),
        "mean_log_probability": float(mine.mean()),
    }


def compare_masked(folder: Path, metric: str) -> dict[str, Any]:
    """Pseudo-log-likelihoods of every 60th pair, ours against minicons'."""
    from minicons.scorer import MaskedLMScorer
    from transformers import AutoModelForMaskedLM

    from tutelage.corpus import tokenizer
    from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
    from tutelage.evaluation.benchmarks.items import Item
    from tutelage.evaluation.likelihood.causal import log_probs
    from tutelage.models import build
    from tutelage.teaching.teachers import Ensemble

    tokens = tokenizer.load(str(folder / "model"))
    lines = [line for file in sorted((folder / "pairs").iterdir()) for line in file.read_text().splitlines()]
    texts = [json.loads(line)[key] for line in lines[::60] for key in ("sentence_good", "sentence_bad")]
    rules = replace(CONVENTIONS["2025"], masked=replace(CONVENTIONS["2025"].masked, masking=METRICS[metric]))
    ensemble = Ensemble([build.load(str(folder / "model"), tokens, "masked")])
    ours = log_probs(ensemble, tokens, [Item(text) for text in texts], rules).sum_N
    # Transformers 5 took away the method by which minicons calls a tokenizer.
    older = copy.copy(tokens)
    older.batch_encode_plus = older.__call__
    scorer = MaskedLMScorer(AutoModelForMaskedLM.from_pretrained(folder / "model"), "cpu", tokenizer=older)
    theirs = np.array(
        [
            score
            for start in range(0, len(texts), 32)
            for score in scorer.sequence_score(
                texts[start : start + 32], reduction=lambda x: x.sum(0).item(), PLL_metric=metric
            )
        ]
    )
    margins, others = ours[::2] - ours[1::2], theirs[::2] - theirs[1::2]
    differ = (margins >= 0) != (others >= 0)
    return {
        "texts": len(texts),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "above_1e-4": int((np.abs(ours - theirs) >= 1e-4).sum()),
        "decided_otherwise": int(differ.sum()),
        "largest_margin_among_those": float(np.abs(others[differ]).max(initial=0)),
        "mean_log_probability": float(ours.mean()),
    }


def write_down(rows: dict[str, Any]) -> None:
    """Write the JSON and the table."""
    from tutelage.base.machine import environment

    machine, written = environment(), HERE / "agreement.json"
    if written.is_file():
        rows = json.loads(written.read_text(encoding="utf-8"))["rows"] | rows
    found = {"machine": machine, "date": str(date.today()), "rows": rows}
    written.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"| {name} | {row['texts']:,} | {row['mean_log_probability']:.1f} | {row['largest_difference']:.1e} "
        f"| {row['above_1e-4']} | {row.get('paradigms_that_differ', '')} | {row['decided_otherwise']} "
        f"| {row['largest_margin_among_those']:.1e} |"
        for name, row in rows.items()
    ]
    table = "\n".join(lines)
    (HERE / "agreement.md").write_text(
        "# Agreement with other scorers\n\n"
        f"Log-probabilities of BLiMP's sentences in float32, nats, on {machine['cpu']}, torch {machine['torch']}, "
        f"{found['date']}. The last column says how near to a tie the pairs are that were decided otherwise.\n\n"
        "    python benchmarks/agreement.py\n\n"
        "| model; against | texts | mean log-probability | largest difference | texts above 1e-4 "
        f"| paradigms with another accuracy | pairs decided otherwise | their largest margin |\n"
        f"|:--|--:|--:|--:|--:|--:|--:|--:|\n{table}\n",
        encoding="utf-8",
    )
    print(table)


if __name__ == "__main__":
    main()
