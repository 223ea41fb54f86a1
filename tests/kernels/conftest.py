"""What tests of maps share: a machine that is always the same, and no worker processes left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pointsman.executors import mapping, registry
from pointsman.executors.mapping import map_methods
from pointsman.kernels import map_run


@pytest.fixture(scope="module")
def no_pool_is_left() -> Iterator[None]:
    """End the worker processes that are kept for the next call."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    registry.executor("mpi").end()


@pytest.fixture
def four_cores_and_warm_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs as on four cores, with everything imported and started; nothing known of any worker."""
    for name in ("joblib", "mpi"):
        registry.ensure(name)
    monkeypatch.setattr(map_run, "_KNOWN", {})
    for module in (map_run, mapping):
        monkeypatch.setattr(module, "cores", lambda: 4)
    for _, executor, _ in map_methods():
        monkeypatch.setattr(executor, "start_s", lambda variant: 0.0)
