"""All that was ever asked of a study's teacher, and answered: an append-only file, a JSON object a line.

    {"teacher": {...}}                      who answers; the first line. Answers of another teacher never mix with its
    {"shared": DIGEST, "value": ...}        what many requests have in common, once: system messages, schemas, ...
    {"request": KEY, "purpose": ..., ...}   a request, before it is sent; `worst` is the most it may cost: tokens read
                                            and written; [0, 0] where it costs nothing unless it is answered
    {"again": KEY, "worst": [...]}          it is sent once more, after ...
    {"failed": KEY, "why": ..., ...}        ... a sending came to nothing, with tokens where it may have cost some;
                                            `requests` is 0 where it was stopped before it was sent
    {"answer": KEY, "text": ..., ...}       an answer, before it is used

Lines are on the disk when `append` returns. A process that is killed while it writes leaves at most its last line
torn; that line is cut off, since what it says was not acted upon. A sending that was neither answered nor failed, since
the process died meanwhile, counts with its worst case: it may have been paid for.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.base.files import explain_disk_errors, fingerprint, locked, sync_folder
from tutelage.base.progress import progress
from tutelage.base.types import Json
from tutelage.study.client.budget import Spending, worst_case
from tutelage.study.client.client import Answer, Request

SHOW_BYTES = 64 << 20
"""A store larger than this takes seconds to read; a bar shows it."""


class Store:
    """Requests and answers on disk; of answers, only their places are in memory; `spent` is what all cost so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent = Spending()
        self.teacher: Json | None = None
        self._places: dict[str, int] = {}
        self._faults, self._shared, self._asked = set[str](), set[str](), set[str]()
        self._torn = False
        with explain_disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            sync_folder(path.parent)
        account = _Account()
        self._end = 0
        for place, size, line in read_lines(path):
            self._note(line, place)
            account.note(line)
            self._end = place + size
        if self._end < self._file.seek(0, os.SEEK_END):
            self._file.truncate(self._end)
        self.spent = sum(account.costs().values(), Spending())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def expect(self, teacher: Mapping[str, Any]) -> None:
        """Refuse the store if another teacher answered in it; a value that is None is not known yet and fits any.

        Raises:
            UserError: with what differs.
        """
        if self.teacher is None:
            return
        keys = sorted(self.teacher.keys() | teacher.keys())
        pairs = {key: (self.teacher.get(key), teacher.get(key)) for key in keys}
        changes = [f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in pairs.items()
                   if old != new and not (key in teacher and new is None)]  # fmt: skip
        if changes:
            told = "\n".join(changes)
            raise UserError(f"{self.path} holds answers of another teacher:\n{told}\nAnswers never mix: set that back; "
                            "or give the study another name (name: ...), which asks again")  # fmt: skip

    def claim(self, teacher: Mapping[str, Any]) -> None:
        """Write down who answers, if nobody has answered yet; else refuse as `expect` does."""
        self.expect(teacher)
        if self.teacher is None:
            self.append([{"teacher": dict(teacher)}])

    def asking(self, request: Request, **more: Any) -> list[Json]:
        """Return the lines to append before a request is sent; the content of one that was asked before is there."""
        worst = worst_case(request)
        more = {"worst": [worst.read, worst.written], **more}
        if request.key in self._asked:
            return [{"again": request.key, **more}]
        shared: list[Json] = []

        def once(value: Any) -> Json:
            digest = fingerprint(value)
            if digest not in self._shared:
                self._shared.add(digest)
                shared.append({"shared": digest, "value": value})
            return {"shared": digest}

        line: Json = {
            "request": request.key,
            "purpose": request.purpose,
            "messages": [[m.role, once(m.content) if m.role == "system" else m.content] for m in request.messages],
            "seed": request.seed,
            "max_tokens": request.max_tokens,
            **more,
        }
        if request.schema is not None:
            line["schema"] = once(request.schema)
        if request.constraint is not None:
            line["constraint"] = once({"words": request.constraint.words, "tokens": request.constraint.tokens})
        self._asked.add(request.key)
        return [*shared, line]

    def forget_faults(self) -> None:
        """Take requests whose answer is a fault for unanswered, so that they are asked again; the file keeps all."""
        for key in self._faults:
            del self._places[key]
        self._faults.clear()

    def append(self, lines: Sequence[Json]) -> None:
        """Write lines; they are on the disk when this returns, or nothing of them if it raises.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        if self._torn:
            raise UserError(f"{self.path} cannot be written since an earlier line was torn; run the same command again")
        encoded = [json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in lines]
        with explain_disk_errors(self.path.parent):
            try:
                whole = memoryview(b"".join(encoded))
                while whole:
                    whole = whole[self._file.write(whole) :]
                os.fsync(self._file.fileno())
            except BaseException:
                # What was written of these lines is cut off, or the next line would merge with a part of one.
                for line in lines:
                    self._shared.discard(line.get("shared", ""))
                    self._asked.discard(line.get("request", ""))
                self._torn = True
                with suppress(OSError):
                    self._file.truncate(self._end)
                    self._torn = False
                raise
        for line, text in zip(lines, encoded, strict=True):
            self._note(line, self._end)
            self._end += len(text)

    def answer(self, key: str) -> Answer | None:
        """Return the stored answer to a request, if there is one."""
        place = self._places.get(key)
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place)
            line = json.loads(file.readline())
        text, fault, finish = line.get("text", ""), line.get("fault", ""), line.get("finish", "stop")
        return Answer(key, text, fault, finish, line["read"], line["written"])

    def answers(self, keys: Sequence[str]) -> list[Answer | None]:
        """Return the stored answers, None for those that are missing."""
        return [self.answer(key) for key in keys]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def _note(self, line: Json, place: int) -> None:
        """Take a line into account."""
        if "teacher" in line:
            self.teacher = line["teacher"]
        elif "shared" in line:
            self._shared.add(line["shared"])
        elif key := line.get("request") or line.get("again"):
            self._asked.add(key)
        else:
            self.spent += _cost(line)
            if key := line.get("answer"):
                self._places[key] = place
                (self._faults.add if "fault" in line else self._faults.discard)(key)


def answer_line(answer: Answer) -> Json:
    """Return the line that holds an answer."""
    fault = {"fault": answer.fault} if answer.fault else {}
    return {"answer": answer.key, "text": answer.text, "finish": answer.finish, **fault, "read": answer.read,
            "written": answer.written}  # fmt: skip


def _cost(line: Json) -> Spending:
    """Return what a sending cost, from the line that ends it."""
    return Spending(line.get("requests", 1), line.get("read", 0), line.get("written", 0))


class _Account:
    """What the lines of a store cost, by stage, and the most that sendings without an end may have cost."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}
        self._spent: dict[str, Spending] = defaultdict(Spending)
        self._worst: dict[str, list[Spending]] = defaultdict(list)

    def note(self, line: Json) -> None:
        """Take a line into account."""
        if key := line.get("request") or line.get("again"):
            if "purpose" in line:
                self._stages[key] = line["purpose"].partition("/")[0]
            worst = Spending(1, *line["worst"])
            self._worst[key].append(worst if worst.tokens else Spending())
        elif key := line.get("answer") or line.get("failed"):
            self._spent[self._stages.get(key, "unknown")] += _cost(line)
            if self._worst[key]:
                self._worst[key].pop()

    def costs(self) -> dict[str, Spending]:
        """Return what each stage cost, at the end of the file."""
        found = self._spent.copy()
        for key, worst in self._worst.items():
            found[self._stages.get(key, "unknown")] += sum(worst, Spending())
        return dict(found)


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """Open a study's store, new or from an earlier run; other processes are kept out meanwhile.

    Raises:
        UserError: another process has it, or it is damaged.
    """
    with locked(path.with_name(f"{path.name}.lock"), str(path)), closing(Store(path)) as store:
        yield store


def costs(path: Path) -> dict[str, Spending]:
    """Return what each stage cost: the part of a request's purpose before its first slash.

    Together it is what a budget counts, sendings that were lost with their worst case included. Requests whose line was
    taken out because it was damaged have the stage `unknown`.
    """
    account = _Account()
    for _, _, line in read_lines(path):
        account.note(line)
    return account.costs()


_SHAPES: dict[str, dict[str, type]] = {
    "teacher": {"teacher": dict},
    "shared": {"shared": str, "value": object},
    "request": {"request": str, "purpose": str, "messages": list, "worst": list},
    "again": {"again": str, "worst": list},
    "failed": {"failed": str},
    "answer": {"answer": str, "text": str, "read": int, "written": int},
}
"""What a line needs to have, by the key that tells its kind."""


def _check_shape(line: Any) -> None:
    """Raise ValueError if a line is not what the head of this file says."""
    if not isinstance(line, dict):
        raise ValueError("it is no object")
    for key, kind in next((shape for key, shape in _SHAPES.items() if key in line), {}).items():
        if not isinstance(line.get(key), kind) or key not in line:
            raise ValueError(f"its '{key}' is missing, or is not what it should be")
    worst = line.get("worst", [0, 0])
    counts = [*worst, *(line.get(key, 0) for key in ("requests", "read", "written"))]
    if len(worst) != 2 or not all(isinstance(count, int) for count in counts):
        raise ValueError("its counts are no whole numbers")
    if any(not isinstance(message, list) or len(message) != 2 for message in line.get("messages", ())):
        raise ValueError("its 'messages' are no pairs of role and text")


def read_lines(path: Path) -> Iterator[tuple[int, int, Json]]:
    """Yield place, size and object of each line; a last line without its end is left out.

    Raises:
        UserError: a line that is no JSON object, or lacks what the head of this file says.
    """
    size, place = path.stat().st_size, 0
    with path.open("rb") as file, ExitStack() as stack:
        bar = stack.enter_context(progress(f"reading {path.name}", size, "B")) if size > SHOW_BYTES else None
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            try:
                line = json.loads(text)
                _check_shape(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number} is damaged ({error}); take that line out, and what it held "
                                "will be asked again") from error  # fmt: skip
            if bar is not None:
                bar.advance(len(text))
            yield place, len(text), line
            place += len(text)
