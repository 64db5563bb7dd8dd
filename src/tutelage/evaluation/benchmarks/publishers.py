"""Where benchmarks are published: what lies in a folder there, with addresses, sizes and digests.

- the Open Science Framework (OSF), whose interface (https://developer.osf.io) gives every file's sha256;
- datasets on the Hugging Face hub at a pinned revision (sha256 of large files; small ones are pinned by their first
  download);
- one zip archive, such as GitHub makes of a repository at a commit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tutelage.base.errors import UserError
from tutelage.corpus.download import download

OSF = "https://api.osf.io/v2"
HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download, with size (bytes) and digest, if published; otherwise its first download is pinned."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class OsfFolder:
    """Folders of an OSF project, `paths` from its root."""

    project: str
    paths: tuple[str, ...]

    @property
    def where(self) -> str:
        """For people."""
        return f"https://osf.io/{self.project}, {' and '.join(self.paths)}"

    def files(self) -> list[RemoteFile]:
        """List the files, which asks the publisher; a `UserError` without a connection or such a folder."""
        return [file for path in self.paths for file in self._folder(path)]

    def _folder(self, path: str) -> Iterator[RemoteFile]:
        url = f"{OSF}/nodes/{self.project}/files/osfstorage/"
        for part in path.split("/"):
            entries = {entry["attributes"]["name"]: entry for entry in _osf_entries(url)}
            if part not in entries or entries[part]["attributes"]["kind"] != "folder":
                there = f"beside '{part}': {', '.join(sorted(entries)) or 'nothing'}"
                place = f"https://osf.io/{self.project}"
                raise UserError(f"{place} has no folder '{path}' any more ({there}); download it by hand")
            url = entries[part]["relationships"]["files"]["links"]["related"]["href"]
        for entry in _osf_entries(url):
            about = entry["attributes"]
            if about["kind"] == "file":
                digest = (about.get("extra") or {}).get("hashes", {}).get("sha256")
                yield RemoteFile(_plain(about["name"]), entry["links"]["download"], about.get("size"), digest)


@dataclass(frozen=True, slots=True)
class HubFolder:
    """Folders of a dataset on the Hugging Face hub at one revision."""

    dataset: str
    revision: str
    paths: tuple[str, ...]

    @property
    def where(self) -> str:
        """For people."""
        return f"{HUB}/datasets/{self.dataset}, {' and '.join(self.paths)}"

    def files(self) -> list[RemoteFile]:
        """List the files, which asks the publisher; a `UserError` without a connection or such a folder."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.hf_api import RepoFile

        found, api = [], HfApi(endpoint=HUB)
        try:
            for path in self.paths:
                tree = api.list_repo_tree(self.dataset, path, revision=self.revision, repo_type="dataset")
                found += [entry for entry in tree if isinstance(entry, RepoFile)]
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            raise UserError(f"cannot list {self.where}: {error}; try again later, or download it by hand") from error
        base = f"{HUB}/datasets/{self.dataset}/resolve/{self.revision}"
        return [
            RemoteFile(_plain(PurePosixPath(file.path).name), f"{base}/{file.path}", file.size,
                       file.lfs.sha256 if file.lfs else None)
            for file in found
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ZipArchive:
    """A zip archive of which the files directly in folders called `folder` are wanted."""

    url: str
    folder: str
    suffix: str = ".jsonl"

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.url}, folder {self.folder}"

    def files(self) -> list[RemoteFile]:
        """Return the archive."""
        return [RemoteFile(f"{self.folder}.zip", self.url)]


Publisher = OsfFolder | HubFolder | ZipArchive


def _plain(name: str) -> str:
    """Refuse a name that would lead elsewhere."""
    if not name or name.startswith(".") or PurePosixPath(name).name != name or "\\" in name:
        raise UserError(f"the publisher lists a file called {name!r}; refused as unsafe")
    return name


def _osf_entries(url: str) -> Iterator[dict[str, Any]]:
    """Entries of a folder, page by page."""
    following: str | None = f"{url}?page[size]=100"
    while following:
        page = _fetch_json(following)
        try:
            yield from page["data"]
            following = page["links"].get("next")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{following} does not answer as OSF does; download the files by hand") from error


def _fetch_json(url: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = download(url, Path(folder) / "listing.json")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{url} did not answer in JSON ({error}); try again later") from error
