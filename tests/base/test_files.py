"""A reader sees the old folder or the new one, whenever the writer dies; a lock goes with its process."""

import errno
import os
import platform
import shutil
import signal
from pathlib import Path

import pytest

from tutelage.base import files
from tutelage.base.errors import UserError


def forked(work):
    """Run `work` in a forked process and return how that ended: its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dead_process():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def write(target, text):
    with files.new_folder(target) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(text)


def content(target):
    return {path.name: path.read_text() for path in target.iterdir()}


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


OLD, NEW, NEWER = ({"a": text, "b": text} for text in ("old", "new", "newer"))


def killed_at(step):
    """Make a step of `write` deadly, in this process."""
    rename = Path.rename

    def deadly_rename(number, before):
        calls = []

        def wrapped(self, target):
            calls.append(target)
            if before and len(calls) == number:
                die()
            result = rename(self, target)
            if len(calls) == number:
                die()
            return result

        return wrapped

    match step:
        case "fsync":
            os.fsync = die
        case "rmtree":  # the first that has something to do removes the old folder
            shutil.rmtree = lambda path, **_: die() if Path(path).exists() else None
        case when, number:
            Path.rename = deadly_rename(number, when == "before")


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("fsync", OLD),
        (("before", 1), OLD),
        (("after", 1), None),
        (("before", 2), None),
        (("after", 2), NEW),
        ("rmtree", NEW),
    ],
)
def test_killed_while_replacing(tmp_path, step, left):
    target = tmp_path / "folder"
    write(target, "old")
    assert forked(lambda: (killed_at(step), write(target, "new"))) == -signal.SIGKILL
    if left is None:
        assert not target.exists()
    else:
        assert content(target) == left
    files.sweep(tmp_path)
    assert content(target) == (left or OLD)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    write(target, "newer")
    assert content(target) == NEWER


def test_the_next_use_sweeps(tmp_path):
    write(tmp_path / "folder", "old")
    assert forked(lambda: (killed_at(("after", 1)), write(tmp_path / "folder", "new"))) == -signal.SIGKILL
    write(tmp_path / "other", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other"]
    assert content(tmp_path / "folder") == OLD


@pytest.mark.parametrize("number", [1, 2])
def test_a_failed_rename_keeps_the_old_folder(tmp_path, monkeypatch, number):
    target = tmp_path / "folder"
    write(target, "old")
    rename, calls = Path.rename, []

    def failing(self, other):
        calls.append(other)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "full")
        return rename(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(UserError, match="is full"):
            write(target, "new")
    assert content(target) == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_build_leaves_nothing(tmp_path):
    def work():
        with files.new_folder(tmp_path / "folder") as folder:
            (folder / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write to"):
        write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "mine"


def test_sweep_takes_only_what_is_ours_and_dead(tmp_path):
    dead, here = dead_process(), platform.node()
    gone = [f".file.json.tmp-{dead}@{here}", f".step-6.tmp-{dead}@{here}", f".there.old-{dead}@{here}"]
    kept = [
        "there",
        ".bashrc.old-2023",
        f".other.tmp-{dead}",
        f".elsewhere.tmp-{dead}@another-{here}",
        f".mine.tmp-{os.getpid()}@{here}",
        f".mine.old-{os.getpid()}@{here}",
        f".init.tmp-1@{here}",
    ]
    for name in (*gone[1:], *kept):
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / gone[0]).write_text("half")
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    files.sweep(tmp_path / "nowhere")


def test_a_killed_write_is_swept(tmp_path):
    def work():
        os.fsync = die
        files.write_text(tmp_path / "file", "new")

    files.write_text(tmp_path / "file", "old")
    assert forked(work) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    files.sweep(tmp_path)
    assert content(tmp_path) == {"file": "old"}


def test_lines_that_end_in_an_error_leave_the_old_file(tmp_path):
    path = tmp_path / "lines"
    files.write_lines(path, (f"{number}\n" for number in range(3)))
    assert path.read_text() == "0\n1\n2\n"

    def broken():
        yield "new\n"
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        files.write_lines(path, broken())
    assert content(tmp_path) == {"lines": "0\n1\n2\n"}


def test_lock_names_its_holder(tmp_path):
    def second():
        message = rf"^the oven is in use by process {os.getppid()} on {platform.node()}; wait for it"
        with pytest.raises(UserError, match=message), files.locked(tmp_path / "new" / "lock", "the oven"):
            os._exit(2)

    with files.locked(tmp_path / "new" / "lock", "the oven"):
        assert forked(second) == 0
    with files.locked(tmp_path / "new" / "lock", "the oven"):
        pass


def test_lock_goes_with_its_process(tmp_path):
    def work():
        with files.locked(tmp_path / "lock", "it"):
            die()

    assert forked(work) == -signal.SIGKILL
    with files.locked(tmp_path / "lock", "it"):
        pass


def test_waiting_for_the_lock(tmp_path, capsys):
    ready, told = os.pipe(), os.pipe()

    def first():
        with files.locked(tmp_path / "lock", "it"):
            os.write(ready[1], b".")
            os.read(told[0], 1)
            (tmp_path / "done").touch()

    child = os.fork()
    if child == 0:
        first()
        os._exit(0)
    os.read(ready[0], 1)
    printed = files.console.print
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.console, "print", lambda text: (printed(text), os.write(told[1], b".")))
        with files.locked(tmp_path / "lock", "it", waiting="waiting for the other"):
            assert (tmp_path / "done").exists()
    os.waitpid(child, 0)
    assert f"waiting for the other (process {child} on" in capsys.readouterr().err


def test_lock_on_a_file_system_without(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", without)
    with pytest.raises(UserError, match=r"cannot lock .*No locks available; choose"), files.locked(tmp_path / "l", "x"):
        pass


def test_a_place_that_takes_no_folders_is_named() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(UserError, match=r"cannot write to /proc/x.*--runs"):
        files.write_json(Path("/proc/x/one/data.json"), {})


def test_a_file_that_is_missing_in_a_folder_that_is_there_is_no_matter_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.explain_disk_errors(tmp_path):
        (tmp_path / "missing").read_text()
