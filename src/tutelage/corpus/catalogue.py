"""Known corpora: where they are published and which files they have.

Sources: the BabyLM calls (arXiv 2301.11796, 2502.10645, 2602.20092), https://babylm.github.io, the OSF projects ad7qg
(2024) and ryjfm (2025), the Hugging Face organisation BabyLM-community (2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PartName = Literal["10m", "100m", "dev", "test"]
_SUFFIXES: dict[PartName, str] = {"10m": ".train", "100m": ".train", "dev": ".dev", "test": ".test"}

SOURCES_2023 = ("aochildes", "bnc_spoken", "cbt", "children_stories", "gutenberg", "open_subtitles", "qed",
                "simple_wikipedia", "switchboard", "wikipedia")  # fmt: skip
SOURCES_2024 = ("bnc_spoken", "childes", "gutenberg", "open_subtitles", "simple_wiki", "switchboard")

LICENCES = {
    "aochildes": "CHILDES / TalkBank ground rules (CC BY-NC-SA)",
    "childes": "CHILDES / TalkBank ground rules (CC BY-NC-SA)",
    "bnc_spoken": "BNC licence; passed on by the organisers under fair dealing (term 2g)",
    "cbt": "public domain (Project Gutenberg texts)",
    "children_stories": "unstated (Kaggle: children-stories-text-corpus)",
    "gutenberg": "Project Gutenberg licence",
    "open_subtitles": "OPUS OpenSubtitles 2018; rights of the subtitles unstated",
    "qed": "QED / AMARA: research use",
    "simple_wikipedia": "CC BY-SA",
    "simple_wiki": "CC BY-SA",
    "switchboard": "Switchboard dialogue act corpus (CC BY-NC-SA)",
    "wikipedia": "CC BY-SA",
}
"""Licence of each source, as its publishers state it; mixed corpora are for research."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file to download."""

    url: str  # where it is
    filename: str  # its name in the cache
    bytes: int | None = None  # its size, if known
    sha256: str | None = None  # its digest; None where unpublished: the first download's is recorded beside it


@dataclass(frozen=True, kw_only=True)
class CorpusPart:
    """One published part of a year's corpora: its files, inside an archive or one by one."""

    files: tuple[str, ...]  # names of the text files: paths inside the archive, or the names of `remotes`
    remotes: tuple[Remote, ...]  # one archive that holds all of `files`, or one remote a file, in the same order

    @property
    def archived(self) -> bool:
        """Whether the files come inside one zip archive."""
        return self.remotes[0].filename.endswith(".zip")


def _archive(remote: Remote, names: tuple[str, ...], folder: str, suffix: str) -> CorpusPart:
    return CorpusPart(files=tuple(f"{folder}/{name}{suffix}" for name in names), remotes=(remote,))


def _release_2023() -> dict[PartName, CorpusPart]:
    # One archive holds all parts. It is a Git LFS file: its pointer at this commit states size and digest.
    remote = Remote(
        url="https://github.com/babylm/babylm.github.io/raw/bb498d27e2b5bc8bea7709c879d9a5c22db2d963/babylm_data.zip",
        filename="babylm_data.zip",
        bytes=253_170_132,
        sha256="1337771192c61fa38c7eca2ef535f568c19270789b114fe7c60fe23e4314ab57",
    )
    folders: dict[PartName, str] = {"10m": "10M", "100m": "100M", "dev": "dev", "test": "test"}
    return {
        name: _archive(remote, SOURCES_2023, f"babylm_data/babylm_{folder}", _SUFFIXES[name])
        for name, folder in folders.items()
    }


def _release_osf(ids: dict[PartName, str]) -> dict[PartName, CorpusPart]:
    # Digests are not published; file ids come from public download scripts and were not fetched by us.
    folders: dict[PartName, str] = {"10m": "train_10M", "100m": "train_100M", "dev": "dev", "test": "test"}
    remotes = {
        name: Remote(url=f"https://osf.io/download/{ids[name]}/", filename=f"{folder}.zip")
        for name, folder in folders.items()
    }
    return {name: _archive(remotes[name], SOURCES_2024, folders[name], _SUFFIXES[name]) for name in folders}


def _hub_part(repository: str, revision: str, suffix: str, digests: tuple[str, ...] = ()) -> CorpusPart:
    files = tuple(f"{name}{suffix}" for name in SOURCES_2024)
    base = f"https://huggingface.co/datasets/BabyLM-community/{repository}/resolve/{revision}"
    remotes = tuple(
        Remote(url=f"{base}/{file}", filename=file, sha256=digest)
        for file, digest in zip(files, digests or [None] * len(files), strict=True)
    )
    return CorpusPart(files=files, remotes=remotes)


def _release_2026() -> dict[PartName, CorpusPart]:
    # Revisions pin the content; digests of the test files come from public audits of these revisions.
    test_digests = (
        "bdfc15bb70e1bd5f66d6a6113ef47995b7fe7fac247bd8afddfac87b86627b4b",
        "c6b9e5d5479d003381a9a5ea8905ed82ac9c418cbc53395d4234bbb218ee8424",
        "df309abec59a9143cb5220d81438297d24526024608e6bb795ca8c1a7069c9bd",
        "59cf3e496921fb89f2581cae4f91ce5d2009513ad10778eb4181381d7ea44066",
        "e3b1dec6f381115c82630b229ba427edd0f79553ccb9b40fdfc965e31bc7da70",
        "f30501f856a0f63571f81716b2e7f7420cfc9ca4b4705671111063065792e713",
    )
    return {
        "10m": _hub_part("BabyLM-2026-Strict-Small", "c92ab16b4f08858304b0815706065b3354d8fc0a", ".train.txt"),
        "100m": _hub_part("BabyLM-2026-Strict", "9e57baaaa91ac3c638746be14d1d5fa6c789f4cf", ".train.txt"),
        "dev": _hub_part("BabyLM-dev", "169f42e32d0aaf65ec6b91d55bafad27a3afc729", ".dev"),
        "test": _hub_part("BabyLM-Test", "2c47b98e2dc3707465aed81da69dc36cdca5d13b", ".test", test_digests),
    }


RELEASES: dict[int, dict[PartName, CorpusPart]] = {
    2023: _release_2023(),
    2024: _release_osf({"10m": "5mk3x", "100m": "rduj2", "dev": "m48ed", "test": "qj4a6"}),
    2025: _release_osf({"10m": "y7djq", "100m": "ywea7", "dev": "uyd7v", "test": "ftwu3"}),  # the text of 2024
    2026: _release_2026(),
}
"""Each year's parts: 10M and 100M words for training, dev (the test split here) and test."""

CORPORA: dict[str, tuple[int, PartName]] = {
    f"babylm-{year}-{part}": (year, part) for year, parts in RELEASES.items() for part in parts
}
"""Catalogue names. `-10m` and `-100m` bring that year's dev files as their test split; `-dev` and `-test` are those
files as corpora of their own, cut like any folder without dev files."""
