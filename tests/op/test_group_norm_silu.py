"""Group normalisation and SiLU: the compiled one against PyTorch in float64, hard statistics, what it refuses."""
import pytest
import torch
import torch.nn.functional as F

from op.build import NotCompiled
from op.group_norm_silu import group_norm_silu


def inputs(images, channels, height, width):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in (
        (images, channels, height, width), (channels,), (channels,), (images, channels))]


def expected(x, groups, weight, bias, shift=None):
    x, weight, bias = x.double(), weight.double(), bias.double()
    x = x if shift is None else x + shift.double()[:, :, None, None]
    return F.silu(F.group_norm(x, groups, weight, bias, 1e-6))


@pytest.fixture(autouse=True)
def compiled():
    x, weight, bias, _ = inputs(1, 8, 1, 1)
    try:
        group_norm_silu(x, 2, weight, bias, 1e-6, impl="compiled")
    except NotCompiled as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("groups, shape", [
    (4, (2, 16, 9, 31)), (1, (1, 8, 3, 3)), (8, (3, 24, 1, 2)), (32, (1, 128, 8, 8)), (8, (2, 8, 40, 17))])
def test_equals_pytorch_in_float64(groups, shape):
    x, weight, bias, shift = inputs(*shape)
    for more in (None, shift):
        found = group_norm_silu(x, groups, weight, bias, 1e-6, more, impl="compiled")
        torch.testing.assert_close(found.double(), expected(x, groups, weight, bias, more), rtol=1e-5, atol=2e-5)


def test_a_small_spread_around_a_large_mean():
    x, weight, bias, shift = inputs(2, 16, 64, 64)
    x = 300 + x + 40 * shift[:, :, None, None]      # channels of a group far from each other, too
    found = group_norm_silu(x, 16, weight, bias, 1e-6, impl="compiled")
    torch.testing.assert_close(found.double(), expected(x, 16, weight, bias), rtol=1e-3, atol=1e-3)
    assert (found - expected(x, 4, weight, bias)).abs().max() > 0.1     # the groups matter


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 100.0, 1e4])
def test_silu_of_any_size(size):
    x, _, _, _ = inputs(1, 8, 16, 16)
    weight, bias = torch.full((8,), size), torch.zeros(8)
    found = group_norm_silu(x, 2, weight, bias, 1e-6, impl="compiled").double()
    torch.testing.assert_close(found, expected(x, 2, weight, bias), rtol=1e-5, atol=3e-6 * size)


def test_the_memory_format_does_not_matter():
    x, weight, bias, shift = inputs(2, 16, 9, 11)
    last = x.contiguous(memory_format=torch.channels_last)
    a, b = (group_norm_silu(each, 4, weight, bias, 1e-6, shift, impl="compiled") for each in (x, last))
    assert torch.equal(a, b) and a.is_contiguous(memory_format=torch.channels_last)


def test_not_a_number_stays_one_in_its_image():
    x, weight, bias, _ = inputs(2, 8, 5, 5)
    x[1, 0, 2, 2] = torch.nan
    found = group_norm_silu(x, 2, weight, bias, 1e-6, impl="compiled")
    assert found[0].isfinite().all() and found[1, :4].isnan().all()


def test_gradients_and_half_precision_take_the_reference():
    x, weight, bias, shift = inputs(2, 8, 5, 5)
    assert group_norm_silu(x.bfloat16(), 2, weight, bias, 1e-6, shift).dtype == torch.float32
    leaves = [each.requires_grad_() for each in (x, weight, bias, shift)]
    group_norm_silu(x, 2, weight, bias, 1e-6, shift).square().sum().backward()
    assert all(leaf.grad.norm() > 0 for leaf in leaves)
    with pytest.raises(ValueError, match="impl"):
        group_norm_silu(x, 2, weight, bias, 1e-6, impl="fast")
    with pytest.raises(NotCompiled, match="12 channels"):
        group_norm_silu(*inputs(1, 12, 4, 4)[:1], 3, weight, bias, 1e-6, impl="compiled")
