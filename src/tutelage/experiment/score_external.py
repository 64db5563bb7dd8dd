"""Score models that were not trained here, one or several side by side: a table, JSON files and a page.

What was measured is kept in `<out>/<model>/`, as `experiment.score` keeps it, and is not measured again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.errors import UserError
from tutelage.base.files import write_json, write_text
from tutelage.base.progress import console
from tutelage.base.types import Json, Precision
from tutelage.compare.summary import Summary, read_summary
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.measurement import Context, EvaluatedModels
from tutelage.evaluation.external import ExternalModel, Reads, missing_characters, open_models
from tutelage.evaluation.named import NamedEvaluation, find, read_score
from tutelage.experiment.measure import in_words, measured
from tutelage.experiment.summary import summary_head
from tutelage.models.cost import cost_of
from tutelage.models.language_model import LanguageModel
from tutelage.report.scores_report import scores_page

UNREADABLE = 0.5
"""With more than this share of a suite's texts holding characters that a tokenizer cannot write, nothing is scored."""


def evaluate_external(
    models: Sequence[str],
    suites: Sequence[str],
    out: Path,
    settings: recipe.Evaluation,
    kind: Reads | None = None,
    revision: str | None = None,
    precision: Precision = "fp32",
) -> Summary:
    """Score models on evaluations, and write `summary.json` and `report.html`.

    Args:
        models: folders or hub ids.
        suites: evaluations by name; see `evaluation.named`.
        out: folder for results.
        settings: convention, batch and whatever single evaluations need.
        kind: how the models read; by default as their configuration says.
        revision: branch, tag or commit of hub models.
        precision: arithmetic of the models; the output layer stays in float32.

    Raises:
        UserError: unknown evaluations, missing files, or models that cannot be scored.
    """
    machine.set_up()
    found = {name: find(name, settings) for name in dict.fromkeys(suites)}
    external = open_models(models, CONVENTIONS[settings.convention], kind, revision)
    remarks: dict[str, list[str]] = {model.label: list(model.remarks) for model in external}
    for model in external:
        remarks[model.label] += [text for one in found.values() if (text := _unreadable(model, one))]
        for text in remarks[model.label]:
            console.print(f"{model.label}: {text}", markup=False)
    resolved = {
        "evaluate": list(found),
        "evaluation": settings.model_dump(mode="json"),
        "precision": precision,
        # Of a folder its weights' digest, not where it lay.
        "models": {m.label: {"kind": m.kind, "architecture": m.architecture, "identity": m.identity} for m in external},
    }
    entries = {model.label: _score(model, found, out, settings, precision) for model in external}
    summary = read_summary(summary_head("evaluate") | {"resolved_recipe": resolved, "models": entries})
    write_json(out / "summary.json", summary.as_json())
    write_text(out / "report.html", scores_page(summary, remarks))
    return summary


def _unreadable(model: ExternalModel, found: NamedEvaluation) -> str:
    """Say which characters of a suite a tokenizer cannot write; refuse where that spoils the most of it."""
    missing, texts = missing_characters(model.tokenizer, found.texts) if found.texts else ("", 0)
    if not missing:
        return ""
    shown = " ".join(missing[:20]) + (" ..." if len(missing) > 20 else "")
    said = f"{texts:,} of {len(found.texts):,} texts of {found.name} hold characters that its tokenizer cannot write"
    if texts > UNREADABLE * len(found.texts):
        raise UserError(
            f"{model.source}: {said} ({shown}): scores would mean nothing. Is this the tokenizer the model was trained "
            "with, and the model's language that of the benchmark?"
        )
    return f"{said} ({shown})"


def _score(model: ExternalModel, found: Mapping[str, NamedEvaluation], out: Path, settings: recipe.Evaluation,
           precision: Precision) -> Json:  # fmt: skip
    """Measure what is not measured yet; return the model's entry of the summary."""
    folder = out / (re.sub(r"[^A-Za-z0-9._@-]+", "--", model.label).strip(".-") or "model")
    depends = {"model": model.identity, "tokenizer": model.tokenizer_id, "kind": model.kind, "precision": precision,
               "convention": settings.convention}  # fmt: skip
    loaded: list[LanguageModel] = []

    def load() -> list[LanguageModel]:
        loaded[:] = [model.load()]
        return loaded

    models = EvaluatedModels(load, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    run: Json = {"suites": {}, "measures": {}}
    for name, one in found.items():
        context = partial(_context, model, settings, precision, models, name)
        score = measured(one, folder, depends | one.inputs, context)
        console.print(f"{model.label}: {name} {in_words(score)}", markup=False)
        run["measures" if "values" in score else "suites"][name] = score
    size = _size(model, loaded, folder)
    return {"role": "model", "architecture": model.architecture, **size, "seeds": {"0": run}}


def _context(model: ExternalModel, settings: recipe.Evaluation, precision: Precision, models: EvaluatedModels,
             name: str, parts: Path) -> Context:  # fmt: skip
    return Context(name=name, label=model.label, tokenizer=model.tokenizer, settings=settings, precision=precision,
                   models=models, parts=parts)  # fmt: skip


def _size(model: ExternalModel, loaded: Sequence[LanguageModel], folder: Path) -> Json:
    """Parameters of a model: counted once it is loaded, and kept beside its scores."""
    of = {"model": model.identity}
    if loaded:
        cost = cost_of(loaded[0].hf, loaded[0].kind, 1)
        own = cost.parameters - cost.embedding_parameters
        score = {"parameters": cost.parameters, "non_embedding_parameters": own}
        write_json(folder / "size.json", {"of": of, "score": score})
    return read_score(folder, "size", of) or {}
