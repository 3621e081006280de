"""The self-test names what is wrong in a card, each on its own, from the demo's weights as a model of another kind."""
from dataclasses import replace

import pytest
import torch
from torch import nn

from models.ncsnpp import NCSNpp
from models.prior import load_prior, make_prior, unit_scale
from models.prior.schedule import make_schedule
from models.prior.selftest import denoising, self_test, verdict
from models.window import CT_WINDOW
from utils.io.files import ROOT
from utils.io.prior_file import read_prior
from utils.run.selftest import sample_slices

TRUTH = {"prediction": "epsilon", "schedule": {"kind": "linear"}, "intensities": (-1, 1), "window": (-1000, 1000)}


class Disguised(nn.Module):
    """A network of score_sde's VE that answers as `TRUTH` says."""

    channels = 1

    def __init__(self, network):
        super().__init__()
        self.network, self.multiple = network, network.multiple
        self.scale = unit_scale(TRUTH["intensities"], TRUTH["window"], CT_WINDOW)
        self.logs = torch.linspace(-5, 5, 4001, dtype=torch.float64)
        self.times = make_schedule(**TRUTH["schedule"]).time(self.logs.exp())

    def forward(self, m, time):
        after = torch.searchsorted(self.times, time.double()).clamp(1, len(self.times) - 1)
        share = ((time - self.times[after - 1]) / (self.times[after] - self.times[after - 1])).clamp(0, 1)
        level = torch.lerp(self.logs[after - 1], self.logs[after], share).exp().float()
        x = (m * (1 + level**2).sqrt()[:, None, None, None] - self.scale[1]) / self.scale[0]
        sigma = (level / self.scale[0]).clamp(0.01, 50)
        return -sigma[:, None, None, None] * self.network(x, sigma)


DEMO = (ROOT / "demo" / "prior_CT_128.yaml",)


@pytest.fixture(scope="module")
def network():
    network = NCSNpp(read_prior(*DEMO)[0].architecture)
    load_prior(read_prior(*DEMO)[0], network, read_prior(*DEMO)[1], "cpu")
    return network


@pytest.fixture(scope="module")
def images():
    return sample_slices("ct", 64)


@pytest.fixture(scope="module")
def card():
    return replace(read_prior(*DEMO)[0], network="disguised", modality="ct", **TRUTH)


def said(network, card, images):
    disguised = Disguised(network)
    return verdict(*self_test(card, lambda other: make_prior(other, disguised, "cpu", window=CT_WINDOW), images))


def test_nothing_is_said_of_what_is_right(network, card, images):
    assert said(network, card, images) == ""


@pytest.mark.parametrize("changes, named", [
    ({"intensities": (0, 1)}, "with intensities: [-1, 1] the"),
    ({"schedule": {"kind": "cosine"}}, "with schedule: kind linear the"),
    ({"prediction": "v"}, "with prediction: epsilon the"), ({"prediction": "sample"}, "with prediction: epsilon the"),
    ({"window": (-160, 240)}, "with window: [-1000, 1000] the")], ids=str)
def test_what_is_wrong_is_named(network, card, images, changes, named):
    found = said(network, replace(card, **changes), images)
    assert "does not denoise as its card says" in found and named in found


def test_a_network_that_knows_nothing_is_said_to_fit_nothing(card, images):
    class Nothing(nn.Module):
        multiple = channels = 1

        def forward(self, m, time):
            return torch.zeros_like(m)

    results, better = self_test(card, lambda other: make_prior(other, Nothing(), "cpu", window=CT_WINDOW), images)
    assert "no other intensities" in verdict(results, better) or results[0].error == pytest.approx(1, abs=0.05)
    assert not results[0].fits


def test_levels_that_a_prior_does_not_know_are_left_out(network, card, images):
    low = replace(card, network="x", prediction="score", intensities=(0, 1), window=None,
                  schedule={"kind": "sigmas", "sigma_min": 0.01, "sigma_max": 0.2})
    assert [result.sigma for result in denoising(make_prior(low, network, "cpu"), images)] == [0.05, 0.15]
