"""Fixtures of the executors' tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pointsman.executors import registry


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[..., str]:
    """Run code in a new interpreter, with `tmp_path` first on its search path; gives what it printed."""

    def run(code: str, **environment: str) -> str:
        paths = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that the machine has so many GPUs, and that torch and jax are built for them."""
    from pointsman.executors import on_torch
    from pointsman.telemetry import hardware

    def pretend(count: int, built: bool = True) -> None:
        found = tuple(SimpleNamespace(index=i) for i in range(count))
        monkeypatch.setattr(hardware, "gpus", lambda *_: found)
        monkeypatch.setattr(on_torch, "_built_with_cuda", lambda: built)
        monkeypatch.setattr("pointsman.executors.on_jax.find_spec", lambda _: object() if built else None)

    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
        monkeypatch.delenv(name, raising=False)
    return pretend


@pytest.fixture
def own_backends() -> Iterator[None]:
    """Take out what a test registered."""
    before = {found.name for found in registry.registered()}
    yield
    for found in registry.registered():
        if found.name not in before:
            registry.unregister_backend(found.name)
