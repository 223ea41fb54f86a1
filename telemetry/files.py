"""Facts about the file that a history lives in."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from .hardware import fingerprint

_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "ncpfs",
}
_NETWORK_FUSE = ("sshfs", "rclone", "glusterfs", "ceph", "s3fs", "gcsfuse", "blobfuse", "davfs", "lustre", "beegfs")


_HEADER = b"SQLite format 3\0"
_OURS = ("", ".sqlite", ".sqlite3", ".db")  # whoever names a history so has lost nothing else by its being moved aside


def history_path(location: str | os.PathLike[str] | None) -> Path:
    """The file that `location` stands for; a folder, or None for the user's cache folder, has one file per host."""
    name = f"history-{fingerprint()}.sqlite"
    if location is None or not os.fspath(location):
        import platformdirs

        return platformdirs.user_cache_path("pointsman") / name
    text = os.path.expanduser(os.fspath(location))
    path = Path(os.path.abspath(text)).resolve()
    return path / name if path.is_dir() or text.endswith(os.sep) else path


def create_private(path: Path) -> None:
    """Make an empty file that only its owner may read, and its folder; leaves an existing file alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # SQLite gives -wal and -shm the same mode


def replace_private(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, for its owner alone: whoever reads sees the old file or the new one."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at `path` now: (device, inode); None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def is_writable(path: Path) -> bool:
    """Whether the file and its folder (SQLite puts a log beside it) may be written."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def obstacle(path: Path) -> str:
    """Why a history cannot be kept at `path`, found without writing anything; "" where nothing is in the way."""
    if os.path.exists(path):
        if path.is_dir():
            return f"{path} is a folder"
        if is_foreign(path):
            return f"{path} is another file, no history"
        return "" if is_writable(path) else f"{path} or its folder may only be read"
    folder = next(place for place in path.parents if os.path.exists(place))
    if not folder.is_dir():
        return f"{folder} is no folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written"


def is_foreign(path: Path) -> bool:
    """Whether the file is no SQLite database by its first bytes, nor by its name: not a damaged history, then."""
    if path.suffix.lower() in _OURS:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEADER))
    except OSError:
        return False
    return bool(head) and head != _HEADER


def move_aside(path: Path, expected: tuple[int, int] | None) -> Path | None:
    """Rename a broken file to the first free `<name>.corrupt-<n>`; None where another process has done so already."""
    if expected is None or identity(path) != expected:
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(aside)
    for ending in ("-wal", "-shm"):  # they belong to the broken file; a new one would be broken by them
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    return aside


def on_network(path: Path, mounts: str | None = None) -> bool:
    """Whether `path` lies on a network file system, as far as the mount table (of Linux) tells.

    Parameters
    ----------
    mounts : text in the form of /proc/mounts; None: that file.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(errors="replace")
        except OSError:
            return False
    where, best, kind = path.resolve(), -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if len(point.parts) >= best and (point == where or point in where.parents):
            best, kind = len(point.parts), fields[2]
    return kind in _NETWORK or (kind.startswith("fuse.") and kind[5:].startswith(_NETWORK_FUSE))
