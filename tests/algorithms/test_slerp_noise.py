"""The ISCS noise: the published numbers, and the degenerate cases."""
import numpy as np
import pytest
import torch

from algorithms.noise.slerp import Slerp


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 32])
def test_published_numbers(data_dir, n):
    data = np.load(data_dir / "slerp.npz")
    result = Slerp.between(torch.from_numpy(data["z0"]), torch.from_numpy(data["z1"]), n)
    torch.testing.assert_close(result, torch.from_numpy(data[f"slerp_{n}"]), rtol=0, atol=1e-5)


def test_constant_angle_between_neighbours():
    z0, z1 = torch.randn(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(3)).double()
    z1 *= z0.norm() / z1.norm()  # equal lengths: then every slice has that length
    stack = Slerp.between(z0, z1, 6).flatten(1)
    torch.testing.assert_close(stack.norm(dim=1), z0.norm().expand(6))
    cosine = (stack[1:] * stack[:-1]).sum(1) / z0.norm() ** 2
    theta = torch.acos((z0 * z1).sum() / z0.norm() ** 2)
    torch.testing.assert_close(cosine, torch.cos(16 / 97 * theta).expand(5))


@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_images_get_linear_weights(sign):
    z0 = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    a = (16 * torch.arange(4) + 1) / 65
    expected = ((1 - a) + sign * 2 * a).view(4, 1, 1, 1) * z0
    torch.testing.assert_close(Slerp.between(z0, sign * 2 * z0, 4), expected)


def test_images_without_direction_stay_finite():
    assert Slerp.between(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 3).eq(0).all()
    assert Slerp.between(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 3).isfinite().all()


def test_angle_is_that_of_the_whole_image_in_float64():
    """At an angle of 2e-4 a float32 arc cosine is wrong by tens of per cent, and so are the weights."""
    g = torch.Generator().manual_seed(1)
    z0, other = torch.randn(2, 1, 1, 64, 64, generator=g)
    for z1 in (z0 + 2e-4 * other, -z0 + 2e-3 * other):
        d0, d1 = z0.double(), z1.double()
        theta = torch.acos((d0 * d1).sum() / (d0.norm() * d1.norm()))
        a = ((16 * torch.arange(5) + 9) / 81).view(5, 1, 1, 1).double()
        expected = (torch.sin((1 - a) * theta) * d0 + torch.sin(a * theta) * d1) / torch.sin(theta)
        torch.testing.assert_close(Slerp.between(z0, z1, 5).double(), expected, rtol=0, atol=1e-3)


def test_refuses():
    z = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="n is 0"):
        Slerp.between(z, z, 0)
    for bad in (torch.ones(1, 1, 4, 5), torch.ones(2, 1, 4, 4)):
        with pytest.raises(ValueError, match="both must be one"):
            Slerp.between(bad, z, 2)
