"""What the tests on a device share."""

from __future__ import annotations

import os

import pytest
from pointsman.executors import registry


@pytest.fixture(scope="session", autouse=True)
def _jax_leaves_memory_to_the_others():
    """JAX takes three quarters of the GPU's memory when it starts, unless told before that."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@pytest.fixture
def library():
    """``library("cupy")``: its executor, ready; skips, with the reason, where it cannot use the GPU here."""

    def ready(name: str):
        reason = registry.available(name)
        if reason is None and "cuda:0" not in registry.executor(name).devices():
            reason = f"{name} as installed here cannot use cuda:0"
        if reason is not None:
            pytest.skip(reason)
        return registry.ensure(name)[0]

    return ready
