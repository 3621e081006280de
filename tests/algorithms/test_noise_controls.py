"""The noise controls: statistics of the draws, and the Gaussian process against its formula."""
import math

import pytest
import torch

from algorithms.noise import noise_source
from algorithms.noise.gaussian_process import GaussianProcess, latents
from algorithms.noise.independent import Independent
from algorithms.noise.shared import Shared
from algorithms.noise.slerp import Slerp
from algorithms.noise.zero import Zero

SPACING, LENGTH = 2.5, 4.0  # mm, of GP
CONTROLS = {"SLERP": Slerp(), "None": Independent(), "shared": Shared(), "GP": GaussianProcess(LENGTH), "zero": Zero()}
RANDOM = [control for control in CONTROLS if control != "zero"]


def source(control, shape, seed=0, device="cpu"):
    return noise_source(CONTROLS[control], shape, torch.Generator().manual_seed(seed), device, SPACING)


def squared_exponential(n, spacing, length):
    d = spacing * (torch.arange(n, dtype=torch.float64)[:, None] - torch.arange(n))
    return torch.exp(-d.square() / (2 * length**2))


def correlation(control, n):
    """What the papers say that slices k and l have in common."""
    if control == "SLERP":
        # theta is pi/2 within 1/32 a draw; k and l are |k - l| steps of 16 / (16 n + 1) apart on the arc
        steps = 16 / (16 * n + 1) * (torch.arange(n)[:, None] - torch.arange(n)).abs()
        return torch.cos(steps * math.pi / 2)
    return {"None": torch.eye(n), "shared": torch.ones(n, n),
            "GP": squared_exponential(n, SPACING, LENGTH).float()}[control]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("control", RANDOM)
def test_zero_mean_unit_variance_and_slice_correlation(control, n):
    draw = source(control, (n, 1, 32, 32))
    samples = torch.stack([draw().flatten(1) for _ in range(300)], dim=1).flatten(1)  # n x 307200
    assert samples.mean(1).abs().max() < 0.01
    measured = samples @ samples.T / samples.shape[1]
    torch.testing.assert_close(measured, correlation(control, n), rtol=0, atol=0.012)


@pytest.mark.parametrize("control", RANDOM)
def test_pixels_are_independent_and_gaussian(control):
    draw = source(control, (4, 1, 32, 32))
    noise = torch.stack([draw() for _ in range(100)])
    for pair in (noise[..., 1:] * noise[..., :-1], noise[..., 1:, :] * noise[..., :-1, :]):
        assert pair.mean().abs() < 0.015
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("control", RANDOM)
def test_draws_are_independent_of_each_other(control):
    draw = source(control, (3, 1, 32, 32))
    draws = torch.stack([draw().flatten() for _ in range(300)])
    assert (draws[1:] * draws[:-1]).mean().abs() < 0.01


def test_zero_is_zero():
    draw = source("zero", (3, 1, 4, 5))
    assert draw().shape == (3, 1, 4, 5) and not draw().any()


@pytest.mark.parametrize("control", RANDOM)
def test_seed_decides_the_draws(control):
    shape = (3, 1, 4, 5)
    one, same, other = (source(control, shape, seed) for seed in (7, 7, 8))
    for _ in range(3):
        noise = one()
        assert noise.shape == shape and noise.dtype == torch.float32
        assert torch.equal(noise, same()) and not torch.equal(noise, other())


@pytest.mark.parametrize("control", CONTROLS)
def test_every_draw_is_new_memory(control):
    draw = source(control, (2, 1, 4, 4))
    first = draw()
    first.zero_()[0] = 7  # the caller may write to it, to one slice without the others
    assert not (first[1] == 7).any() and not (draw() == 7).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("control", CONTROLS)
def test_draws_do_not_depend_on_the_device(control):
    on_gpu = source(control, (5, 1, 32, 32), device="cuda")()
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), source(control, (5, 1, 32, 32))(), rtol=0, atol=1e-6)


def weight_matrix(n, spacing, length):
    images = latents(n, spacing, length)
    matrix = torch.zeros(n, len(images), dtype=torch.float64)
    for column, (first, weights) in enumerate(images):
        matrix[first:first + len(weights), column] = weights
    return matrix


@pytest.mark.parametrize("length", [1e-6, 0.1, 0.23, 0.24, 0.3, 0.5, 1, 1.37, 2, 3, 7, 40, 1e3, 1e9])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_gaussian_process_has_the_correlation_of_its_formula_at_every_distance(n, length):
    """In closed form, between any two slices: so it is stationary, and a part of a stack is like a whole one."""
    for spacing in (1.0, 0.7):
        matrix = weight_matrix(n, spacing, length)
        expected = squared_exponential(n, spacing, length)
        torch.testing.assert_close(matrix @ matrix.T, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(matrix.square().sum(1), torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-12)


def test_gaussian_process_only_knows_the_ratio_of_spacing_and_length():
    torch.testing.assert_close(weight_matrix(9, 3.0, 5.0), weight_matrix(9, 0.6, 1.0))


def test_gaussian_process_at_its_ends_is_one_image_or_independent_images():
    assert torch.equal(weight_matrix(6, 5.0, 1.0), torch.eye(6, dtype=torch.float64))
    matrix = weight_matrix(6, 1.0, 1e9)
    torch.testing.assert_close(matrix, matrix[:1].expand(6, -1))


@pytest.mark.parametrize("length", [0.01, 0.24, 1, 5, 100])
def test_gaussian_process_costs_a_fixed_number_of_images_a_slice(length):
    n = 400
    images = latents(n, 1.0, length)
    assert sum(len(weights) for _, weights in images) <= 10 * n
    assert len(images) <= (n if length < 0.23 else 10 + 1.5 * n / length)
    assert all(len(weights) and 0 <= first <= n - len(weights) for first, weights in images)


@pytest.mark.parametrize("shape", [(2, 4, 4), (0, 1, 4, 4)])
def test_refuses_a_shape_that_is_no_stack_of_slices(shape):
    with pytest.raises(ValueError, match="noise shape is"):
        noise_source(Slerp(), shape, torch.Generator())


@pytest.mark.parametrize("spacing", [None, 0.0, math.nan])
def test_a_gaussian_process_needs_to_know_how_far_slices_are_apart(spacing):
    with pytest.raises(ValueError, match=f"spacing is {spacing}; a Gaussian process needs"):
        noise_source(GaussianProcess(1.0), (2, 1, 4, 4), torch.Generator(), spacing=spacing)


@pytest.mark.parametrize("length", [-1.0, 0.0, math.inf])
def test_a_gaussian_process_has_a_length(length):
    with pytest.raises(ValueError, match="noise_length is"):
        GaussianProcess(length)
