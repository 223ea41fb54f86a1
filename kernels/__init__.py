"""WHAT: the built-in operations. Importing this announces their names; each is loaded when it is first asked for."""

from __future__ import annotations

import importlib
from typing import Any

from ..executors.above import OFFERED
from ..selector.operations import provide
from .table import KERNELS

provide(KERNELS)


def _run_monte_carlo(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module(".monte_carlo", __name__).run_monte_carlo(*args, **kwargs)


OFFERED["run_monte_carlo"] = _run_monte_carlo
