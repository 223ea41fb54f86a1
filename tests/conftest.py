"""What all tests share: no test touches the user's own history or settings."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def no_pool_is_left() -> Iterator[None]:
    """End the workers that map backends keep for the next call; once, for to start them takes seconds."""
    yield
    from joblib.externals.loky import get_reusable_executor
    from pointsman.executors.mapping import map_methods

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    for _, executor, _ in map_methods():
        getattr(executor, "shutdown", lambda: None)()


@pytest.fixture
def project() -> Path:
    """The folder of the project."""
    return Path(__file__).parent.parent
