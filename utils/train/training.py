"""Denoising score matching: the state of a training, one step of it, and what is drawn for a step."""
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from models.checkpoint import EMA, load_weights, trainable
from models.precision import autocast
from op.processes import Processes
from utils.io.files import save_tensors
from utils.io.prior_file import Card, write_prior

# Training draws ln sigma from a normal distribution, as Karras et al. 2022 (EDM, section 5), within the levels of the
# config. Of intensities in [0, 1], at 0.15 the structures of an image begin to drown. EDM's spread is 1.2; a
# reconstruction runs through all levels from 0.01 on, so that they should all be seen.
SIGMA_CENTRE, SIGMA_SPREAD = 0.15, 2.0
CHECKPOINT = "checkpoint.pth"


class Diverged(FloatingPointError):
    """The loss or its gradient is no number."""


def noise_levels(u: torch.Tensor, sigma_min: float, sigma_max: float, width: float = 1.0) -> torch.Tensor:
    """The noise levels [B], float32, at the quantiles ``u`` [B] in [0, 1] of their distribution.

    It is log-normal, of median `SIGMA_CENTRE` times the ``width`` of the images' range and standard deviation
    `SIGMA_SPREAD` of ln sigma, truncated to [sigma_min, sigma_max].
    """
    centre = math.log(width * SIGMA_CENTRE)
    a, b = (torch.special.ndtr(torch.tensor((math.log(end) - centre) / SIGMA_SPREAD, dtype=torch.float64))
            for end in (sigma_min, sigma_max))
    return torch.exp(centre + SIGMA_SPREAD * torch.special.ndtri(a + (b - a) * u.double())).float()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Of the step with the index ``step`` of ``steps``: a linear warm-up (10 %, at most 100 steps), then a cosine."""
    warm_up = max(1, min(100, steps // 10))
    return peak * min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))


def draw_batch(slices: Any, levels: tuple[float, float], count: int, seed: int, step: int, rank: int,
               ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """What one step needs, from (seed, step, rank) alone: a resumed run continues exactly.

    Args:
        slices: the `SliceSampler`.
        levels: smallest and largest noise level.
        count: images.
        seed: of the training.
        step: index of the step.
        rank: of the process.

    Returns:
        Images x0 and noise eps [count, 1, size, size], levels sigma [count] and a seed for dropout.
    """
    rng = np.random.default_rng((seed, step, rank))
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    x0 = slices.batch(count, rng)
    eps = torch.randn(x0.shape, generator=generator)
    # Stratified: one level from every equal part of the distribution, so that steps differ less.
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return x0, eps, noise_levels(u, *levels, slices.width), generator.initial_seed()


@contextmanager
def averaged_weights(network: torch.nn.Module, ema: EMA) -> Iterator[torch.nn.Module]:
    """``network`` in evaluation mode with the averaged weights; afterwards it trains on as it was."""
    kept = [p.detach().clone() for p in trainable(network)]
    _fill(network, ema.shadow_params)
    network.eval()
    try:
        yield network
    finally:
        _fill(network, kept)
        network.train()


@torch.no_grad()
def _fill(network, values):
    for parameter, value in zip(trainable(network), values, strict=True):
        parameter.copy_(value)


class Training:
    """Network, averaged weights, optimizer and gradient scaler of a run, and their files.

    Args:
        network: on its device; called with x [B, 1, H, W] and sigma [B], and has ``loss_weight(sigma)`` [B].
        folder: where checkpoint.pth and the prior are.
        ema_rate: of the averaged weights.
        precision: a key of `models.precision.PRECISIONS`.
        processes: that train together.
        prior: what the prior is, for the checkpoint; ``card`` says it beside the weights.
        run: settings by name, that must stay as they are for a resumed run to be the uninterrupted one.
    """

    def __init__(self, network: Any, folder: Path, ema_rate: float, precision: str, processes: Processes,
                 prior: dict, run: dict, card: Card):
        self.network, self.folder, self.precision, self.processes = network, folder, precision, processes
        self.prior, self.run, self.card, self.step = prior, run, card, 0
        self.parameters = trainable(network)
        self.ema = EMA(network, ema_rate)
        self.optimizer = torch.optim.Adam(self.parameters)
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=precision == "fp16")

    def resume(self) -> None:
        """Continue from checkpoint.pth.

        Raises:
            ValueError: another run's, or not all of one, by the file's name.
        """
        path = self.folder / CHECKPOINT
        state = load_weights(self.network, path, use_ema=False)
        check_same_run(path, state.get("run"), self.run)
        for name in ("ema", "optimizer", "scaler", "step"):
            if name not in state:
                raise ValueError(f"{path}: cannot be continued, it has no {name}; accepted: a checkpoint as this "
                                 "program writes it")
        try:
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = int(state["step"])
            if self.step < 0:
                raise ValueError(f"step {self.step}")
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = shorten(str(error), 120, placeholder=" ...")
            raise ValueError(f"{path}: cannot be continued, it is damaged ({reason})") from None

    def update(self, x0: torch.Tensor, eps: torch.Tensor, sigma: torch.Tensor, rate: float, stop: bool = False,
               ) -> tuple[float, bool]:
        """One step, of learning rate ``rate``, on images x0 with noise eps [batch, 1, H, W] of levels sigma [batch].

        Returns:
            The loss and whether to ``stop``, averaged over the processes and asked of any: the same in all of them.

        Raises:
            Diverged: the loss or its gradient is not finite; the weights are left as they were.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        scale = sigma[:, None, None, None]
        with autocast(self.precision, x0.device):
            score = self.network(x0 + scale * eps, sigma).float()
        loss = (self.network.loss_weight(sigma)[:, None, None, None] * (scale * score + eps).square()).mean()
        self.scaler.scale(loss).backward()
        # One message for the gradients, the loss and whether to stop: all processes go the same way.
        loss, asked = loss.detach(), torch.tensor(float(stop), device=x0.device)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.processes.average([*gradients, loss, asked])
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(norm)):
            raise Diverged(f"the loss of step {self.step + 1} or its gradient is not finite; stopped, {self.folder} "
                           "holds what was saved before; a lower learning rate, or precision float32, may help")
        self.scaler.step(self.optimizer)     # with fp16, a step whose gradient overflowed changes nothing
        self.scaler.update()
        self.ema.update(self.network)
        self.step += 1
        return loss.item(), bool(asked)

    def save(self) -> None:
        """Write checkpoint.pth, to continue from or to use, and the prior: averaged weights in half precision."""
        save_tensors(self.folder / CHECKPOINT,
                     {"optimizer": self.optimizer.state_dict(), "model": self.network.state_dict(),
                      "ema": self.ema.state_dict(), "step": self.step, "scaler": self.scaler.state_dict(),
                      "run": self.run, "prior": self.prior})
        names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        averages = {name: value.half() for name, value in zip(names, self.ema.shadow_params)}
        write_prior(self.folder, "prior", self.network.state_dict() | averages, self.card)


def check_same_run(path: Path, saved: Any, run: dict) -> None:
    """Compare the settings in a checkpoint with those of this run.

    Raises:
        ValueError: the first setting that is another, by its name in ``run``; or no settings.
    """
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: cannot be continued, it is not a checkpoint of this program's training; accepted: "
                         "as weights that another training starts from")
    for name, value in run.items():
        if saved.get(name) != value:
            raise ValueError(f"{name} {value}: {path} was made with {saved.get(name)}; accepted, to go on: the same")
