"""What a training run reports: lines, tables, the denoising error on held-out images, pictures, TensorBoard."""
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from utils.io.files import complete_file

log = logging.getLogger(__name__)

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50)
VALIDATION_IMAGES, VALIDATION_SEED = 32, 2023    # the same images and noise at every step, and in every run
ROW_EVERY = 50          # steps
LINE_EVERY = 30.0       # seconds, where there is no terminal for a progress bar


def validation_levels(sigma_min: float, sigma_max: float) -> list[float]:
    """Those of `LEVELS` that a prior of these noise levels knows, and sigma_max."""
    return sorted({float(level) for level in LEVELS if sigma_min <= level <= sigma_max} | {float(sigma_max)})


@torch.no_grad()
def denoising_errors(network: Callable, images: torch.Tensor, levels: Iterable[float], batch_size: int) -> list[float]:
    """Mean squared error of the denoised images at every level, in the images' units.

    Args:
        network: (x, sigma) -> the score.
        images: [n, 1, H, W], on its device.
        levels: noise levels; the same noise is added at each, times sigma. x + sigma^2 s(x, sigma) is the denoised
            image (Tweedie's formula).
        batch_size: images a network call.
    """
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(VALIDATION_SEED)).to(images)
    errors = []
    for level in levels:
        total = 0.0
        for x0, noise in zip(images.split(batch_size), eps.split(batch_size)):
            x, sigma = x0 + level * noise, torch.full((len(x0),), level, device=images.device)
            total += (x + level**2 * network(x, sigma) - x0).square().sum().item()
        errors.append(total / images.numel())
    return errors


def steadily(items: Sequence, label: str, quiet: bool = False) -> Iterator:
    """The items; meanwhile, if not ``quiet``, a progress bar, or with no terminal lines every `LINE_EVERY` seconds."""
    said = time.monotonic()
    for k, item in enumerate(tqdm(items, label, disable=quiet or None)):
        yield item
        if not (quiet or sys.stderr.isatty()) and time.monotonic() - said >= LINE_EVERY:
            said = time.monotonic()
            log.info(f"{label}: {k + 1} of {len(items)}")


class Monitor:
    """Reports of a run into its folder: tables as CSV, pictures as PNG, and both for TensorBoard where asked for.

    Args:
        folder: of the run.
        step: where the run begins or goes on: rows of later steps, of a run that was cut off, are dropped.
        steps: in all.
        images: a step, of all processes.
        tensorboard: write curves and pictures for it too.
    """

    def __init__(self, folder: Path, step: int, steps: int, images: int, tensorboard: bool):
        self.folder, self.first, self.steps, self.images, self.writer = folder, step, steps, images, None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        self.tables: set[str] = set()
        self.losses: list[float] = []
        self.seconds, self.said = 0.0, time.monotonic()

    def say(self, text: str) -> None:
        """A line, above a progress bar where there is one."""
        with tqdm.external_write_mode():
            log.info(text)

    def done(self, step: int, loss: float, rate: float, seconds: float) -> None:
        """Note the loss, learning rate and duration of the step that makes it ``step`` steps."""
        self.losses.append(loss)
        self.seconds += seconds
        mean, speed = sum(self.losses) / len(self.losses), len(self.losses) * self.images / self.seconds
        if not sys.stderr.isatty() and time.monotonic() - self.said >= LINE_EVERY:
            self.said = time.monotonic()
            left = (self.steps - step) * self.images / speed
            self.say(f"step {step} of {self.steps}: loss {mean:.5f}, {speed:.2f} images/s, "
                     f"{left // 3600:.0f} h {left % 3600 / 60:.0f} min left")
        if step % ROW_EVERY == 0 or step == self.steps:
            self.row("loss", step, {"loss": f"{mean:.5f}", "images per second": f"{speed:.2f}"})
            self.scalars("loss", step, {"learning rate": rate})
            self.losses, self.seconds = [], 0.0

    def row(self, name: str, step: int, columns: dict, header: bool = False) -> None:
        """Append step and values (texts by name) to the table ``name``; ``header`` starts it with the names."""
        path = self.folder / f"{name}.csv"
        if name not in self.tables:
            self.tables.add(name)
            lines = path.read_text().splitlines() if self.first and path.exists() else []
            kept = [line for line in lines if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= self.first]
            kept = [",".join(["step", *columns])] * header + kept
            with complete_file(path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))
        with path.open("a") as file:
            file.write(",".join([str(step), *columns.values()]) + "\n")
        self.scalars(name, step, columns)

    def scalars(self, name: str, step: int, columns: dict) -> None:
        """Curves ``name``/<column> of TensorBoard."""
        if self.writer:
            for column, value in columns.items():
                self.writer.add_scalar(f"{name}/{column}", float(value), step)
            self.writer.flush()

    def picture(self, name: str, step: int, images: torch.Tensor) -> None:
        """A grid in two rows of images [n, 1, H, W], black 0 and white 1, as <name>/step-000500.png."""
        from torchvision.utils import make_grid, save_image

        grid = make_grid(images.float().cpu().clamp(0, 1), nrow=(len(images) + 1) // 2, padding=0)
        path = self.folder / name / f"step-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(path) as partial:
            save_image(grid, partial)
        if self.writer:
            self.writer.add_image(name, grid, step)
            self.writer.flush()
