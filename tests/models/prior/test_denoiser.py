"""What networks of every kind predict, as the score of images in [0, 1]: closed forms, conventions, schedules."""
import math

import pytest
import torch
from torch import nn

from algorithms.noise.independent import Independent
from algorithms.problem import Problem, Sampling, reconstruct
from algorithms.schedule import sigma_levels
from models.prior import unit_scale
from models.prior.denoiser import Denoiser
from models.prior.schedule import VP, Betas, Sigmas, make_schedule, named_betas
from models.slice_score import SliceScore

MEAN, SPREAD = 0.4, 0.2     # of the Gaussian image model, in unit intensities
LEVELS = (0.02, 0.1, 0.5, 2.0, 20.0)


def exact_score(x, sigma):
    return -(x - MEAN) / (SPREAD**2 + sigma**2)


class Gaussian(nn.Module):
    """The best prediction of every kind, for images whose pixels are independent and Gaussian, in model intensities."""

    multiple = channels = 1

    def __init__(self, prediction, schedule, scale):
        super().__init__()
        self.prediction, self.schedule = prediction, schedule
        self.mean, self.spread = scale[0] * MEAN + scale[1], abs(scale[0]) * SPREAD

    def level(self, time):
        """The inverse of the schedule, by bisection."""
        low, high = torch.full_like(time, 1e-4).double(), torch.full_like(time, 1e4).double()
        for _ in range(100):
            middle = (low * high).sqrt()
            above = self.schedule.time(middle) > time
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return middle.to(time.dtype)

    def forward(self, m, time):
        level = (torch.exp(4 * time) if self.prediction == "edm" else self.level(time))[:, None, None, None]
        if self.prediction in ("epsilon", "v", "sample"):
            m = m * (1 + level**2).sqrt()
        if self.prediction == "edm":
            m = m * (0.25 + level**2).sqrt()
        noise = level * (m - self.mean) / (self.spread**2 + level**2)
        clean = m - level * noise
        c = (1 + level**2).rsqrt()
        c_skip, c_out = 0.25 / (level**2 + 0.25), 0.5 * level / (level**2 + 0.25).sqrt()
        return {"score": -noise / level, "epsilon": noise, "sample": clean, "denoised": clean,
                "v": c * noise - c * level * clean, "edm": (clean - c_skip * m) / c_out}[self.prediction]


CASES = [("score", Sigmas(1e-3, 100)), ("epsilon", VP()), ("epsilon", make_schedule("linear")),
         ("v", make_schedule("cosine")), ("sample", make_schedule("scaled_linear", beta_start=8.5e-4, beta_end=0.012)),
         ("denoised", Sigmas(1e-3, 100)), ("edm", Sigmas(1e-3, 100))]


@pytest.mark.parametrize("scale", [(1.0, 0.0), (2.0, -1.0), (-3.0, 0.5)])
@pytest.mark.parametrize("prediction, schedule", CASES, ids=[f"{p}-{type(s).__name__}" for p, s in CASES])
def test_every_prediction_gives_the_score_of_a_gaussian(prediction, schedule, scale):
    denoiser = Denoiser(Gaussian(prediction, schedule, scale), prediction, schedule, scale).double()
    for sigma in LEVELS:
        if not schedule.sigma_min < abs(scale[0]) * sigma < schedule.sigma_max:
            continue
        x = MEAN + math.hypot(SPREAD, sigma) * torch.randn(2, 1, 8, 8, dtype=torch.float64,
                                                           generator=torch.Generator().manual_seed(0))
        found, expected = denoiser(x, torch.full((2,), sigma, dtype=torch.float64)), exact_score(x, sigma)
        assert (found - expected).norm() <= 1e-6 * expected.norm(), sigma


def test_a_vp_and_a_ve_copy_reconstruct_the_same_volume():
    """DDS with one measured image: the same seed, the same volume to 1e-4."""
    class Halves:
        def A(self, x):
            return x[..., ::2]

        def A_T(self, y):
            x = torch.zeros(*y.shape[:-1], 2 * y.shape[-1])
            x[..., ::2] = y
            return x

    truth = MEAN + SPREAD * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    problem = Problem(operator=Halves(), y=Halves().A(truth), initial=torch.zeros_like(truth))
    volumes = []
    for prediction, schedule, scale in (("score", Sigmas(1e-3, 100), (1.0, 0.0)), ("epsilon", VP(), (2.0, -1.0))):
        prior = SliceScore(Denoiser(Gaussian(prediction, schedule, scale), prediction, schedule, scale), 2, "cpu")
        options = Sampling(sigmas=sigma_levels(10, 0.01, 5), noise=Independent())
        volumes.append(reconstruct(problem, prior, options, torch.Generator().manual_seed(2)))
    assert (volumes[0] - volumes[1]).norm() <= 1e-4 * volumes[0].norm()


def test_vp_is_told_999_t():
    """-ln abar = t beta_min + t^2 (beta_max - beta_min) / 2, and sigma^2 = 1 / abar - 1, here from t."""
    schedule = VP(0.1, 20.0)
    t = torch.linspace(1e-3, 1, 50, dtype=torch.float64)
    abar = torch.exp(-(t * 0.1 + t**2 * 19.9 / 2))
    torch.testing.assert_close(schedule.time((1 / abar - 1).sqrt()), 999 * t, rtol=1e-9, atol=1e-9)
    assert (schedule.sigma_min, schedule.sigma_max) == pytest.approx((0.01048, 152.2), rel=1e-3)


def test_steps_of_guided_diffusion_reach_from_0_01_to_157():
    schedule = make_schedule("linear")
    assert (schedule.sigma_min, schedule.sigma_max) == pytest.approx((0.01, 157.4), rel=1e-3)
    abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    levels = ((1 - abar) / abar).sqrt()
    torch.testing.assert_close(schedule.time(levels), torch.arange(1000, dtype=torch.float64))
    between = schedule.time((levels[500] * levels[501]).sqrt()[None])
    assert between.item() == pytest.approx(500.5)
    assert schedule.time(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]


def test_a_last_step_of_noise_alone_has_no_level():
    betas = named_betas("linear", zero_terminal_snr=True)
    assert betas[-1] == 1 and math.isfinite(Betas(betas).sigma_max)


@pytest.mark.parametrize("kind, values", [("linear", {"wrong": 1}), ("none", {}), ("betas", {}), ("sigmas", {}),
                                          ("sigmas", {"sigma_min": 2, "sigma_max": 1}),
                                          ("betas", {"betas": [0.1, 2.0]}), ("vp", {"beta_min": 3, "beta_max": 1})])
def test_schedules_that_are_none_are_named(kind, values):
    with pytest.raises(ValueError):
        make_schedule(kind, **values)


def test_more_channels_see_the_image_and_are_averaged_and_others_left_out():
    class Colours(nn.Module):
        multiple, channels = 1, 3

        def forward(self, m, time):
            assert m.shape[1] == 3 and torch.equal(m[:, 0], m[:, 2])
            weights = torch.tensor([1.0, 2.0, 3.0, 100.0, 100.0, 100.0])    # the last three: of a learnt variance
            return m[:, :1] * weights[:, None, None]

    x = torch.rand(2, 1, 4, 4)
    sigma = torch.full((2,), 0.5)
    found = Denoiser(Colours(), "epsilon", make_schedule("linear"))(x, sigma)
    torch.testing.assert_close(found, -2 * x / math.sqrt(1.25) / 0.5)


def test_a_window_of_its_own_is_a_map_of_intensities():
    a, b = unit_scale((-1, 1), (-160, 240), (-1000, 1600))
    for hu, wanted in ((-160, -1), (240, 1), (40, 0)):
        assert a * (hu + 1000) / 2600 + b == pytest.approx(wanted)
    assert unit_scale((-1, 1), None, (-1000, 1600)) == unit_scale((-1, 1), "percentile", None) == (2, -1)


def test_a_prediction_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="prediction 'noise'; accepted: score, epsilon"):
        Denoiser(Gaussian("score", Sigmas(1, 2), (1, 0)), "noise", Sigmas(1, 2))
