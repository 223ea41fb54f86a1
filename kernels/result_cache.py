"""Results of long simulations, kept for the next call: one file each, found by all that the result depends on.

Only what is the same for the same key may be put there. No trouble with the files changes a result: whatever cannot be
read is computed again, and whatever cannot be written is warned of once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..selector import settings
from ..telemetry.files import history_path

MOST_BYTES = 256 << 20
"""What a cache may hold: some thousand significance levels."""
OFF = "off"
_ENDING, _UNFINISHED, _FACTS = ".npz", ".unfinished-", "facts"
_ABANDONED_S = 3600.0  # an unfinished file this old has lost its process


class ResultCacheWarning(UserWarning):
    """Results cannot be kept for the next call; they are not affected."""


_warned: set[str] = set()


class ResultCache:
    """A folder of results, of bounded size: what was not asked for longest goes first.

    Several processes may use a folder at once: files appear whole, under a name of their own.

    Parameters
    ----------
    folder : made where it is missing, for its owner alone.
    most_bytes : what it may hold.
    """

    def __init__(self, folder: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> None:
        self.folder = Path(folder)
        self.most_bytes = most_bytes

    def get(self, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """The arrays and the facts that were put under `key`; None where there are none, or they are damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            facts = json.loads(arrays.pop(_FACTS).tobytes())
        except Exception:  # a damaged zip file raises nearly anything
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # asked for now
        return arrays, facts

    def put(self, key: str, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Keep arrays, and facts that JSON can say, under `key`; makes room by dropping the oldest."""
        told: Any = {_FACTS: np.frombuffer(json.dumps(dict(facts)).encode(), np.uint8)}
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays, **told)
        content = packed.getbuffer()
        if len(content) > self.most_bytes:
            return
        try:
            self._write(self._path(key), content)
            self._make_room(self._path(key))
        except OSError as error:
            if str(self.folder) not in _warned:
                _warned.add(str(self.folder))
                warnings.warn(
                    f"results cannot be kept in {self.folder} ({error}), and are computed anew each time; name another "
                    "folder with POINTSMAN_CACHE, or switch this off with POINTSMAN_CACHE=off",
                    ResultCacheWarning,
                    stacklevel=2,
                )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"

    def _write(self, path: Path, content: memoryview) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, beside = tempfile.mkstemp(dir=self.folder, prefix=_UNFINISHED)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise

    def _make_room(self, newest: Path) -> None:
        kept, total = [], 0
        with os.scandir(self.folder) as found_there:
            entries = list(found_there)
        for entry in entries:
            with contextlib.suppress(OSError):  # another process makes room, too
                found = entry.stat()
                if entry.name.startswith(_UNFINISHED) and time.time() - found.st_mtime > _ABANDONED_S:
                    os.unlink(entry.path)
                elif entry.name.endswith(_ENDING):
                    kept.append((entry.path == str(newest), found.st_mtime_ns, found.st_size, entry.path))
                    total += found.st_size
        for _, _, size, path in sorted(kept):
            if total <= self.most_bytes:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size


def shared() -> ResultCache | None:
    """The cache that the settings name; None where it is switched off, or the history lives in memory only."""
    asked, history = settings.current().cache, settings.current().history
    if asked == OFF or (asked is None and history == ":memory:"):
        return None
    if asked is not None:
        return ResultCache(os.path.abspath(os.path.expanduser(asked)))
    return ResultCache(history_path(history).parent / "results")


@lru_cache(maxsize=64)
def code_of(*modules: str) -> str:
    """A digest of the sources of these modules of the package: it changes with every change of them."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        digest.update(files(__package__).joinpath(f"{module}.py").read_bytes())
    return digest.hexdigest()


def key_of(name: str, revision: int | str, **parts: Any) -> str:
    """A key for a result: the same only where everything that it depends on is the same.

    Parameters
    ----------
    name, revision : of the algorithm; a new revision wherever it gives other results, such as `code_of` its modules.
    parts : None, booleans, numbers, text, arrays (their dtype, shape and contents count), dataclasses, and sequences
        and mappings of them. The versions of pointsman and of NumPy are taken in as well.

    Raises
    ------
    TypeError
        Something whose contents cannot be told.
    """
    digest = hashlib.blake2b(digest_size=20)
    versions = (metadata.version("pointsman"), np.__version__)
    _take(digest, (name, revision, versions, parts))
    return digest.hexdigest()


def _take(digest: hashlib.blake2b, value: Any) -> None:
    """Feed `value`, each piece with its type and length before it, so that no two values feed the same bytes."""

    def feed(kind: str, content: bytes) -> None:
        digest.update(f"{kind}:{len(content)}:".encode())
        digest.update(content)

    if isinstance(value, np.ndarray) and value.dtype.hasobject is False:
        feed("array", f"{value.dtype.str}{value.shape}".encode())
        feed("values", np.ascontiguousarray(value).tobytes())
    elif isinstance(value, np.generic):
        _take(digest, value.item())
    elif value is None or isinstance(value, bool | int | str):
        feed(type(value).__name__, str(value).encode())
    elif isinstance(value, float):
        feed("float", value.hex().encode())
    elif is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        feed("dataclass", f"{kind.__module__}.{kind.__qualname__}".encode())
        _take(digest, {field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, tuple | list):
        feed("sequence", str(len(value)).encode())
        for part in value:
            _take(digest, part)
    elif isinstance(value, Mapping):
        feed("mapping", str(len(value)).encode())
        for name in sorted(value):
            _take(digest, (name, value[name]))
    else:
        raise TypeError(f"key: found {type(value).__name__}, whose contents cannot be told; give numbers, text, arrays")
