"""Score models that were not trained here, one or several side by side: a table, JSON files and a page.

What was measured is kept in `<out>/<model>/`, as `scoring` keeps it, and is not measured again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tutelage import __version__, recipe
from tutelage.base import machine
from tutelage.base.errors import UserError
from tutelage.base.files import write_json, write_text
from tutelage.base.progress import console
from tutelage.base.types import Json
from tutelage.compare.summary import Summary, read_summary
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Precision
from tutelage.evaluation.benchmarks.measurement import Context, EvaluatedModels
from tutelage.evaluation.external import ExternalModel, missing_characters, open_models
from tutelage.evaluation.named import NamedEvaluation, find, read_score
from tutelage.experiment.measure import in_words, measured
from tutelage.models.cost import cost_of
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import ModelKind
from tutelage.report.scores_report import scores_page

UNREADABLE = 0.5
"""With more than this share of a suite's texts holding characters that a tokenizer cannot write, nothing is scored."""


def evaluate_guests(
    models: Sequence[str],
    suites: Sequence[str],
    out: Path,
    settings: recipe.Evaluation,
    kind: ModelKind | None = None,
    revision: str | None = None,
    precision: Precision = "fp32",
) -> Summary:
    """Score models on evaluations, and write `summary.json` and `report.html`.

    Args:
        models: folders or hub ids.
        suites: evaluations by name; see `evaluations`.
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
    guests = open_models(models, CONVENTIONS[settings.convention], kind, revision)
    remarks: dict[str, list[str]] = {guest.label: list(guest.remarks) for guest in guests}
    for guest in guests:
        remarks[guest.label] += [text for one in found.values() if (text := _unreadable(guest, one))]
        for text in remarks[guest.label]:
            console.print(f"{guest.label}: {text}", markup=False)
    entries = {}
    for guest in guests:
        entries[guest.label] = _score(guest, found, out, settings, precision)
    summary = _summary(guests, entries, list(found), settings, precision)
    write_json(out / "summary.json", summary.as_json())
    write_text(out / "report.html", scores_page(summary, remarks))
    return summary


def _unreadable(guest: ExternalModel, found: NamedEvaluation) -> str:
    """Say which characters of a suite a tokenizer cannot write; refuse where that spoils the most of it."""
    missing, texts = missing_characters(guest.tokenizer, found.texts) if found.texts else ("", 0)
    if not missing:
        return ""
    shown = " ".join(missing[:20]) + (" ..." if len(missing) > 20 else "")
    said = f"{texts:,} of {len(found.texts):,} texts of {found.name} hold characters that its tokenizer cannot write"
    if texts > UNREADABLE * len(found.texts):
        raise UserError(
            f"{guest.source}: {said} ({shown}): scores would mean nothing. Is this the tokenizer the model was trained "
            "with, and the model's language that of the benchmark?"
        )
    return f"{said} ({shown})"


def _score(guest: ExternalModel, found: Mapping[str, NamedEvaluation], out: Path, settings: recipe.Evaluation,
           precision: Precision) -> Json:  # fmt: skip
    """Measure what is not measured yet; return the model's entry of the summary."""
    folder = out / _folder_name(guest.label)
    depends = {
        "model": guest.identity,
        "tokenizer": guest.tokenizer_id,
        "kind": guest.kind,
        "precision": precision,
        "convention": settings.convention,
    }
    loaded: list[LanguageModel] = []

    def load() -> list[LanguageModel]:
        loaded[:] = [guest.load()]
        return loaded

    speakers = EvaluatedModels(load, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    run: Json = {"suites": {}, "measures": {}}
    for name, one in found.items():
        context = partial(_context, guest, name, settings, precision, speakers)
        score = measured(one, folder, depends | one.inputs, context)
        console.print(f"{guest.label}: {name} {in_words(score)}", markup=False)
        run["measures" if "values" in score else "suites"][name] = score
    size = _size(guest, loaded, folder)
    return {"role": "model", "architecture": guest.architecture, **size, "seeds": {"0": run}}


def _context(
    guest: ExternalModel,
    name: str,
    settings: recipe.Evaluation,
    precision: Precision,
    speakers: EvaluatedModels,
    parts: Path,
) -> Context:
    return Context(
        name=name,
        label=guest.label,
        tokenizer=guest.tokenizer,
        settings=settings,
        precision=precision,
        models=speakers,
        parts=parts,
    )


def _size(guest: ExternalModel, loaded: Sequence[LanguageModel], folder: Path) -> Json:
    """Parameters of a model: counted once it is loaded, and kept beside its scores."""
    of = {"model": guest.identity}
    if loaded:
        cost = cost_of(loaded[0].hf, guest.kind, 1)
        size = {
            "parameters": cost.parameters,
            "non_embedding_parameters": cost.parameters - cost.embedding_parameters,
        }
        write_json(folder / "size.json", {"of": of, "score": size})
    return read_score(folder, "size", of) or {}


def _summary(guests: Sequence[ExternalModel], entries: Json, suites: Sequence[str], settings: recipe.Evaluation,
             precision: Precision) -> Summary:  # fmt: skip
    ran = machine.environment()
    return read_summary(
        {
            "schema": 1,
            "recipe": "evaluate",
            "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "tutelage": __version__,
            "versions": {key: ran[key] for key in ("python", "torch", "transformers")},
            "machine": {key: ran[key] for key in ("cpu", "cores", "memory_gib", "gpu")},
            "resolved_recipe": {
                "evaluate": list(suites),
                "evaluation": settings.model_dump(mode="json"),
                "precision": precision,
                "models": {guest.label: _origin(guest) for guest in guests},
            },
            "models": entries,
        }
    )


def _origin(guest: ExternalModel) -> dict[str, Any]:
    """Which model it was; of a folder its weights' digest, not where it lay."""
    return {"kind": guest.kind, "architecture": guest.architecture, "identity": guest.identity}


def _folder_name(label: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._@-]+", "--", label).strip(".-")
    return plain or "model"
