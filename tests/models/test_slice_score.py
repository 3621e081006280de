"""The score of a stack of slices and its derivative: batching, padding."""
import pytest
import torch
from torch import nn

from models.ncsnpp import NCSNpp
from models.slice_score import SliceScore
from utils.io.config import load_config


@pytest.fixture(scope="module")
def network(data_dir):
    config = load_config(data_dir / "ncsnpp_tiny.yaml")
    config.model.init_scale = 1.0
    torch.manual_seed(0)
    return NCSNpp(config)


def test_the_score_does_not_depend_on_the_batch_size(network):
    x = torch.rand(7, 1, 16, 16)
    whole = SliceScore(network, 7, "cpu")(x, 0.3)
    for batch_size in (1, 3, 100):
        assert (SliceScore(network, batch_size, "cpu")(x, 0.3) - whole).norm() <= 1e-5 * whole.norm()
    assert (network(x, torch.full((7,), 0.3)) - whole).norm() <= 1e-4 * whole.norm()


@pytest.mark.parametrize("height, width", [(15, 18), (1, 5), (16, 17)])
def test_any_size_is_padded_and_cropped_back(network, height, width):
    x = torch.rand(2, 1, height, width)
    score = SliceScore(network, 2, "cpu")(x, 1.0)
    assert score.shape == x.shape and score.isfinite().all()


def test_padding_reflects_after_the_image():
    class Recorder(nn.Module):
        multiple = 4

        def forward(self, x, sigma):
            self.seen, self.level = x, sigma
            return x * sigma[:, None, None, None]

    recorder = Recorder()
    x = torch.arange(5.0).expand(1, 1, 4, 5)
    score = SliceScore(recorder, 1, "cpu")(x, 2.0)
    assert recorder.seen[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    torch.testing.assert_close(score, 2 * x)
    assert recorder.level.shape == (1,)     # one row, whose products do not round by the size of the batch


def test_the_network_is_left_in_evaluation_mode(network):
    network.train()
    SliceScore(network, 2, "cpu")
    assert not network.training


def whole_vjp(network, x, sigma, v):
    """By autograd, all slices at once."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x, torch.full((len(x),), sigma)), x, v)[0]


def test_vjp_is_the_transposed_derivative_whatever_the_batch_size(network):
    x, v = torch.rand(2, 5, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = whole_vjp(network, x, 0.3, v)
    for batch_size in (1, 3, 100):
        with torch.no_grad():  # as the sampler has it
            product = SliceScore(network, batch_size, "cpu").vjp(x, 0.3, v)
        assert (product - expected).norm() <= 1e-5 * expected.norm()
        assert not product.requires_grad
    assert not x.requires_grad and all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("height, width", [(15, 18), (1, 5), (16, 17)])
def test_vjp_of_a_padded_image_by_finite_differences(data_dir, height, width):
    torch.manual_seed(0)
    config = load_config(data_dir / "ncsnpp_tiny.yaml")
    config.model.init_scale = 1.0
    score = SliceScore(NCSNpp(config).double(), 2, "cpu")
    x, v, direction = torch.randn(3, 2, 1, height, width, dtype=torch.float64)
    slope = (score(x + 1e-5 * direction, 1.0) - score(x - 1e-5 * direction, 1.0)) / 2e-5
    expected = (slope * v).sum()  # <v, (ds/dx) direction> = <(ds/dx)^T v, direction>
    torch.testing.assert_close((score.vjp(x, 1.0, v) * direction).sum(), expected, rtol=1e-5, atol=1e-7)


def test_progress_sees_every_batch(network):
    seen = []
    score = SliceScore(network, 3, "cpu", lambda batches: (seen.append(len(batches)), batches)[1])
    x = torch.rand(7, 1, 16, 16)
    score(x, 0.3), score.vjp(x, 0.3, x)
    assert seen == [3, 3]


def test_a_batch_that_memory_is_short_for_is_halved_once_and_said(network, caplog):
    class Small(nn.Module):
        multiple, calls = network.multiple, []

        def forward(self, x, sigma):
            self.calls.append(len(x))
            if len(x) > 2:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return network(x, sigma)

    x = torch.rand(7, 1, 16, 16)
    score = SliceScore(Small(), 6, "cpu")
    whole = SliceScore(network, 7, "cpu")(x, 0.3)
    assert (score(x, 0.3) - whole).norm() <= 1e-5 * whole.norm()
    assert Small.calls == [6, 3, 1, 1, 1, 1, 1, 1, 1] and [r.args for r in caplog.records] == [(3,), (1,)]
    assert (score(x, 0.3) - whole).norm() <= 1e-5 * whole.norm() and len(Small.calls) == 16    # no new tries
    v = torch.rand(7, 1, 16, 16)
    torch.testing.assert_close(score.vjp(x, 0.3, v), SliceScore(network, 7, "cpu").vjp(x, 0.3, v), rtol=1e-4, atol=1e-4)


def test_other_errors_of_the_network_come_through():
    class Broken(nn.Module):
        multiple = 4

        def forward(self, x, sigma):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        SliceScore(Broken(), 6, "cpu")(torch.rand(7, 1, 16, 16), 0.3)
