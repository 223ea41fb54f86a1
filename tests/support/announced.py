"""What a history file says of large runs that have been announced and have not ended."""

from __future__ import annotations

import sqlite3


def attempts(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT operation, variant, device, bytes FROM attempt").fetchall()
    finally:
        connection.close()
