"""What it takes to go on with an interrupted run, on disk."""
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import read_checkpoint
from utils.io.files import save_tensors

STATE_SHARE = 0.02      # of a run's time, the most that keeping its state takes


class StateFile:
    """The state of a run in a file, written as often as `STATE_SHARE` allows, and read only if it is what was written.

    Args:
        path: the file, ``state.pt`` in the run's folder.
        run: what identifies the run, the text of its args.yaml: the state of another one is refused.
    """

    def __init__(self, path: Path, run: str):
        self.path, self.run, self.due = path, run, 0.0

    def keep(self, make_state: Callable[[], dict]) -> None:
        """Write ``make_state()``, a dict of tensors and plain values, if that is due; the first time it is."""
        begun = time.perf_counter()
        if begun < self.due:
            return
        state = make_state()
        save_tensors(self.path, {**state, "digest": self._digest(state)})
        saved = time.perf_counter()
        self.due = saved + (saved - begun) / STATE_SHARE

    def read(self) -> dict | None:
        """What was kept last, tensors on the CPU; None where nothing was.

        Raises:
            ValueError: the file is damaged, was changed, or is of another run.
        """
        if not self.path.exists():
            return None
        try:
            state = read_checkpoint(self.path)
        except OSError as error:
            if error.filename:
                raise
            state = {}      # cut where the library looks for the end of the file
        if state.pop("digest", None) != self._digest(state):
            raise ValueError(f"{self.path}: damaged, or not the state of this run; without this file the run starts at "
                             "its first level")
        return state

    def _digest(self, state: dict) -> str:
        total = hashlib.sha256(self.run.encode("utf-8", "surrogatepass"))
        _add(total, state)
        return total.hexdigest()


def _add(total: Any, value: Any) -> None:
    """Let ``value``, a tensor, a plain value or a dict or list of them, go into a digest."""
    if torch.is_tensor(value):
        total.update(f"{value.dtype} {list(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key, part in value.items():
            total.update(f"{key!r}:".encode())
            _add(total, part)
    elif isinstance(value, list | tuple):
        for part in value:
            total.update(b",")
            _add(total, part)
    else:
        total.update(repr(value).encode("utf-8", "surrogatepass"))
