"""What the rooms above offer for backends to give on: name -> a function that loads it and calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OFFERED: dict[str, Callable[..., Any]] = {}
"""Filled by those who offer; nothing in this room imports them."""
