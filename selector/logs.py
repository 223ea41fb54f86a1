"""What the `log` setting does: the level of the "pointsman" logger, and a place to write to where one was asked for."""

from __future__ import annotations

import logging

from .settings import Settings

log = logging.getLogger("pointsman")


def follow(settings: Settings) -> None:
    """Set the logger as `settings` say. Only who asked for a level gets a handler, and only where there is none yet."""
    log.setLevel(settings.log.upper())
    if "log" in settings.origin and not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("pointsman: %(message)s"))
        log.addHandler(handler)
