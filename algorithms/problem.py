"""One reconstruction problem, and the one place that solves it, whatever the method and the modality."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from algorithms.admm_tv import OUTER, admm_tv
from algorithms.cg import over_processes
from algorithms.data_steps import DataStep
from algorithms.data_steps.dds import DDS
from algorithms.guidance import dps
from algorithms.mirrored import Mirrored
from algorithms.noise import NoiseControl, noise_source
from algorithms.noise.slerp import Slerp
from algorithms.observer import Observer
from algorithms.planes import Planes, SecondPlane
from algorithms.predictor_corrector import predictor_corrector
from algorithms.renoise import RenoisingRule
from algorithms.renoise.ddpm import DDPM
from algorithms.sampler import noisy, sample


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is known of a volume: a measurement y = A x, and an image to start from.

    Attributes:
        initial: [n, 1, H, W] image from the measurement alone, such as SIRT; its shape and device are the volume's.
            Intensities are in [0, 1]. The prior's slices are stacked along the first axis.
        operator: has A and A_T (DDNM: A_dagger), between tensors of this shape and the range of y; None, with y, where
            nothing is measured. Where several processes have each a part of y, its ``total`` adds numbers up over them.
        y: the measurement, in the range of A.
        weights: of the measured values, >= 0 and finite, broadcastable to y (1 / variance of y makes the data term its
            log-likelihood); None is 1 everywhere. y is to be finite even where the weight is 0.
        variance: of the noise of y, in the mean, each times its weight; None where it is not known.
        spacing: distance from slice to slice in mm, for noise controls that ask for it.

    Raises:
        ValueError: weights that are negative, not finite or do not fit y, or come without it.
    """

    initial: torch.Tensor
    operator: Any = None
    y: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    variance: float | None = None
    spacing: float | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        try:
            self.weights.expand(self.measured.shape)
        except RuntimeError:
            raise ValueError(f"weights are {list(self.weights.shape)}; they must broadcast to y, "
                             f"{list(self.measured.shape)}") from None
        if not ((self.weights >= 0) & self.weights.isfinite()).all():
            raise ValueError("weights must be finite and 0 or more")

    @property
    def measured(self) -> torch.Tensor:
        """y, of which there must be one.

        Raises:
            ValueError: there is none.
        """
        if self.y is None:
            raise ValueError("y is None; a measurement is needed")
        return self.y

    def residual(self, x: torch.Tensor) -> float:
        """The relative misfit |A x - y| / |y| of x [n, 1, H, W]."""
        return self._norm_of(self.operator.A(x) - self.measured) / (self._norm or 1.0)

    def _norm_of(self, r):
        return math.sqrt(over_processes(self.operator, r.norm().item()**2))

    @cached_property
    def _norm(self) -> float:
        return self._norm_of(self.measured)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Posterior sampling with a diffusion prior: DDS, DDNM and all their variants.

    Attributes:
        sigmas: noise levels, falling, each above 0: see `algorithms.schedule.sigma_levels`.
        data_step: makes the data step of a problem, such as ``DDS`` or ``partial(DDS, num_cg=10)``.
        noise: control of the noise of neighbouring slices.
        renoise: rule from level to level.
        use_init: start from the problem's initial image, noised to the first level, instead of from noise alone.
        w_dps: weight of the posterior-sampling gradient, 0 for none; see `algorithms.guidance.dps`.
        final_sigma: denoise the last estimate once more, at this level; None does not.
        second: a second plane, with a prior of its own, that has some of the levels.
        mirror: axes of the volume along which the priors see it mirrored, by turns; none for ().
    """

    sigmas: Sequence[float]
    data_step: Callable[[Problem], DataStep] = DDS
    noise: NoiseControl = Slerp()   # noqa: RUF009, controls have no state that changes
    renoise: RenoisingRule = DDPM()     # noqa: RUF009
    use_init: bool = False
    w_dps: float = 0.0
    final_sigma: float | None = None
    second: SecondPlane | None = None
    mirror: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unconditional:
    """Sampling from the prior alone; of the problem only shape, device and spacing count.

    Attributes:
        sigmas, noise: as in `Sampling`.
        snr, n_steps_each: of the Langevin corrector, see `algorithms.predictor_corrector`.
    """

    sigmas: Sequence[float]
    noise: NoiseControl = Slerp()   # noqa: RUF009
    snr: float = 0.16
    n_steps_each: int = 1


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """ADMM-TV, without a prior; ``w_tv`` is the weight of the total variation within slices."""

    w_tv: float = 3.0


def reconstruct(problem: Problem, prior: Any, options: Sampling | Unconditional | TotalVariation,
                generator: torch.Generator | None = None, observer: Observer | None = None) -> torch.Tensor:
    """Solve a problem.

    Args:
        problem: the measurement.
        prior: score(x, sigma) of slices x [n, 1, H, W] with intensities in [0, 1], and for w_dps ``vjp``: a
            `models.slice_score.SliceScore`. None for `TotalVariation`.
        options: the method.
        generator: of all random numbers, on the CPU; None is a new one with seed 0.
        observer: sees every level, and can keep the state to resume from.

    Returns:
        The volume [n, 1, H, W].

    Raises:
        ValueError: options out of range, a problem that lacks what the method needs.
    """
    observer, generator = observer or Observer(), generator or torch.Generator().manual_seed(0)
    if isinstance(options, TotalVariation):
        observer.begin(OUTER, "ADMM steps")
        return admm_tv(problem.operator, problem.measured, lam=options.w_tv,
                       observer=_Watch(observer, problem, generator))
    shape, device = problem.initial.shape, problem.initial.device
    noise = noise_source(options.noise, shape, generator, device, problem.spacing)
    planes = mirrored = None
    if second := getattr(options, "second", None):
        prior = planes = Planes(prior, noise, second, options.noise, shape, generator, device)
        noise = planes.noise
    if axes := getattr(options, "mirror", ()):
        prior = mirrored = Mirrored(prior, axes)
    if isinstance(options, Unconditional):
        watch = _Watch(observer, problem, generator)
        solve = partial(predictor_corrector, prior, noise, options.sigmas, snr=options.snr,
                        n_steps_each=options.n_steps_each, observer=watch)
    else:
        data_step = options.data_step(problem)
        watch = _Watch(observer, problem, generator, data_step)
        solve = partial(sample, prior, data_step, noise, options.sigmas, options.renoise, observer=watch,
                        guidance=dps(prior, problem, options.w_dps) if options.w_dps else None,
                        final_sigma=options.final_sigma)
    observer.begin(len(options.sigmas), "noise levels")
    first, x = watch.restored() or (0, noisy(noise, float(options.sigmas[0]), problem.initial
                                             if getattr(options, "use_init", False) else None))
    if mirrored:
        mirrored.level = first - 1
    if planes:
        planes.level = first
    return solve(x=x, first=first)


class _Watch:
    """Between a loop and an observer: adds the residual to an estimate, and to x all else that the rest depends on."""

    def __init__(self, observer: Observer, problem: Problem, generator: torch.Generator,
                 data_step: DataStep | None = None):
        self.observer, self.problem = observer, problem
        self.generator, self.data_step = generator, data_step or DataStep()

    def estimate(self, level: int, x0: torch.Tensor, sigma: float | None = None) -> None:
        measured = self.problem.y is not None
        self.observer.estimate(level, x0, sigma, self.problem.residual(x0) if measured else None)

    def keep(self, level: int, x: torch.Tensor) -> None:
        self.observer.keep(lambda: {"level": level, "x": x, "generator": self.generator.get_state(),
                                    "data_step": self.data_step.state_dict()})

    def restored(self) -> tuple[int, torch.Tensor] | None:
        """Level and x to go on from, after everything else is as it was; None for a new run."""
        state = self.observer.kept()
        if state is None:
            return None
        self.generator.set_state(state["generator"])
        self.data_step.load_state_dict(state["data_step"])
        return state["level"], state["x"].to(self.problem.initial)
