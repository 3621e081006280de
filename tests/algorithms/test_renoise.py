"""Re-noising: the published numbers, and what the two weights must satisfy."""
import math

import numpy as np
import pytest
import torch

from algorithms.renoise.ddim import DDIM
from algorithms.renoise.ddpm import DDPM
from algorithms.renoise.dds import DDSRule
from algorithms.renoise.diffpir import DiffPIR
from algorithms.schedule import sigma_levels

METHODS = {"DDPM": DDPM, "DDIM": DDIM, "DDS": DDSRule, "DiffPIR": DiffPIR}


def renoise(method, x0, score, noise, sigma, sigma_next, eta=None):
    return METHODS[method](*[] if eta is None else [eta])(x0, score, noise, sigma, sigma_next)


def weights(method, sigma, sigma_next, eta=None):
    """Read (a, b) of x0 + a e + b eps off the function itself."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    a = renoise(method, zero, -one / sigma, zero, sigma, sigma_next, eta).item()
    b = renoise(method, zero, zero, one, sigma, sigma_next, eta).item()
    return a, b


@pytest.mark.parametrize("level", [0, 12, 28])
@pytest.mark.parametrize("method", METHODS)
def test_published_numbers(data_dir, method, level):
    data = {k: torch.from_numpy(v) for k, v in np.load(data_dir / "renoise.npz").items()}
    sigma, sigma_next = sigma_levels(len(data["t"]), 0.01, 5)[level:level + 2].tolist()
    result = renoise(method, data["x0"], data["score"], data["noise"], sigma, sigma_next)
    torch.testing.assert_close(result, data[f"{method}_{level}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["DDPM", "DDIM", "DDS"])
@pytest.mark.parametrize("sigma_next", [0.0, 0.1, 0.9, 1.0])
def test_old_and_new_noise_add_up_to_the_next_level(method, sigma_next):
    assert math.hypot(*weights(method, 1.0, sigma_next)) == pytest.approx(sigma_next, abs=1e-12)


def test_ddim_new_noise_is_clipped_to_the_next_level():
    assert weights("DDIM", 5.0, 4.0) == pytest.approx((math.sqrt(7), 3.0))
    assert weights("DDIM", 5.0, 1.0) == pytest.approx((0.0, 1.0))  # unclipped: sqrt(24) of new noise


def test_eta():
    assert weights("DDS", 2.0, 1.0) == pytest.approx((math.sqrt(1 - 0.85**2), 0.85))
    assert weights("DDS", 2.0, 1.0, eta=0.6) == pytest.approx((0.8, 0.6))
    assert weights("DiffPIR", 2.0, 1.0) == pytest.approx((0.5, 0.5))
    assert weights("DiffPIR", 2.0, 1.0, eta=0.3) == pytest.approx((0.7, 0.3))
    assert weights("DDS", 2.0, 1.0, eta=0) == pytest.approx((1, 0))


def test_inputs_are_left_alone():
    x0, score, noise = torch.randn(3, 2, 1, 4, 4)
    before = x0.clone(), score.clone(), noise.clone()
    for method in METHODS:
        renoise(method, x0, score, noise, 2.0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip((x0, score, noise), before))


@pytest.mark.parametrize("arguments, named", [
    (("DDPM", 1.0, 2.0), "sigma is 1.0 and sigma_next is 2.0"),
    (("DDPM", 1.0, -0.1), "sigma_next is -0.1"),
    (("DDS", 2.0, 1.0, 1.5), "eta is 1.5"),
    (("DiffPIR", 2.0, 1.0, -0.5), "eta is -0.5"),
])
def test_refuses(arguments, named):
    with pytest.raises(ValueError, match=named):
        weights(*arguments)
