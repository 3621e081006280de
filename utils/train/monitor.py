"""What a training run reports: tables, the denoising error on held-out images, pictures, TensorBoard."""
from pathlib import Path

import numpy as np
import torch

from utils.io.files import complete_file

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50)
VALIDATION_IMAGES, VALIDATION_SEED = 32, 2023    # the same images and noise at every step, and in every run


def validation_levels(sigma_min: float, sigma_max: float) -> list[float]:
    """Those of `LEVELS` that a prior of these noise levels knows, and sigma_max."""
    return sorted({float(level) for level in LEVELS if sigma_min <= level <= sigma_max} | {float(sigma_max)})


@torch.no_grad()
def denoising_errors(network, images: torch.Tensor, levels, batch_size: int) -> list[float]:
    """Mean squared error of the denoised images at every level, in the images' units.

    ``network(x, sigma)`` is the score; ``images`` [n, 1, H, W] is on its device. Every level adds the same noise,
    times sigma; x + sigma^2 s(x, sigma) is the denoised image (Tweedie's formula).
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


def save_grid(path: Path, images: torch.Tensor) -> np.ndarray:
    """Write images [n, 1, H, W] (n even, black 0, white 1) as a PNG of two rows; returns it, uint8 [2 H, n / 2 W]."""
    from matplotlib.image import imsave

    count, _, height, width = images.shape
    grid = images.float().cpu().clamp(0, 1).reshape(2, count // 2, height, width).permute(0, 2, 1, 3)
    grid = (255 * grid.reshape(2 * height, count // 2 * width)).round().to(torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        imsave(partial, grid, cmap="gray", vmin=0, vmax=255)
    return grid


class Monitor:
    """Reports of a run into its folder: tables as CSV, pictures as PNG, and both for TensorBoard where asked for.

    ``step`` is where the run begins or goes on: rows of later steps, of a run that was cut off, are dropped.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.folder, self.step, self.writer = folder, step, None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        self.tables = set()

    def row(self, name: str, step: int, columns: dict, header: bool = False) -> None:
        """Append step and values (texts by name) to the table ``name``; ``header`` starts it with the names."""
        path = self.folder / f"{name}.csv"
        if name not in self.tables:
            self.tables.add(name)
            lines = path.read_text().splitlines() if self.step and path.exists() else []
            kept = [line for line in lines if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= self.step]
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
        """A grid of images [n, 1, H, W] in [0, 1] as <name>/step-000500.png."""
        grid = save_grid(self.folder / name / f"step-{step:06d}.png", images)
        if self.writer:
            self.writer.add_image(name, grid[None], step)
            self.writer.flush()
