"""What all tests share: no test touches the user's own history or settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

_NUMBERS = count()


@pytest.fixture(autouse=True)
def _history_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test has a file of its own, fresh settings and, where it asks for one, a fresh shared selector."""
    folder = tmp_path_factory.getbasetemp() / "histories"
    monkeypatch.setenv("POINTSMAN_HISTORY", str(folder / f"{next(_NUMBERS)}.sqlite"))
    _start_afresh()
    yield
    _start_afresh()


def _start_afresh() -> None:
    settings = sys.modules.get("pointsman.selector.settings")
    if settings is not None:
        settings._current = None
    module = sys.modules.get("pointsman.selector.shared")
    if module is not None and module._shared is not None:
        made = module._shared._made
        if made is not None:
            made.history.close()
        module._shared = None


@pytest.fixture(scope="session", autouse=True)
def _opencl_keeps_its_files_to_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its driver for the CPU caches what it has compiled in the user's folder, and so does pyopencl."""
    os.environ["POCL_CACHE_DIR"] = str(tmp_path_factory.mktemp("pocl"))
    os.environ["PYOPENCL_NO_CACHE"] = "1"


@pytest.fixture
def project() -> Path:
    """The folder of the project."""
    return Path(__file__).parent.parent
