"""Where a run's folder is, and which process it belongs to."""
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.io.files import ROOT, plain_name

try:
    import fcntl
except ImportError:     # Windows
    fcntl = None    # type: ignore[assignment]

SHIPPED_PRIORS = ROOT / "demo"
WITHOUT_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)     # of network file systems


def noise_label(level: float) -> str:
    """A simulated measurement's noise as a folder name: clean, gaussian-<variance> or poisson-<photons>."""
    return "clean" if level == 0 else f"{'gaussian' if level < 100 else 'poisson'}-{level:g}"


def task_label(options: Any) -> str:
    """<task>-<degree>, or "all-views" of a measured scan that is used whole."""
    return f"{options.task}-{options.degree}" if options.degree else "all-views"


def data_name(options: Any) -> str:
    """The name of what is reconstructed: the measured projections or thick slices, else the volume."""
    return plain_name(getattr(options, "projections", None) or getattr(options, "thick", None) or options.data)


def prior_name(options: Any) -> str:
    """The name of the prior's config, and of its weights where they may be of more than one prior.

    A prior of one's own stands behind the config's name, <config>+<folder>-<file>, so that priors of one config do not
    share a folder. Weights that come with the program or are named like their config need no such mark. A prior with
    its card has the name of its folder, and of its file where that is not the folder's only one.
    """
    if path := getattr(options, "prior", None):
        path = path.resolve()
        if path.is_dir() or path.is_relative_to(SHIPPED_PRIORS):
            return plain_name(path) if path.is_dir() else path.stem
        return f"{plain_name(path.parent)}-{path.stem}"
    if not options.config_path:
        return "no-prior"
    config, weights = plain_name(options.config_path), getattr(options, "checkpoint_path", None)
    if not weights or weights.stem == config or weights.resolve().is_relative_to(SHIPPED_PRIORS):
        return config
    return f"{config}+{plain_name(weights.resolve().parent)}-{weights.stem}"


def parent_folder(options: Any, modality: str) -> Path:
    """<output-dir>/<config name>/<data name>/[CBCT/]<task>-<degree>/<method>/<problem>, for "ct" or "mr".

    Of measured projections or slices, <problem> is "measured", else the noise that was simulated, and how much finer.
    """
    measured = getattr(options, "projections", None) or getattr(options, "thick", None)
    problem = "measured" if measured else noise_label(options.sino_noise)
    problem += f"-oversample-{options.oversample}" * (options.oversample > 1)
    return Path(options.output_dir, prior_name(options), data_name(options), *["CBCT"] * (modality == "ct"),
                task_label(options), options.method, problem)


def run_folder(options: Any, modality: str) -> Path:
    """The folder of a new run: ``options.output``, or one in `parent_folder` that "latest" in the output folder names.

    Raises:
        ValueError: there are files in ``options.output``.
    """
    if options.output is None:
        folder = new_folder(parent_folder(options, modality))
        link_latest(Path(options.output_dir), folder)
        return folder
    options.output.mkdir(parents=True, exist_ok=True)
    if any(options.output.iterdir()):
        raise ValueError(f"{options.output}: there are files in it; accepted: a folder that is new or empty")
    return options.output


def link_latest(output: Path, folder: Path) -> None:
    """Let the link "latest" in ``output`` lead to ``folder``, where links can be made and no file has that name."""
    link, new = output / "latest", output / f".latest-{os.getpid()}"
    if link.is_symlink() or not link.exists():
        with suppress(OSError):
            new.symlink_to(os.path.relpath(folder, output), target_is_directory=True)
            os.replace(new, link)


def new_folder(parent: Path) -> Path:
    """A folder below ``parent`` named after the time, new even where two runs start in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    stamp, copy = datetime.now().strftime("%y%m%d_%H%M%S"), 0
    while True:
        folder = parent / (stamp + (f"-{copy}" if copy else ""))
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            copy += 1


def is_complete(folder: Path) -> bool:
    """Whether a run ended well: the figure is the last that it writes, and its state then goes."""
    return (folder / "panel.png").exists() and not (folder / "state.pt").exists()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process, and clear what an interrupted one left half-written there.

    The lock is the system's, on the folder itself: it leaves no file, and ends with the process however that ends.
    Where there are no such locks (Windows, some network file systems) nothing is held.

    Raises:
        ValueError: another process holds the folder.
    """
    if fcntl is None:
        _clear(folder)
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is at work on this run; accepted: one at a time") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        _clear(folder)
        yield
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    for leftover in folder.glob(".partial-*"):
        leftover.unlink(missing_ok=True)
