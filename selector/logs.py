"""What the `log` setting does: the level of the "pointsman" logger, and a place to write to where one was asked for."""

from __future__ import annotations

import logging

from .settings import Settings

log = logging.getLogger("pointsman")


def follow(settings: Settings) -> None:
    """Set the logger as `settings` say, where somebody asked; a library leaves it to the application otherwise.

    A handler is added only where there is none at all.
    """
    if "log" not in settings.origin:
        return
    log.setLevel(settings.log.upper())
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("pointsman: %(message)s"))
        log.addHandler(handler)
