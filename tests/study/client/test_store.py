"""What was asked and answered survives anything."""

import errno
import json
import os
import subprocess
import sys

import pytest
from fixtures.stored import entries

from tutelage.base.errors import UserError
from tutelage.study.client.budget import Spending, worst_case
from tutelage.study.client.client import Answer, Constraint, Message, Request
from tutelage.study.client.store import Store, costs, open_store

SYSTEM = Message("system", "You label texts. " * 50)
SCHEMA = {"type": "object"}


def request(number, **more):
    return Request((SYSTEM, Message("user", f"text {number}")), f"label/{number}", SCHEMA, seed=number, **more)


def answer(number, text="yes"):
    return {"answer": request(number).key, "text": text, "finish": "stop", "read": 10, "written": 2}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study" / "requests.jsonl"


def test_answers_come_back_as_they_were(path) -> None:
    texts = ["yes", "two\nlines\r\n", "\u2028 \x00 \x1b 🎈", '"{\\'] * 3
    for part in (range(6), range(6, 12)):
        with open_store(path) as store:
            store.claim({"model": "m"})
            for number in part:
                assert request(number).key not in store
                store.append(store.asking(request(number)))
                store.append([answer(number, texts[number])])
    with open_store(path) as store:
        found = [store.answer(request(number).key) for number in range(12)]
        assert found == [Answer(request(n).key, texts[n], "", "stop", 10, 2) for n in range(12)]
        assert store.answer(request(99).key) is None
        assert store.spent == Spending(12, 120, 24)


def test_everything_about_a_request_can_be_read_back(path) -> None:
    constraint = Constraint(words=("a", "b"))
    asked = [request(0), request(1), Request((Message("user", "x"),), "write/0", constraint=constraint, max_tokens=7)]
    with open_store(path) as store:
        for one in asked:
            store.append(store.asking(one))
            store.append(store.asking(one, seed=5))
    found = [line for line in entries(path) if "request" in line]
    for line, one in zip(found, asked, strict=True):
        said = line.get("constraint") or {"words": None, "tokens": None}
        again = Request(
            tuple(Message(role, text) for role, text in line["messages"]), line["purpose"], line.get("schema"),
            line["seed"], line["max_tokens"],
            Constraint(tuple(said["words"])) if said["words"] else None,
        )  # fmt: skip
        assert (again.key, again.purpose) == (line["request"], one.purpose) == (one.key, one.purpose)
    # What they share stands once in the file.
    assert path.read_text().count("You label texts. " * 50) == 1
    assert [line["again"] for line in entries(path) if "again" in line] == [one.key for one in asked]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off(path, cut) -> None:
    with open_store(path) as store:
        store.append(store.asking(request(0)))
        store.append([answer(0)])
        whole = path.stat().st_size
        store.append([answer(1)])
    os.truncate(path, path.stat().st_size - cut)
    with open_store(path) as store:
        assert request(0).key in store
        assert request(1).key not in store
        assert path.stat().st_size == whole
        store.append([answer(1)])
        assert store.answer(request(1).key).text == "yes"
    with open_store(path) as store:
        assert store.answer(request(1).key).text == "yes"


@pytest.mark.parametrize("damage", [b"\x00\x00\x00", b"\xff\xfe", b"[1]", b'{"a": '])
def test_damage_in_the_middle_is_told_by_its_line(path, damage) -> None:
    with open_store(path) as store:
        store.append([answer(0), answer(1), answer(2)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + b"\n" + lines[2])
    with pytest.raises(UserError, match="line 2 is damaged"), open_store(path):
        pass


@pytest.mark.parametrize(
    "line",
    [
        {"again": "x"}, {"again": "x", "worst": [1]}, {"again": "x", "worst": [1, None]},
        {"request": "x", "worst": [1, 2]},
        {"answer": "x", "text": "t", "read": 1}, {"answer": ["x"], "text": "t", "read": 1, "written": 1},
        {"failed": "x", "read": "many"}, {"shared": "x"}, {"teacher": "me"},
        {"request": "x", "purpose": "p", "messages": ["hi"], "worst": [1, 2]},
    ],
)  # fmt: skip
def test_lines_that_are_not_a_stores_are_told(path, line) -> None:
    with open_store(path) as store:
        store.append([answer(0)])
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    for reading in (Store, costs, lambda path: list(entries(path))):
        with pytest.raises(UserError, match=r"line 2 is damaged .*take that line out"):
            reading(path)


def test_faults_are_forgotten_and_kept_in_the_file(path) -> None:
    fault = {**answer(1, ""), "fault": "given up"}
    with open_store(path) as store:
        store.append([answer(0), fault, {**answer(2, ""), "fault": "empty"}, answer(2)])
        store.forget_faults()
        assert [request(n).key in store for n in range(3)] == [True, False, True]
        store.append([fault])
        assert store.answer(request(1).key).fault == "given up"
        assert store.spent == Spending(5, 50, 10)
    with open_store(path) as store:
        assert request(1).key in store


def test_another_teacher_is_refused_with_what_differs(path) -> None:
    with open_store(path) as store:
        store.claim({"model": "m", "sampling": {"top_p": 0.9}})
    with open_store(path) as store:
        store.claim({"model": "m", "sampling": {"top_p": 0.9}})
        store.expect({"model": None, "sampling": {"top_p": 0.9}})
        with pytest.raises(UserError, match=r"sampling: {'top_p': 0.9} there, {'top_p': 1.0} now"):
            store.claim({"model": "m", "sampling": {"top_p": 1.0}})
        with pytest.raises(UserError, match="model: 'm' there, 'n' now"):
            store.expect({"model": "n", "sampling": {"top_p": 0.9}})
    assert len(list(entries(path))) == 1


def test_what_was_lost_counts_with_its_worst_case(path) -> None:
    worst = worst_case(request(0))
    with open_store(path) as store:
        for number in range(3):
            store.append(store.asking(request(number)))
        store.append([answer(0), {"failed": request(1).key, "why": "busy", "read": 0, "written": 0}])
        store.append(store.asking(request(1)))
    with open_store(path) as store:
        # Sent four times; one answered, one failed at no cost, two never heard of again.
        assert store.spent == Spending(4, 10 + 2 * worst.read, 2 + 2 * worst.written)
        store.append(store.asking(request(1)))
        store.append([answer(1)])
        spent = store.spent
    with open_store(path) as store:
        assert store.spent == spent
    # What is shown is what the budget counts.
    assert costs(path) == {"label": spent}
    assert spent == Spending(5, 20 + 2 * worst.read, 4 + 2 * worst.written)


def test_two_processes_never_share_a_store(path) -> None:
    code = "import sys; from pathlib import Path; from tutelage.study.client.store import open_store\n" \
           "with open_store(Path(sys.argv[1])): pass"  # fmt: skip
    with open_store(path):
        found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "is in use by process" in found.stderr
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0


def test_memory_holds_places_not_texts(path) -> None:
    import tracemalloc

    with open_store(path) as store:
        store.append([{**answer(n), "text": "long " * 2000} for n in range(400)])
    tracemalloc.start()
    store = Store(path)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert store.answer(request(399).key).text == "long " * 2000
    store.close()
    assert path.stat().st_size > 4_000_000 > 10 * used


def test_lines_are_json_with_utf8(path) -> None:
    with open_store(path) as store:
        store.append([answer(0, "日本")])
    assert "日本" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["text"] == "日本"


class Full:
    """A file on a disk that fills up: a part of a write arrives, then nothing does; perhaps it cannot be cut either."""

    def __init__(self, file, cuts=True):
        self.file, self.cuts, self.writes = file, cuts, 0

    def write(self, data):
        self.writes += 1
        if self.writes > 1:
            raise OSError(errno.ENOSPC, "full")
        return self.file.write(bytes(data[: len(data) // 2]))

    def truncate(self, size):
        if not self.cuts:
            raise OSError(errno.EIO, "broken")
        return self.file.truncate(size)

    def close(self):
        self.file.close()


def test_a_write_that_fails_leaves_nothing(path) -> None:
    with open_store(path) as store:
        store.append([answer(0)])
        file, whole = store._file, path.read_bytes()
        store._file = Full(file)
        with pytest.raises(UserError, match="full"):
            store.append(store.asking(request(1)))
        assert path.read_bytes() == whole
        # There is space again: the request is written as if for the first time, with what it shares.
        store._file = file
        store.append(store.asking(request(1)))
        store.append([answer(1)])
        assert store.answer(request(1).key).text == "yes"
    (line,) = [line for line in entries(path) if "request" in line]
    assert line["messages"][0] == ["system", SYSTEM.content]


def test_a_fragment_that_stays_is_never_written_behind(path) -> None:
    with open_store(path) as store:
        store.append([answer(0)])
        file = store._file
        store._file = Full(file, cuts=False)
        with pytest.raises(UserError, match="full"):
            store.append([answer(1)])
        store._file = file
        with pytest.raises(UserError, match="torn"):
            store.append([answer(2)])
    with open_store(path) as store:
        store.append([answer(2)])
        assert [request(n).key in store for n in range(3)] == [True, False, True]


@pytest.mark.parametrize("gone", ["shared", "request"])
def test_a_store_is_read_after_a_damaged_line_was_taken_out(path, gone) -> None:
    with open_store(path) as store:
        store.append([*store.asking(request(0)), answer(0)])
    lines = path.read_text().splitlines(keepends=True)
    first = next(line for line in lines if gone in json.loads(line))
    path.write_text("".join(line for line in lines if line != first))
    assert costs(path) == {"label" if gone == "shared" else "unknown": Spending(1, 10, 2)}
    assert sum("answer" in line for line in entries(path)) == 1
    with open_store(path) as store:
        assert store.answer(request(0).key).text == "yes"
