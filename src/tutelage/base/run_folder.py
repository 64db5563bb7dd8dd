"""What one trained model leaves on disk, and the rules for touching it.

runs/<recipe>/<model>/seed-<n>/
    recipe.json       the run's spec, all that decides its result; another one is refused, with the difference
    environment.json  versions and machine
    metrics.jsonl     one line per logging step and evaluation; equal bytes for equal runs
    timing.jsonl      clock readings, apart from the metrics
    checkpoints/      see `training.checkpoint`
    hf/               the finished model, for stock transformers
    scores/           evaluations; in `words-3M/` those of the model as it was at so many words seen
    finished.json     present when training is over
    lock              held while a process works here
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.base.checksums import FileDigest, damage, read_checked, write_checked
from tutelage.base.errors import OtherSettings, UserError
from tutelage.base.files import explain_disk_errors, locked, read_json, sweep, write_json
from tutelage.base.machine import environment
from tutelage.base.progress import console
from tutelage.base.types import Json


class RunFolder:
    """The folder of one model and seed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"
        self.hf = path / "hf"
        self.scores = path / "scores"
        self.finished = path / "finished.json"
        self.lost = f"restore it from a copy, or delete {path} to train again"
        self.lost_clock = "delete it: the report then knows only how long the whole training took"

    def scores_at(self, checkpoint: str) -> Path:
        """Name the folder of the scores at a checkpoint; those at `best` are the finished model's."""
        return self.scores if checkpoint == "best" else self.scores / checkpoint

    @contextmanager
    def locked(self, waiting: str | None = None) -> Iterator[None]:
        """Keep other processes out; the lock goes with the process, however it ends. See `files.locked`."""
        with locked(self.path / "lock", str(self.path), waiting=waiting):
            # What a killed process was about to replace comes back, what it left half done goes.
            sweep(self.path)
            sweep(self.checkpoints)
            yield

    def write_spec(self, spec: Json) -> None:
        """Write the spec of the run that this folder is for, with the environment; refuse where another one stands."""
        if not self.matches(spec):
            write_json(self.path / "recipe.json", spec)
            write_checked(self.path / "environment.json", environment())
        self.environment()

    def environment(self) -> Json:
        """Return versions and machine of the training; those of now, written down with a note, where they are lost."""
        path = self.path / "environment.json"
        try:
            return read_checked(path)
        except UserError as error:
            console.print(f"[yellow]{error}. Written again, with the versions and the machine of now")
        write_checked(path, environment())
        return read_checked(path)

    def matches(self, spec: Json) -> bool:
        """Tell whether this folder has the spec; refuse a folder with another one, as `write_spec` does."""
        path = self.path / "recipe.json"
        if not path.is_file():
            return False
        there = read_json(path, self.lost)
        if changes := differences(there, spec):
            shown = "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in changes[:12])
            raise OtherSettings(f"{self.path} holds a run with other settings:\n{shown}",
                                "\nResults never mix: give the new run another name (name=...), or delete that folder"
                                )  # fmt: skip
        return True

    @property
    def is_finished(self) -> bool:
        """Whether training is over."""
        return self.finished.is_file()

    def lines(self) -> list[Json]:
        """Read the metrics; see `read_lines`."""
        return read_lines(self.metrics, self.lost, growing=not self.is_finished)

    def readings(self) -> list[Json]:
        """Read the clock readings; see `read_lines`."""
        return read_lines(self.timing, self.lost_clock, growing=not self.is_finished)


def read_lines(path: Path, remedy: str, growing: bool = False) -> list[Json]:
    """Read a file of JSON lines, none where it is not there.

    A last line that was cut is left out, with a note, if the file is still `growing`.

    Raises:
        UserError: any other line that is no JSON mapping, with file, line and remedy.
    """
    if not path.is_file():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if rest and growing:
        console.print(f"[yellow]{path}: its last line was cut, and is left out")
    elif rest:
        lines.append(rest)
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}:{number} is damaged, it is no JSON ({error}): {remedy}") from error
        if not isinstance(found[-1], dict) or not {"step", "tokens"} <= found[-1].keys():
            raise UserError(f"{path}:{number} is damaged, it has no `step` and `tokens`: {remedy}")
    return found


def exported_damage(folder: Path) -> str | None:
    """Say what is wrong with a model's folder, if it is the `hf/` of a run that kept digests of it; else None."""
    run = RunFolder(folder.absolute().parent)
    if folder.name != run.hf.name or not run.is_finished:
        return None
    files = read_checked(run.finished).get("files") or {}
    return damage(run.path, {name: FileDigest(**of) for name, of in files.items()}, f"{run.hf.name}/")


def check_exported(folder: Path) -> None:
    """Refuse a finished model's folder that is damaged, see `exported_damage`."""
    if (fault := exported_damage(folder)) is not None:
        raise UserError(f"{folder} is damaged: {fault}; run the recipe it belongs to again, which exports it anew from "
                        "its checkpoint, or restore it from a copy")  # fmt: skip


class JsonLines:
    """A JSON-lines file that is appended to, and cut back to a known length on resuming."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        with explain_disk_errors(path.parent):
            _drop_cut_line(path)
            self._file = path.open("ab")
        if size is not None:
            if self._file.tell() < size:
                raise UserError(f"{path} is {self._file.tell()} bytes long, the checkpoint counts on {size}: it was "
                                "cut by something else; restore it or delete the run's folder")  # fmt: skip
            self._file.truncate(size)
            self._file.seek(size)
        self._path = path

    def write(self, line: Json) -> None:
        """Append a line."""
        with explain_disk_errors(self._path.parent):
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Flush to the disk and return the length in bytes."""
        with explain_disk_errors(self._path.parent):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def _drop_cut_line(path: Path) -> None:
    """Shorten a file to its last whole line, which a kill or a power cut may have spoilt."""
    if not path.is_file() or not (data := path.read_bytes()) or data.endswith(b"\n"):
        return
    console.print(f"[yellow]{path}: its last line was cut, and is left out")
    os.truncate(path, data.rfind(b"\n") + 1)


def differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """List the places where two JSON-like values differ: key, old value, new value."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(place, old, new)]
    pairs = {key: (old.get(key, "(default)"), new.get(key, "(default)")) for key in sorted({*old, *new})}
    return [item for key, pair in pairs.items() for item in differences(*pair, f"{place}.{key}".removeprefix("."))]
