"""Files that are complete or not there, and what is in them."""
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("algorithms", "models", "op", "physics", "utils/cli", "utils/io", "utils/run")     # that a run uses
SOURCES = (".py", ".cpp", ".cu", ".h")
ENDINGS = re.compile(r"\.(nii|nii\.gz|npy|mha|mhd|nrrd|nhdr|tiff?|ya?ml)$", re.IGNORECASE)
KINDS = ((stat.S_ISFIFO, "named pipe"), (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"), (stat.S_ISSOCK, "socket"))


def plain_name(path: str | Path) -> str:
    """What a file or folder is called in the names of results: one part of a path, not empty, no dots alone.

    Of a file, without one of the `ENDINGS`; a folder's name stays whole. Characters that cannot be printed (of names
    that are not UTF-8, say) become "_".
    """
    name = os.path.basename(os.path.abspath(path))
    stem = name if os.path.isdir(path) else ENDINGS.sub("", name)
    stem = stem.lstrip(".") or name.strip(".") or "unnamed"
    return "".join(letter if letter.isprintable() else "_" for letter in stem)


def check_file(path: Path, folder: bool = False) -> None:
    """See that a path is a file (or ``folder``): a pipe would be waited for.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file" + " or folder" * folder)
    if path.is_file() or (folder and path.is_dir()):
        return
    mode = path.stat().st_mode
    kind = next((name for test, name in KINDS if test(mode)), "folder")
    raise ValueError(f"{path}: a {kind}; accepted: a file" + " or a folder" * folder)


@contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
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


def clear_partial(*folders: Path) -> None:
    """Delete what `complete_file` left in folders when a process was killed; what others write now stays."""
    for path in (path for folder in folders for path in folder.glob(".partial-*")):
        number = path.name.split("-")[1]
        if not (number.isdigit() and int(number) != os.getpid() and _runs(int(number))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:     # another user's
        pass
    return True


def content_digest(*paths: Path) -> str:
    """SHA-256 of the content of files, and of everything below folders with its names there."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            total.update(os.fsencode(file.relative_to(path)) + bytes.fromhex(file_digest(file)))
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the content of a file, as ``sha256sum`` gives it."""
    content = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def program_digest(root: Path = ROOT) -> str:
    """Identifies the source code of a run: all of the rooms that runs use, and the scripts that start one.

    CT and MR share it, so that a study of both is seen to be made by one program.
    """
    files = [path for room in ROOMS for path in (root / room).rglob("*") if path.suffix in SOURCES]
    return content_digest(*sorted([*files, *root.glob("recon_*.py")]))[:12]


def save_tensors(path: str | Path, content: dict) -> None:
    """`torch.save` through `complete_file`. OSError where it cannot be written."""
    import torch

    with complete_file(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:       # of a full disk
            raise OSError(f"{path}: cannot be written ({str(error).splitlines()[0][:120]})") from None
