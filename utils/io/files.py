"""Files that are complete or not there, and what is in them."""
import hashlib
import os
import re
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("algorithms/*.py", "models/*.py", "op/*.*", "physics/*.py", "utils/**/*.py", "configs/geometry/*.yaml")
NO_PART_OF_A_RUN = [path for room in ("evaluation", "train", "phantoms") for path in ROOT.glob(f"utils/{room}/*.py")]

ENDINGS = re.compile(r"\.(nii|nii\.gz|npy|mha|mhd|nrrd|nhdr|tiff?|ya?ml)$", re.IGNORECASE)


def plain_name(path: str | Path) -> str:
    """What a file or folder is called in the names of results: one part of a path, not empty, no dots alone.

    Of a file, without one of the `ENDINGS`; a folder's name stays whole. Characters that cannot be printed (of names
    that are not UTF-8, say) become "_".
    """
    name = os.path.basename(os.path.abspath(path))
    stem = name if os.path.isdir(path) else ENDINGS.sub("", name)
    stem = stem.lstrip(".") or name.strip(".") or "unnamed"
    return "".join(letter if letter.isprintable() else "_" for letter in stem)


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


def content_digest(*paths: Path) -> str:
    """SHA-256 of the content of files, and of everything below folders with its names there."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            content = hashlib.sha256()
            with open(file, "rb") as stream:
                while chunk := stream.read(1 << 20):
                    content.update(chunk)
            total.update(str(file.relative_to(path)).encode() + content.digest())
    return total.hexdigest()


def program_digest(entry: Path) -> str:
    """Identifies the source code of a run that starts with the file ``entry``."""
    files = {path for pattern in SOURCES for path in ROOT.glob(pattern)}.difference(NO_PART_OF_A_RUN)
    return content_digest(entry, *sorted(files))[:12]
