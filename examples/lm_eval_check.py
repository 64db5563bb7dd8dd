"""Score a causal model's minimal pairs twice, with lm-evaluation-harness and with tutelage, and compare item by item.

    pip install 'lm-eval[hf]' datasets
    python examples/lm_eval_check.py MODEL_FOLDER --suite blimp --paradigms anaphor_gender_agreement,wh_island

Both read the same local files, so nothing is downloaded. tutelage follows the convention of 2024, which is lm-eval's:
a space before the sentence, the start token (else the end token) before that, log-probabilities summed. Exits with 1
where an item differs by more than `--tolerance` nats, or a pair that is no tie is decided otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.base.errors import UserError, nearest
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.external import open_models
from tutelage.evaluation.suites.pairs import Paradigm
from tutelage.evaluation.suites.suites import Suite, evaluate_suite, find_suite
from tutelage.teaching.teachers import Ensemble

TIE = 1e-4
"""Nats between two sentences below which rounding may decide."""


def chosen(suite: Suite, names: list[str], limit: int) -> Suite:
    """Return some paradigms of a suite, cut to their first items."""
    known = {paradigm.uid: paradigm for paradigm in suite.paradigms}
    for name in names:
        if name not in known:
            raise UserError(f"{suite.name} has no paradigm '{name}'{nearest(name, known)}")
    wanted = names or list(known)[:3]
    return Suite(suite.name, tuple(Paradigm(uid, known[uid].questions[:limit]) for uid in wanted))


def harness(folder: Path, suite: Suite) -> dict[str, np.ndarray]:
    """Log-probabilities by lm-eval's own task and model code, `(N, 2)` for each paradigm."""
    try:
        import datasets  # noqa: F401
        import lm_eval
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'lm-eval[hf]' datasets") from error
    with tempfile.TemporaryDirectory() as place:
        tasks: list[Any] = []
        for paradigm in suite.paradigms:
            lines = [
                {"sentence_good": question.options[0].completion, "sentence_bad": question.options[1].completion}
                for question in paradigm.questions
            ]
            file = Path(place) / f"{paradigm.uid}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            tasks.append(task(paradigm.uid, file, place))
        found = lm_eval.simple_evaluate(
            "hf", {"pretrained": str(folder), "dtype": "float32"}, tasks, batch_size=32, device="cpu", bootstrap_iters=0
        )
    said = {}
    for paradigm in suite.paradigms:
        samples = sorted(found["samples"][paradigm.uid], key=lambda sample: sample["doc_id"])
        said[paradigm.uid] = np.array([[float(option[0]) for option in sample["filtered_resps"]] for sample in samples])
    return said


def task(name: str, file: Path, cache: str) -> dict[str, Any]:
    """lm-eval's own settings for BLiMP, with a local file in place of the hub's."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(file)}, "cache_dir": cache},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def main() -> int:
    """Compare, print a table, and say by the exit code whether both agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a causal model's folder, such as `tutelage export` writes")
    parser.add_argument("--suite", default="blimp", help="a suite of minimal pairs (default: blimp)")
    parser.add_argument("--paradigms", default="", help="names, separated by commas; by default the first three")
    parser.add_argument("--limit", type=int, default=200, help="items of each paradigm (default: 200)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="nats (default: 1e-4)")
    options = parser.parse_args()
    names = [name for name in options.paradigms.split(",") if name]
    suite = chosen(find_suite(options.suite), names, options.limit)
    [guest] = open_models([options.model], CONVENTIONS["2024"], "causal", None)
    ours = evaluate_suite(Ensemble([guest.load()]), guest.tokenizer, suite, CONVENTIONS["2024"]).log_probs
    theirs = harness(guest.folder, suite)
    columns = ("lm-eval", "tutelage", "largest difference", "decided otherwise")
    print(f"{'paradigm':44} {'items':>6} {columns[0]:>8} {columns[1]:>8} {columns[2]:>19} {columns[3]:>18}")
    agree = True
    for uid, one in ours.items():
        other = theirs[uid]
        difference = float(np.abs(one - other).max())
        margins = [scores[:, 0] - scores[:, 1] for scores in (other, one)]
        clear = np.abs(margins[0]) > TIE
        turned = int(np.sum((margins[0] > 0)[clear] != (margins[1] > 0)[clear]))
        right = [100 * float(np.mean(margin >= 0)) for margin in margins]
        print(f"{uid:44} {len(one):6} {right[0]:7.2f}% {right[1]:7.2f}% {difference:14.2e} nats {turned:18}")
        agree &= difference <= options.tolerance and turned == 0
    print("both agree" if agree else "they differ")
    return 0 if agree else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
