"""upfirdn2d: against plain loops, CUDA against PyTorch, gradients, bad arguments."""
import pytest
import torch

from op.build import NotCompiled
from op.upfirdn2d import upfirdn2d

FIR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64

# (image, kernel, up, down, pad); the first three are the network's own
CASES = [
    ((8, 10), (4, 4), 1, 2, (1, 1)),
    ((8, 10), (4, 4), 2, 1, (2, 1)),
    ((8, 10), (4, 4), 1, 1, (2, 2)),
    ((5, 7), (3, 2), 1, 1, (0, 0)),
    ((5, 7), (2, 5), 2, 3, (3, 1)),
    ((7, 6), (5, 1), 3, 2, (-1, 4)),
    ((9, 8), (2, 3), 1, 2, (-2, -1)),
    ((4, 3), (3, 3), 4, 2, (-3, 5)),
    ((3, 3), (2, 2), 2, 1, (-7, 9)),
    ((1, 1), (1, 1), 1, 1, (0, 0)),
    ((1, 2), (4, 3), 3, 5, (9, 8)),
    ((2, 37), (1, 6), 2, 4, (20, 0)),
]
case = pytest.mark.parametrize("image, kernel, up, down, pad", CASES)


def random_inputs(image, kernel, dtype=torch.float64, channels=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *image, dtype=torch.float64, generator=generator)
    k = torch.randn(*kernel, dtype=torch.float64, generator=generator)
    return x.to(dtype), k.to(dtype)


def loops(x, kernel, up, down, pad):
    """The definition, one multiplication at a time, on one plane."""
    before, after = pad
    (h, w), (kh, kw) = x.shape, kernel.shape
    big = torch.zeros(h * up + before + after, w * up + before + after, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            row, column = i * up + before, j * up + before
            if 0 <= row < big.shape[0] and 0 <= column < big.shape[1]:
                big[row, column] = x[i, j]
    full = torch.zeros(big.shape[0] - kh + 1, big.shape[1] - kw + 1, dtype=x.dtype)
    for i in range(full.shape[0]):
        for j in range(full.shape[1]):
            for a in range(kh):
                for b in range(kw):
                    full[i, j] += kernel[a, b] * big[i + kh - 1 - a, j + kw - 1 - b]
    return full[::down, ::down]


@case
def test_equals_plain_loops(image, kernel, up, down, pad):
    x, k = random_inputs(image, kernel)
    expected = loops(x[1, 2], k, up, down, pad)
    y = upfirdn2d(x, k, up, down, pad)
    assert y.shape[:2] == x.shape[:2]
    torch.testing.assert_close(y[1, 2], expected, rtol=0, atol=1e-12)


def test_known_values():
    ones = torch.ones(1, 2, 6, 6)
    halved = upfirdn2d(ones, FIR, down=2, pad=(1, 1))
    doubled = upfirdn2d(ones, 4 * FIR, up=2, pad=(2, 1))
    assert halved.shape == (1, 2, 3, 3) and doubled.shape == (1, 2, 12, 12)
    torch.testing.assert_close(halved[..., 1:-1, 1:-1], torch.ones(1, 2, 1, 1))  # constants stay constant
    torch.testing.assert_close(doubled[..., 2:-2, 2:-2], torch.ones(1, 2, 8, 8))
    torch.testing.assert_close(doubled[0, 0, 5, :2], torch.tensor([0.75, 1.0]))  # 3 of 4 weights inside


def test_kernel_is_convolved_not_correlated():
    impulse = torch.zeros(1, 1, 3, 3)
    impulse[0, 0, 1, 1] = 1
    kernel = torch.arange(9.0).reshape(3, 3)
    torch.testing.assert_close(upfirdn2d(impulse, kernel, pad=(1, 1))[0, 0], kernel)


@case
def test_compiled_equals_reference_forwards_and_back(image, kernel, up, down, pad):
    """In channels-last layout, on the CPU."""
    x, k = random_inputs(image, kernel, torch.float32, channels=24)
    results = []
    for impl in ("reference", "compiled"):
        leaf = x.clone().requires_grad_()
        try:
            y = upfirdn2d(leaf, k, up, down, pad, impl=impl)
        except NotCompiled as error:
            pytest.skip(str(error))
        (grad,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), leaf)
        results.append((y, grad, second))
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)
    for found, expected in zip(*results):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@case
def test_gradients(image, kernel, up, down, pad):
    x, k = random_inputs(image, kernel)
    x = x[:1, :1].clone().requires_grad_()

    def op(x):
        return upfirdn2d(x, k, up, down, pad)

    assert torch.autograd.gradcheck(op, x)
    # The operation is linear: with a square behind it, the second derivative is not zero.
    assert torch.autograd.gradgradcheck(lambda x: op(x).square(), x)


@case
def test_backward_is_the_adjoint(image, kernel, up, down, pad):
    x, k = random_inputs(image, kernel, torch.float32)
    x.requires_grad_()
    y = upfirdn2d(x, k, up, down, pad)
    other = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (adjoint,) = torch.autograd.grad(y, x, other)
    difference = (y.detach() * other).sum() - (x.detach() * adjoint).sum()
    assert difference.abs() <= 1e-5 * y.detach().norm() * other.norm() + 1e-6


def test_gradient_of_a_sum():
    """The incoming gradient is then an expanded scalar, not a contiguous tensor."""
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    upfirdn2d(x, FIR, pad=(2, 1)).sum().backward()
    torch.testing.assert_close(x.grad[0, 0, 2:6, 2:6], torch.ones(4, 4), atol=1e-6, rtol=0)


def test_any_memory_format():
    x, k = random_inputs((6, 5), (4, 4), torch.float32)
    expected = upfirdn2d(x, k, 2, 1, (2, 1))
    last = x.contiguous(memory_format=torch.channels_last)
    strided = torch.stack([x, x], dim=-1)[..., 1]
    for same in (last, strided):
        torch.testing.assert_close(upfirdn2d(same, k, 2, 1, (2, 1)), expected)
    torch.testing.assert_close(upfirdn2d(x, k.T.contiguous().T, 2, 1, (2, 1)), expected)


def test_empty_batch():
    assert upfirdn2d(torch.zeros(0, 3, 8, 8), FIR, down=2, pad=(1, 1)).shape == (0, 3, 4, 4)


def test_half_precision_takes_the_reference():
    x, k = random_inputs((8, 8), (4, 4), torch.bfloat16)
    y = upfirdn2d(x, k, down=2, pad=(1, 1))
    assert y.dtype == torch.bfloat16
    with pytest.raises(NotCompiled, match="bfloat16"):
        upfirdn2d(x, k, down=2, pad=(1, 1), impl="compiled")


IMAGE = torch.zeros(1, 1, 4, 4)


@pytest.mark.parametrize("x, arguments, message", [
    (IMAGE[0], {}, "x must be"),
    (IMAGE.long(), {}, "x must be"),
    (IMAGE[:, :0], {}, "x must be"),
    (IMAGE, {"kernel": FIR[0]}, "kernel must be"),
    (IMAGE, {"kernel": FIR[:0]}, "kernel must be"),
    (IMAGE, {"kernel": FIR.clone().requires_grad_()}, "constant"),
    (IMAGE, {"up": 0}, "up must be an integer of at least 1, got 0"),
    (IMAGE, {"up": 1.5}, "up must be"),
    (IMAGE, {"down": -1}, "down must be"),
    (IMAGE, {"pad": 1}, "pad must be"),
    (IMAGE, {"pad": (1, 1, 1, 1)}, "pad must be"),
    (IMAGE, {"pad": (0.5, 1)}, "pad must be"),
    (IMAGE, {"impl": "cuda"}, "impl: expected"),
    (IMAGE, {"pad": (-1, 0)}, "empty image"),
])
def test_bad_arguments(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        upfirdn2d(x, **{"kernel": FIR, **arguments})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@case
def test_cuda_equals_cpu(image, kernel, up, down, pad, dtype, tolerance):
    x, k = random_inputs(image, kernel, dtype)
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        y = upfirdn2d(leaf, k.to(device), up, down, pad, impl="reference" if device == "cpu" else "compiled")
        (grad,) = torch.autograd.grad(y.square().sum(), leaf)
        results.append((y.detach().cpu(), grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_double_backward():
    x, k = random_inputs((4, 3), (4, 4))
    x = x[:1, :1].cuda().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: upfirdn2d(x, k.cuda(), 2, 1, (2, 1), impl="compiled").square(), x)
