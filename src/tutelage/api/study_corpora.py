"""What becomes of labelled texts: the corpus students read (`tutelage study filter`), a page about it (`audit`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from tutelage import starter
from tutelage.base.errors import MissingData, UserError
from tutelage.base.files import new_folder, write_text
from tutelage.base.progress import console, progress
from tutelage.corpus.examples import Example, read_examples, write_examples
from tutelage.corpus.study_plan import StudyPlan, read_plan, starter_plan, write_plan
from tutelage.evaluation.suites.sentences import evaluation_sentences
from tutelage.report.audit_page import audit_page
from tutelage.study.client.store import costs
from tutelage.study.filter.audit import Audit, Audited, StageCost, audit_examples
from tutelage.study.filter.filters import Filtered, filter_examples
from tutelage.study.filter.quarantine import count_faults, write_refused
from tutelage.study.folder import StudyFolder, needed
from tutelage.study.settings import Study


def check_suites(suites: Sequence[str]) -> None:
    """Look at the evaluation sets that the filters will want, before anything is paid for.

    Those that are not on this machine are told of alone: the filters may run elsewhere.
    """
    for name in suites:
        try:
            evaluation_sentences(name)
        except MissingData as missing:
            console.print(f"filters.overlap.suites: `tutelage study filter` will need '{name}': {missing}",
                          style="yellow", markup=False)  # fmt: skip


def filter_study(study: Study, folder: StudyFolder) -> Filtered:
    """Sort a study's labelled texts into `corpus/` and `quarantine/filter.jsonl`, both whole or not at all.

    Raises:
        UserError: no labelled texts, or evaluation sets that are not on this machine.
    """
    needed(folder.labelled, "label")
    plan, suites = read_plan(folder.plan), _suites(study.filters.overlap.suites)
    examples = _read([folder.labelled])
    _tell_of_other_texts(folder, {example.id for example in examples})
    found = filter_examples(examples, plan, study.filters, suites)
    write_refused(folder.quarantine / "filter.jsonl", found.refused)
    with new_folder(folder.corpus) as corpus:
        write_plan(plan, corpus / "plan.yaml")
        write_examples(corpus / "examples.jsonl", found.kept)
    return found


def _tell_of_other_texts(folder: StudyFolder, labelled: set[str]) -> None:
    """Tell where texts were written, or taken away, since the labelling: the corpus has what was labelled."""
    if not folder.written.is_file():
        return
    written = {example.id for example in read_examples(folder.written)}
    if new := len(written - labelled):
        told = f"{new:,} of {len(written):,} written texts are not labelled yet and will not be in the corpus"
    elif gone := len(labelled - written):
        told = f"{gone:,} of {len(labelled):,} labelled texts are not among those written last, and stay in the corpus"
    else:
        return
    console.print(f"{told}; `tutelage study label` and then `tutelage study filter` bring it up to date",
                  style="yellow", markup=False)  # fmt: skip


def audit_study(study: Study, folder: StudyFolder, suites: Sequence[str] = (), out: Path | None = None) -> Audited:
    """Audit the corpus of a study, with its costs and quarantine; writes `audit/audit.json` and `audit/index.html`.

    `suites` are compared with besides those of the filters; `out` is another folder to write to.

    Raises:
        UserError: no corpus yet, or evaluation sets that are not on this machine.
    """
    examples, plan = _corpus(needed(folder.corpus, "filter"))
    sets = _suites([*study.filters.overlap.suites, *suites])
    prices, longest = study.teacher.prices, study.labelling.tagged_words
    spent = costs(folder.requests).items() if folder.requests.is_file() else ()
    stages = {
        stage: StageCost(cost.requests, cost.read, cost.written, cost.money(prices) if prices else None)
        for stage, cost in spent
    }
    refused = count_faults(folder.quarantine)
    found = audit_examples(examples, plan, study.filters, sets, refused, stages, longest)
    return _write(found, study.name, out or folder.audit)


def audit_corpus(source: str | Path, out: Path, suites: Sequence[str] = ()) -> Audited:
    """Audit any corpus with labels: `starter`, or a folder with `plan.yaml` and `*.jsonl` of examples."""
    path = Path(source)
    if str(source) == starter.NAME and not path.exists():
        examples, plan = _read(starter.example_files()), starter_plan()
    else:
        examples, plan = _corpus(path)
    return _write(audit_examples(examples, plan, suites=_suites(suites)), str(source), out)


def _write(found: Audit, name: str, out: Path) -> Audited:
    # ASCII with escapes: an unfiltered corpus may hold lone surrogates.
    write_text(out / "audit.json", json.dumps(asdict(found), indent=2, allow_nan=False) + "\n")
    write_text(out / "index.html", audit_page(found, name))
    return Audited(found, out / "index.html")


def _suites(names: Sequence[str]) -> dict[str, list[str]]:
    return {name: evaluation_sentences(name) for name in dict.fromkeys(names)}


def _corpus(path: Path) -> tuple[list[Example], StudyPlan]:
    plans = [path / name for name in ("plan.yaml", "plan.json") if (path / name).is_file()]
    # Hidden files are what other programs left; training does not read them either.
    files = sorted(file for file in path.glob("*.jsonl") if not file.name.startswith("."))
    if not plans or not files:
        raise UserError(f"{path} is no study corpus: it needs plan.yaml and *.jsonl of examples, as `tutelage study "
                        "filter` writes them into studies/NAME/corpus (or say `starter`)")  # fmt: skip
    return _read(files), read_plan(plans[0])


def _read(files: Sequence[Path]) -> list[Example]:
    found = []
    with progress("reading texts", None, "texts") as bar:
        for example in chain.from_iterable(map(read_examples, files)):
            found.append(example)
            bar.advance(1)
    return found
