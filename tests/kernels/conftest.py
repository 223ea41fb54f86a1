"""What tests of maps share: a machine that is always the same."""

from __future__ import annotations

import pytest
from pointsman.executors import mapping, registry
from pointsman.executors.mapping import map_methods
from pointsman.kernels import forgone, map_run


@pytest.fixture
def four_cores_and_warm_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs as on four cores, with joblib's workers started and no cluster; nothing known of any worker."""
    for name in ("joblib", "dask", "ray", "mpi"):
        registry.ensure(name)
    monkeypatch.setattr(map_run, "_KNOWN", {})
    monkeypatch.setattr(forgone, "SECONDS", {})
    for module in (map_run, mapping):
        monkeypatch.setattr(module, "cores", lambda: 4)
    for _, executor, _ in map_methods():
        cluster = executor.name in ("dask", "ray")
        monkeypatch.setattr(executor, "start_s", lambda variant, cluster=cluster: 60.0 if cluster else 0.0)
