"""3 x 3 convolution: the compiled one against PyTorch in float64, edges and sizes, what it refuses."""
import pytest
import torch
import torch.nn.functional as F

from op.build import NotCompiled
from op.conv3x3 import conv3x3


def inputs(images, channels, out, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in (
        (images, channels, height, width), (out, channels, 3, 3), (out,), (images, out, height, width))]


@pytest.fixture(autouse=True)
def compiled():
    try:
        conv3x3(*inputs(1, 8, 16, 1, 1)[:3], impl="compiled")
    except NotCompiled as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("channels, out, height, width", [
    (8, 16, 4, 4), (8, 16, 1, 1), (24, 48, 5, 7), (64, 32, 13, 8), (16, 16, 33, 2), (128, 128, 16, 24)])
def test_equals_pytorch_in_float64(channels, out, height, width):
    x, weight, bias, residual = inputs(3, channels, out, height, width)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = conv3x3(x, weight, bias, impl="compiled")
    assert (found - expected).norm() <= 4e-6 * expected.norm()
    found = conv3x3(x, weight, bias, residual, 0.5, impl="compiled")
    expected = (expected + residual) / 2
    assert (found - expected).norm() <= 4e-6 * expected.norm()


def test_every_pixel_and_channel_has_its_own_weights():
    """Whole numbers, which no rounding hides: a dot at each place of a tile meets each tap."""
    x, weight = torch.zeros(36, 8, 6, 6), torch.arange(16.0 * 8 * 9).reshape(16, 8, 3, 3) % 17
    for dot in range(36):
        x[dot, dot % 8, dot // 6, dot % 6] = 1
    expected = conv3x3(x, weight, torch.zeros(16), impl="reference")
    torch.testing.assert_close(conv3x3(x, weight, torch.zeros(16), impl="compiled"), expected, rtol=0, atol=1e-4)


def test_the_memory_format_does_not_matter_and_nothing_is_left_unwritten():
    x, weight, bias, residual = inputs(2, 16, 32, 9, 11)
    last = {"memory_format": torch.channels_last}
    torch.utils.deterministic.fill_uninitialized_memory, before = True, torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)        # new memory is then full of NaN
    try:
        a = conv3x3(x, weight, bias, residual, impl="compiled")
    finally:
        torch.use_deterministic_algorithms(before)
    b = conv3x3(x.contiguous(**last), weight.contiguous(**last), bias, residual.contiguous(**last), impl="compiled")
    assert a.isfinite().all() and torch.equal(a, b) and a.is_contiguous(**last)


def test_not_a_number_stays_one():
    x, weight, bias, _ = inputs(1, 8, 16, 12, 12)
    x[0, 3, 5, 5] = torch.nan
    found = conv3x3(x, weight, bias, impl="compiled")
    assert found[0, :, 4:7, 4:7].isnan().all() and found[0, :, 9:].isfinite().all()


def test_gradients_take_the_reference():
    x, weight, bias, residual = inputs(2, 8, 16, 6, 5)
    leaves = [each.requires_grad_() for each in (x, weight, bias, residual)]
    conv3x3(*leaves, scale=0.5).square().sum().backward()
    assert all(leaf.grad.norm() > 0 for leaf in leaves)


@pytest.mark.parametrize("channels, out", [(3, 16), (8, 12)])
def test_other_numbers_of_channels_take_the_reference(channels, out):
    x, weight, bias, _ = inputs(1, channels, out, 6, 6)
    torch.testing.assert_close(conv3x3(x, weight, bias), F.conv2d(x, weight, bias, padding=1))
    with pytest.raises(NotCompiled, match="channels"):
        conv3x3(x, weight, bias, impl="compiled")


def test_half_precision_adds_in_float32():
    x, weight, bias, residual = (each.bfloat16() for each in inputs(1, 8, 16, 6, 6))
    assert conv3x3(x, weight, bias).dtype == torch.bfloat16
    assert conv3x3(x, weight, bias, residual).dtype == torch.float32
    with pytest.raises(NotCompiled, match="bfloat16"):
        conv3x3(x, weight, bias, impl="compiled")
    with pytest.raises(ValueError, match="impl"):
        conv3x3(x, weight, bias, impl="fast")
