"""Benchmarks' data: where it is looked for, and how it is fetched from its official places.

Nothing is bundled. Files are looked for in `$TUTELAGE_DATA/<place>`, then in
`${TUTELAGE_CACHE:-~/.cache/tutelage}/<place>`, where `get` puts them. Before the first byte is asked for, source and
licence are shown and must be accepted. Addresses and layouts were read in public code and documentation; none of them
could be tried by us.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tutelage.base import files
from tutelage.base.errors import MissingData, UserError, nearest
from tutelage.base.progress import console
from tutelage.corpus.archive import list_members, unpack
from tutelage.corpus.download import download
from tutelage.evaluation.benchmarks import ewok
from tutelage.evaluation.benchmarks.publishers import HubFolder, OsfFolder, Publisher, ZipArchive

PASSWORD = "TUTELAGE_EWOK_PASSWORD"
"""Environment variable for the password of EWoK's fast set, which BabyLM's README gives to people."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Data that can be fetched."""

    place: str
    """Its folder below a data folder."""
    publishers: Mapping[str, Publisher]
    """By year or name, the preferred first; empty for EWoK, which has a way of its own."""
    licence: str
    note: str = ""
    suffixes: tuple[str, ...] = (".jsonl",)
    """Endings of the files that are wanted."""

    @property
    def where(self) -> str:
        """For people: the address of every publisher."""
        if not self.publishers:
            return f"https://huggingface.co/datasets/{ewok.DATASET}, by your own access"
        return "; ".join(f"{name}: {publisher.where}" for name, publisher in self.publishers.items())


_UNCHECKED = "see its page (not checked by us)"
_UNSTATED = "stated nowhere by its authors: do not pass it on"
_EWOK = "EWoK's own terms, on the page of its dataset; never as plain text on the web"
_DATASET_2026 = "BabyLM-community/BabyLM-2026-Strict-Evals"
_REVISION_2026 = "8d52da9424a9ff30b9e8266c4f751aba9c504233"


def _babylm(*folders: str, split: str = "full_eval", years: Sequence[str] = ("2026", "2025")) -> dict[str, Publisher]:
    """BabyLM's own folders, as the years publish them."""
    paths = tuple(f"evaluation_data/{split}/{folder}" for folder in folders)
    all_years: dict[str, Publisher] = {
        "2026": HubFolder(_DATASET_2026, _REVISION_2026, paths),
        "2025": OsfFolder("ryjfm", paths),
        # The year before fast sets.
        "2024": OsfFolder("ad7qg", tuple(f"evaluation_data/{folder}" for folder in folders)),
    }
    return {year: all_years[year] for year in years}


_THREE = ("2026", "2025", "2024")
BENCHMARKS: dict[str, Benchmark] = {
    "blimp": Benchmark(
        place="eval/blimp",
        publishers={"github": ZipArchive(
            "https://github.com/alexwarstadt/blimp/archive/3e56b06fcabca9b30822fc66435fca6b1aa40bb1.zip", "data")},
        licence="CC BY 4.0",
    ),
    "blimp-filtered": Benchmark(
        place="eval/blimp_filtered", publishers=_babylm("blimp_filtered", years=_THREE), licence="CC BY 4.0 (BLiMP)"),
    "blimp-fast": Benchmark(
        place="eval/blimp_fast", publishers=_babylm("blimp_fast", split="fast_eval"), licence="CC BY 4.0 (BLiMP)"),
    "blimp-supplement": Benchmark(
        place="eval/supplement_filtered", publishers=_babylm("supplement_filtered", years=_THREE), licence=_UNSTATED),
    "blimp-supplement-fast": Benchmark(
        place="eval/supplement_fast", publishers=_babylm("supplement_fast", split="fast_eval"), licence=_UNSTATED),
    "entity-tracking": Benchmark(
        place="eval/entity_tracking", publishers=_babylm("entity_tracking"), licence=_UNSTATED,
        note="its authors ask that plain copies are not passed on"),
    "entity-tracking-fast": Benchmark(
        place="eval/entity_tracking_fast", publishers=_babylm("entity_tracking_fast", split="fast_eval"),
        licence=_UNSTATED, note="its authors ask that plain copies are not passed on"),
    "comps": Benchmark(place="eval/comps", publishers=_babylm("comps"), licence=_UNCHECKED),
    "wug": Benchmark(
        place="eval/wug", publishers=_babylm("wug_past_tense", "wug_adj_nominalization", years=("2025",)),
        licence=_UNSTATED),
    "global-piqa": Benchmark(
        place="eval/global_piqa_parallel", publishers=_babylm("global_piqa_parallel", years=("2026",)),
        licence=_UNCHECKED),
    "global-piqa-nonparallel": Benchmark(
        place="eval/global_piqa_nonparallel", publishers=_babylm("global_piqa_nonparallel", years=("2026",)),
        licence=_UNCHECKED),
    "reading": Benchmark(
        place="eval/reading", publishers=_babylm("reading"), suffixes=(".csv",), licence=_UNSTATED,
        note="reading times of de Varda, Marelli and Amenta (2023)"),
    "aoa": Benchmark(
        place="eval/aoa", publishers=_babylm("aoa"), suffixes=(".csv", ".json"), licence=_UNSTATED,
        note="children's vocabularies from Wordbank (Frank et al. 2017)"),
    "glue": Benchmark(
        place="glue", publishers=_babylm("glue_filtered", years=_THREE),
        licence="that of each task of GLUE and SuperGLUE; research use"),
    "ewok": Benchmark(
        place="eval/ewok_filtered", publishers={}, licence=_EWOK, note="the items that BabyLM keeps"),
    "ewok-core": Benchmark(place="eval/ewok_core", publishers={}, licence=_EWOK, note="all items"),
    "ewok-fast": Benchmark(
        place="eval/ewok_fast", publishers={
            "2026": HubFolder(_DATASET_2026, _REVISION_2026, ("evaluation_data/fast_eval",)),
            "2025": OsfFolder("ryjfm", ("evaluation_data/fast_eval",))},
        licence=_EWOK, suffixes=("ewok_fast.zip",),
        note="inside a zip file whose password BabyLM's README gives: github.com/babylm/evaluation-pipeline-2025"),
}  # fmt: skip


def data_folders() -> list[Path]:
    """Return where data is looked for: `$TUTELAGE_DATA` if it is set, then the cache."""
    data = os.environ.get("TUTELAGE_DATA")
    cache = Path(os.environ.get("TUTELAGE_CACHE") or "~/.cache/tutelage").expanduser()
    return [Path(data).expanduser(), cache] if data else [cache]


def available() -> dict[str, Benchmark]:
    """Return what `get` can fetch, by name."""
    return dict(BENCHMARKS)


def find(name: str, *others: str) -> Path:
    """Return the folder of a benchmark's files, looked for at its own place below a data folder, or at others.

    Raises:
        UserError: an unknown name (with the nearest), or files that are not on this machine (with how to get them).
    """
    benchmark = _named(name)
    wanted = others or (benchmark.place,)
    for folder, place in product(data_folders(), wanted):
        if (folder / place).exists():
            return folder / place
    folder = data_folders()[-1]
    raise MissingData(
        f"the files of '{name}' are not on this machine. Fetch them with `tutelage data get {name}`, or from "
        f"{benchmark.where} (licence: {benchmark.licence}), and put them into {folder / wanted[0]} or "
        f"$TUTELAGE_DATA/{wanted[0]}"
    )


def describe(name: str) -> str:
    """Return source, licence and notes of a benchmark, to be shown before it is fetched."""
    benchmark = _named(name)
    note = f"\n  note:    {benchmark.note}" if benchmark.note else ""
    return f"{name}\n  source:  {benchmark.where}\n  licence: {benchmark.licence}{note}"


def get(
    name: str, folder: Path | None = None, accept_licence: bool = False, source: str | None = None,
    password: str | None = None,
) -> Path:  # fmt: skip
    """Fetch a benchmark from its official place, unless it is there already, and return its folder.

    A run that was cut off resumes where it stopped. Files are checked by the digests that their publishers give, else
    pinned by their first download.

    Args:
        name: of `available()`.
        folder: data folder to put it below; by default the cache.
        accept_licence: whether the user accepts what `describe` shows.
        source: year or name of the publisher; by default the first.
        password: of EWoK's fast set; by default from the environment variable `TUTELAGE_EWOK_PASSWORD`. It is not kept.

    Raises:
        UserError: an unknown name or source, a licence that is not accepted, no access, no connection, or files that
            are not what their publisher says.
    """
    benchmark = _named(name)
    base = folder if folder is not None else data_folders()[-1]
    target = base / benchmark.place
    if target.is_dir() and any(target.iterdir()):
        console.print(f"{name} is in {target} already; delete that folder to fetch it again")
        return target
    console.print(describe(name))
    if not accept_licence:
        raise UserError(
            f"'{name}' is fetched only after you accept its licence ({benchmark.licence}): --accept-licence"
        )
    downloads = base / "downloads" / name
    if not benchmark.publishers:
        if source is not None:
            raise UserError(f"'{name}' has one source; leave out '{source}'")
        ewok.fetch(downloads, target, filtered=name == "ewok")
    else:
        publisher = _publisher(name, benchmark, source)
        if name == "ewok-fast":
            password = password or os.environ.get(PASSWORD)
            if not password:
                raise UserError(f"'{name}' is {benchmark.note}; read it there and give it in {PASSWORD}")
        _fetch(name, benchmark, publisher, downloads, target, password)
    _tidy(downloads)
    console.print(f"{name}: {len(list(target.iterdir()))} files in {target}")
    return target


def _named(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark '{name}'{nearest(name, BENCHMARKS)} (known: {', '.join(BENCHMARKS)})")
    return BENCHMARKS[name]


def _publisher(name: str, benchmark: Benchmark, source: str | None) -> Publisher:
    if source is None:
        return next(iter(benchmark.publishers.values()))
    if source not in benchmark.publishers:
        raise UserError(f"'{name}' has no source '{source}' (known: {', '.join(benchmark.publishers)})")
    return benchmark.publishers[source]


def _fetch(
    name: str, benchmark: Benchmark, publisher: Publisher, downloads: Path, target: Path, password: str | None
) -> None:
    """Download what is wanted of a publisher's files and put it into place as a whole."""
    listed, archive = publisher.files(), isinstance(publisher, ZipArchive)
    wanted = [file for file in listed if archive or file.name.endswith(benchmark.suffixes)]
    if not wanted:
        endings, there = " or ".join(benchmark.suffixes), ", ".join(file.name for file in listed) or "nothing"
        by_hand = f"download '{name}' by hand into {target}"
        raise UserError(f"{publisher.where} has no {endings} files any more (only {there}); {by_hand}")
    paths = [download(file.url, downloads / file.name, sha256=file.sha256, size=file.size) for file in wanted]
    if isinstance(publisher, ZipArchive) or password:
        inside = publisher.folder if isinstance(publisher, ZipArchive) else target.name
        members = list_members(paths[0], inside, ".jsonl")
        unpack(paths[0], target, {member: Path(member).name for member in members}, password)
        return
    with files.new_folder(target) as folder:
        for path in paths:
            shutil.copyfile(path, folder / path.name)


def _tidy(downloads: Path) -> None:
    """Remove what was downloaded and has been put into place; the digests stay, so that a later download must agree."""
    for path in sorted(downloads.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".sha256":
            path.unlink()
