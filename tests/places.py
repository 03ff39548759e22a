"""Where tests keep the data of stores."""

from __future__ import annotations

import pathlib
import shutil
import tempfile

# A tmpfs, where the many databases of the tests are copied in a third of the time. A container's may be too small to hold them.
MEMORY = pathlib.Path("/dev/shm")
ROOM_BYTES = 4 << 30


def store_directory(name: str) -> tempfile.TemporaryDirectory[str]:
    """A new directory that is removed in the end. Not pytest's own: Postgres runs as another user, who has to reach it."""
    is_roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES
    return tempfile.TemporaryDirectory(
        prefix=f"meterd-{name}-", dir=MEMORY if is_roomy else None, ignore_cleanup_errors=True
    )
