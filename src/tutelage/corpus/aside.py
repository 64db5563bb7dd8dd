"""Corpora prepared only to be looked at (`tutelage show`): they lie in the cache until a run takes them over.

So looking at a recipe leaves nothing in the folder of runs, and the run that follows prepares nothing twice.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tutelage.base import files
from tutelage.base.types import Json
from tutelage.corpus.sources import cache_folder

KEPT_DAYS = 7
"""A corpus that nobody looked at or took over for so long is removed."""


def folder_of(settings: Json) -> Path:
    """Return the folder for these settings of data; others that have lain too long are removed."""
    root = cache_folder() / "prepared"
    for old in root.iterdir() if root.is_dir() else ():
        if time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
    return root / files.fingerprint(settings)[:16]


def take(aside: Path, folder: Path) -> None:
    """Move a prepared corpus; its manifest comes last, so that half of it does not count as prepared."""
    with files.explain_disk_errors(folder):
        for path in sorted(aside.iterdir(), key=lambda path: path.name == "manifest.json"):
            if path.name != "lock":
                target = folder / path.name
                files.remove(target)
                shutil.move(path, target)
        files.sync_folder(folder)
    shutil.rmtree(aside, ignore_errors=True)
