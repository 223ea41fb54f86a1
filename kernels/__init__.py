"""WHAT: the built-in operations. Importing this announces their names; each is loaded when it is first asked for."""

from __future__ import annotations

from ..selector.operations import provide
from .table import KERNELS

provide(KERNELS)
