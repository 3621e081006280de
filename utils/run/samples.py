"""Several posterior samples of one problem: their mean, and how far they spread about it."""
from collections.abc import Callable
from typing import Any

import torch

from algorithms.observer import Observer
from algorithms.problem import reconstruct
from utils.run.selftest import say_intensities


def posterior_mean(problem: Any, prior: Any, method: Any, generator: torch.Generator, run: Any, count: int,
                   seed: int) -> torch.Tensor:
    """The mean of ``count`` reconstructions that differ in their noise; with several, their spread is saved as "std".

    Mean and sample standard deviation are updated from sample to sample (Welford 1962, Technometrics 4, 419-420), so
    that no more than one sample is held beside them, and an interrupted run goes on within the sample where it was.

    Args:
        problem: as in `algorithms.problem.reconstruct`.
        prior: likewise.
        method: likewise.
        generator: of the first sample, which is the reconstruction of ``count`` 1.
        run: a `utils.run.run.Run`, which observes.
        count: samples, 1 or more.
        seed: the sample k = 1, 2, ... is drawn with seed + k.

    Returns:
        The mean [n, 1, H, W].
    """
    say_intensities(prior, problem, run.modality)
    if count == 1:
        return reconstruct(problem, prior, method, generator, observer=run)
    samples = _Samples(run, count)
    while samples.done < count:
        k = samples.done
        samples.add(reconstruct(problem, prior, method,
                                torch.Generator().manual_seed((seed + k) % 2**63) if k else generator, samples))
    run.save_spread((samples.squares / (count - 1)).sqrt_())
    return samples.mean


class _Samples(Observer):
    """Hands on what is observed of one sample after the other, and keeps the sums over those that are done."""

    def __init__(self, run: Any, count: int):
        self.run, self.count, self.state = run, count, run.kept()
        kept: Any = self.state.pop("samples") if self.state else {"done": 0, "mean": None, "squares": None}
        self.done, self.mean, self.squares = kept["done"], kept["mean"], kept["squares"]

    def add(self, x: torch.Tensor) -> None:
        """Count a sample in."""
        self.done += 1
        if self.done == 1:
            self.mean, self.squares = x, torch.zeros_like(x)
            return
        self.mean, self.squares = self.mean.to(x), self.squares.to(x)     # they may come from a file
        step = x - self.mean
        self.mean = self.mean + step / self.done
        self.squares = self.squares + step * (x - self.mean)

    def begin(self, steps: int, label: str) -> None:
        if not self.state:
            self.run.history = []       # it is that of one sample, in the end of the last
        self.run.begin(steps, f"{label} of sample {self.done + 1} of {self.count}")

    def estimate(self, level: int, x0: torch.Tensor, sigma: float | None = None, residual: float | None = None) -> None:
        self.run.estimate(level, x0, sigma, residual)

    def keep(self, state: Callable[[], dict]) -> None:
        self.run.keep(lambda: {**state(), "samples": {"done": self.done, "mean": self.mean, "squares": self.squares}})

    def kept(self) -> dict | None:
        state, self.state = self.state, None        # for the sample that was interrupted alone
        return state
