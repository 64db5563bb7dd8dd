"""Zip archives from the network, unpacked without trusting them.

Refused: absolute paths, `..`, links, encrypted members without a password, more members or bytes than a corpus can
have, and members that grow more than a text ever does (a bomb).
"""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.progress import human, progress

MAX_MEMBERS = 10_000
MAX_BYTES = 20 << 30
MAX_RATIO = 100  # deflated text shrinks 2 to 5 times, very repetitive text 20 times


def unpack(archive: Path, target: Path, wanted: Mapping[str, str], password: str | None = None) -> None:
    """Unpack members of a zip archive into the folder `target`, replacing it; it appears whole or not at all.

    `wanted` has the names of members, and the file names they get. A member that lies elsewhere in the archive than
    expected is still found if its last name is unique there.

    Raises:
        UserError: not a zip file, damaged, hostile, a wanted member is missing, or a wrong password.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {name: _find(archive, opened.infolist(), member) for member, name in wanted.items()}
            _check(archive, members, password is not None)
            if password is not None:
                opened.setpassword(password.encode())
            total = sum(member.file_size for member in members.values())
            with files.new_folder(target) as folder, progress(f"unpack {archive.name}", total, "B") as bar:
                for name, member in members.items():
                    with opened.open(member) as source, (folder / name).open("wb") as file:
                        # The reader stops at the size that was checked, whatever the compressed bytes hold.
                        shutil.copyfileobj(source, file, 1 << 20)
                    bar.advance(member.file_size)
    except RuntimeError as error:
        # What zipfile says of a wrong password; NotImplementedError is a kind of it.
        if password is None or isinstance(error, NotImplementedError):
            raise UserError(f"{archive} cannot be unpacked here ({error}); unpack it by hand") from error
        raise UserError(f"the password does not open {archive}; see whether it was typed rightly") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        # One in 256 wrong passwords is noticed only by the content.
        hint = " or the password is wrong" if password is not None else ""
        raise UserError(f"{archive} is not a sound zip file ({error}){hint}; delete it and run again") from error


def _find(archive: Path, members: list[zipfile.ZipInfo], name: str) -> zipfile.ZipInfo:
    exact = [member for member in members if member.filename == name]
    last = PurePosixPath(name).name
    sound = [member for member in members if not member.filename.startswith("__MACOSX")]
    alike = [member for member in sound if PurePosixPath(member.filename).name == last]
    if len(exact) == 1 or len(alike) == 1:
        return (exact or alike)[0]
    raise UserError(f"{archive} has no '{name}'; delete it and run again, or unpack it and pass its folder")


def list_members(archive: Path, folder: str, suffix: str) -> list[str]:
    """Return the files directly in any folder of that name inside a zip archive, by their names in the archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [PurePosixPath(name) for name in opened.namelist() if not name.startswith("__MACOSX")]
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a sound zip file ({error}); delete it and run again") from error
    found = sorted(str(name) for name in names if name.parent.name == folder and name.suffix == suffix)
    if not found:
        raise UserError(f"{archive} has no {suffix} files in a folder '{folder}'; has the publisher moved them?")
    return found


def _check(archive: Path, members: Mapping[str, zipfile.ZipInfo], encrypted: bool) -> None:
    total = sum(member.file_size for member in members.values())
    if len(members) > MAX_MEMBERS or total > MAX_BYTES:
        raise UserError(f"{archive} would unpack to {len(members)} files and {human(total)}B; refused as unsafe")
    for name, member in members.items():
        path, reason = PurePosixPath(member.filename), None
        if Path(name).name != name or path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            reason = "leads out of the folder"
        elif member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
            reason = "is no plain file"
        elif member.flag_bits & 0x1 and not encrypted:
            reason = "is encrypted"
        elif member.file_size > MAX_RATIO * max(member.compress_size, 1024):
            reason = f"grows {member.file_size // max(member.compress_size, 1)} times"
        if reason:
            raise UserError(f"{archive}: member '{member.filename}' {reason}; refused as unsafe")
