"""A folder to upload: the final model and its checkpoints by words seen, as the revisions that BabyLM asks for.

    <folder>/main/          the model, with card and tokenizer
    <folder>/chck_1M/       as it was at 1M words seen; and so on
    <folder>/UPLOAD.md      how to bring them to the Hugging Face hub

Everything is in Hugging Face form, for stock transformers 4 and 5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.base.checksums import read_checked
from tutelage.base.errors import UserError
from tutelage.base.files import new_folder, read_json, write_json
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.loading import trained
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import word_checkpoints, words_at_best
from tutelage.models.build import save
from tutelage.report.model_card import babylm_card
from tutelage.training.outcome import Finished

UPLOAD = """# Uploading {name}

This folder holds `main` and {count} checkpoints; each becomes a revision (a branch) of one repository on the Hugging
Face hub. `huggingface_hub` is installed with tutelage. Log in once with `hf auth login`, put your repository's name
for `USER/NAME`, and run in this folder:

```bash
{commands}
```

The same in Python, for one of them:

```python
from huggingface_hub import HfApi

api = HfApi()
api.create_repo("USER/NAME", exist_ok=True)
api.create_branch("USER/NAME", branch="chck_1M", exist_ok=True)
api.upload_folder(repo_id="USER/NAME", folder_path="chck_1M", revision="chck_1M")
```

Afterwards every revision loads by name: `AutoModelFor...from_pretrained("USER/NAME", revision="chck_1M")`.

Before you upload: write your licence into each `README.md` (`license:` in its first lines). The corpus's own licence
may forbid passing weights on.
"""


def export_babylm(experiment: Experiment, run: TrainingRun, year: str, folder: Path) -> Path:
    """Write the upload folder of a trained model, a new or empty one; its cards name the challenge's year.

    Raises:
        UserError: a folder that holds something, a model that is not trained, or checkpoints that were not kept.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name a new one")
    done = run.finished()
    kept = word_checkpoints(experiment, run)
    tokenizer = experiment.data.tokenizer
    with new_folder(folder) as building:
        card = _card(experiment, run, year, done, "main", words_at_best(run), scores_in(run.folder.scores))
        _save(trained(experiment, run.reference, run.model.reads), tokenizer, building / "main", card)
        for one in kept:
            scores = scores_in(run.folder.scores_at(one.reference.checkpoint))
            card = _card(experiment, run, year, done, one.name, one.words_seen, scores)
            _save(one.load(), tokenizer, building / one.name, card)
        names = [*(one.name for one in kept), "main"]
        commands = "\n".join(f"hf upload USER/NAME {name} . --revision {name}" for name in names)
        text = UPLOAD.format(name=f"{experiment.recipe.name}: {run}", count=len(kept), commands=commands)
        (building / "UPLOAD.md").write_text(text, encoding="utf-8")
    return folder


def scores_in(folder: Path) -> dict[str, str]:
    """Return what a model scored, by benchmark, in words; nothing where nothing was measured."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        if (score := read_checked(file).get("score")) is None:
            continue  # predictions, beside a score
        if "loss" in score:
            found[file.stem] = f"loss {score['loss']:.4f} nats a token"
        elif "accuracy" in score:
            found[file.stem] = f"accuracy {100 * score['accuracy']:.2f} % (rules of {score['convention']})"
        elif "headline" in score:
            value = score["values"][score["headline"]]
            number = "not measurable" if value["value"] is None else f"{value['value']:.4g} ({value['unit']})"
            found[file.stem] = f"{score['headline'].replace('_', ' ')}: {number}"
    return found


def _card(
    experiment: Experiment,
    run: TrainingRun,
    year: str,
    done: Finished,
    revision: str,
    words: int,
    scores: dict[str, str],
) -> str:
    data = experiment.data
    corpus = f"`{experiment.recipe.data.corpus}`, {data.train.words:,} words"
    kind = type(data.tokenizer.backend_tokenizer.model).__name__
    origin = ", trained on this corpus" if experiment.recipe.data.tokenizer.kind == "bpe" else ""
    tokenizer = f"{kind}, {len(data.tokenizer):,} tokens{origin}"
    return babylm_card(
        experiment.recipe, run.name, run.seed, done, year=year, revision=revision, words=words, corpus=corpus,
        tokenizer=tokenizer, scores=scores,
    )  # fmt: skip


def _save(model: Any, tokenizer: Any, folder: Path, card: str) -> None:
    save(model, tokenizer, folder, card)
    config = read_json(folder / "config.json")
    # Where transformers 4 looks for it.
    if isinstance(rope := config.get("rope_parameters"), dict) and "rope_theta" in rope:
        write_json(folder / "config.json", config | {"rope_theta": rope["rope_theta"]})
