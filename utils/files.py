"""Files that are complete or not there."""
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_file(path: str | Path):
    """Give a temporary name beside ``path`` to write to; the file takes its own name when all went well.

    The temporary name ends like the final one, for writers that go by the ending. After an error, or a write
    that did not happen, nothing is left and an older file stays.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
