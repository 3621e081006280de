"""Several processes that make one reconstruction: which device each has, and which of them writes."""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from algorithms.observer import Observer
from op.processes import Processes
from utils.cli.messages import input_errors
from utils.io.volume import Volume
from utils.run.device import choose_device
from utils.run.resume import StateFile
from utils.run.run import Run


@contextmanager
def joined(options: Any) -> Iterator[tuple[torch.device, Processes]]:
    """The device of this process and those that it works with: one GPU each, or the CPU; connected while it lasts.

    Raises:
        ConnectionError: the others are not to be reached.
    """
    with input_errors("--device"):
        processes = Processes.started()
        device = choose_device(options.device, options.gpu if processes.count == 1 else processes.local)
    with processes.connected(device):
        yield device, processes


def open_run(processes: Processes, options: Any, **about: Any) -> Any:
    """The `Run`, for the process that writes, with arguments and errors as there; an `Onlooker` for the others."""
    return Onlooker(options, about["template"], about["modality"]) if processes.rank else Run(options, **about)


class Onlooker(Observer):
    """What the other processes have in place of a `Run`: it writes nothing, and goes on from the same state."""

    def __init__(self, options: Any, template: Volume, modality: str):
        self.template, self.modality = template, modality
        self.folder: Path | None = options.resume
        self.history: list[dict] = []       # of samples, which begin it anew

    def __enter__(self) -> "Onlooker":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def kept(self) -> dict | None:
        """The state of an interrupted run, as in `Run`."""
        if self.folder is None:
            return None
        state = StateFile(self.folder / "state.pt", (self.folder / "args.yaml").read_text(encoding="utf-8")).read()
        return state and {name: value for name, value in state.items() if name != "history"}

    def save_text(self, name: str, text: str) -> None:
        """Nothing."""

    def save_volume(self, name: str, volume: Any) -> None:
        """Nothing."""

    def save(self, name: str, x: torch.Tensor) -> None:
        """Nothing."""

    def save_spread(self, std: torch.Tensor) -> None:
        """Nothing."""

    def finish(self, sections: Any = ()) -> None:
        """Nothing."""
