"""The noise control: the published ISCS numbers, statistics of the draws, and the degenerate cases."""
import math

import numpy as np
import pytest
import torch

from algorithms.noise import noise_source, slerp_slices


def source(control, shape, seed=0):
    return noise_source(control, shape, torch.Generator().manual_seed(seed), "cpu")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 32])
def test_published_numbers(data_dir, n):
    data = np.load(data_dir / "slerp.npz")
    result = slerp_slices(torch.from_numpy(data["z0"]), torch.from_numpy(data["z1"]), n)
    torch.testing.assert_close(result, torch.from_numpy(data[f"slerp_{n}"]), rtol=0, atol=1e-5)


def test_constant_angle_between_neighbours():
    z0, z1 = torch.randn(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(3)).double()
    z1 *= z0.norm() / z1.norm()  # equal lengths: then every slice has that length
    stack = slerp_slices(z0, z1, 6).flatten(1)
    torch.testing.assert_close(stack.norm(dim=1), z0.norm().expand(6))
    cosine = (stack[1:] * stack[:-1]).sum(1) / z0.norm() ** 2
    theta = torch.acos((z0 * z1).sum() / z0.norm() ** 2)
    torch.testing.assert_close(cosine, torch.cos(16 / 97 * theta).expand(5))


@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_images_get_linear_weights(sign):
    z0 = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    a = (16 * torch.arange(4) + 1) / 65
    expected = ((1 - a) + sign * 2 * a).view(4, 1, 1, 1) * z0
    torch.testing.assert_close(slerp_slices(z0, sign * 2 * z0, 4), expected)


def test_images_without_direction_stay_finite():
    assert slerp_slices(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 3).eq(0).all()
    assert slerp_slices(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 3).isfinite().all()


def test_angle_is_that_of_the_whole_image_in_float64():
    """At an angle of 2e-4 a float32 arc cosine is wrong by tens of per cent, and so are the weights."""
    g = torch.Generator().manual_seed(1)
    z0, other = torch.randn(2, 1, 1, 64, 64, generator=g)
    for z1 in (z0 + 2e-4 * other, -z0 + 2e-3 * other):
        d0, d1 = z0.double(), z1.double()
        theta = torch.acos((d0 * d1).sum() / (d0.norm() * d1.norm()))
        a = ((16 * torch.arange(5) + 9) / 81).view(5, 1, 1, 1).double()
        expected = (torch.sin((1 - a) * theta) * d0 + torch.sin(a * theta) * d1) / torch.sin(theta)
        torch.testing.assert_close(slerp_slices(z0, z1, 5).double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("control", ["SLERP", "None"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_zero_mean_unit_variance_and_slice_correlation(control, n):
    draw = source(control, (n, 1, 32, 32))
    samples = torch.stack([draw().flatten(1) for _ in range(300)], dim=1).flatten(1)  # n x 307200
    assert samples.mean(1).abs().max() < 0.01
    # theta is pi/2 within 1/32 a draw; k and l are |k - l| steps of 16 / (16 n + 1) apart on the arc
    k = torch.arange(n)
    steps = 16 / (16 * n + 1) * (k[:, None] - k).abs()
    expected = torch.cos(steps * math.pi / 2) if control == "SLERP" else torch.eye(n)
    torch.testing.assert_close(samples @ samples.T / samples.shape[1], expected, rtol=0, atol=0.012)


@pytest.mark.parametrize("control", ["SLERP", "None"])
def test_draws_are_independent_of_each_other(control):
    draw = source(control, (3, 1, 32, 32))
    draws = torch.stack([draw().flatten() for _ in range(300)])
    assert (draws[1:] * draws[:-1]).mean().abs() < 0.01


@pytest.mark.parametrize("control", ["SLERP", "None"])
def test_seed_decides_the_draws(control):
    shape = (3, 1, 4, 5)
    one, same, other = (source(control, shape, seed) for seed in (7, 7, 8))
    for _ in range(3):
        noise = one()
        assert noise.shape == shape and noise.dtype == torch.float32
        assert torch.equal(noise, same()) and not torch.equal(noise, other())


@pytest.mark.parametrize("written", ["slerp", "SLERP", "Slerp"])
def test_control_is_case_blind(written):
    assert torch.equal(source(written, (2, 1, 4, 4))(), source("SLERP", (2, 1, 4, 4))())
    assert torch.equal(source("none", (2, 1, 4, 4))(), source("None", (2, 1, 4, 4))())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("control", ["SLERP", "None"])
def test_draws_do_not_depend_on_the_device(control):
    on_gpu = noise_source(control, (5, 1, 32, 32), torch.Generator().manual_seed(0), "cuda")()
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), source(control, (5, 1, 32, 32))(), rtol=0, atol=1e-6)


def test_refuses():
    with pytest.raises(ValueError, match="'shared'; choose from SLERP, None"):
        source("shared", (2, 1, 4, 4))
    for shape in ((2, 4, 4), (0, 1, 4, 4)):
        with pytest.raises(ValueError, match="noise shape is"):
            source("None", shape)
    z = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="n is 0"):
        slerp_slices(z, z, 0)
    for bad in (torch.ones(1, 1, 4, 5), torch.ones(2, 1, 4, 4)):
        with pytest.raises(ValueError, match="both must be one"):
            slerp_slices(bad, z, 2)
