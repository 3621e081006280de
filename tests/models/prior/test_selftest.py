"""The self-test names what is wrong in a card, each on its own, from the demo's weights as a model of another kind.

And what is wrong with the intensities of an initial reconstruction, whatever its artefacts.
"""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.ncsnpp import NCSNpp
from models.prior import load_prior, make_prior, unit_scale
from models.prior.schedule import make_schedule
from models.prior.selftest import denoising, intensities_verdict, self_test, verdict
from models.window import CT_WINDOW
from physics.cone_beam import ConeBeam
from physics.sirt import sirt
from physics.views import lact_views, svct_views
from physics.zsr import ZAverage, repeated
from utils.io.files import ROOT
from utils.io.geometry_file import read_geometry
from utils.io.prior_file import read_prior
from utils.run.selftest import sample_slices, say_intensities

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


@pytest.fixture(scope="module")
def priors(network):
    path = ROOT / "demo" / "prior_MR_96.yaml"
    mr, weights = read_prior(path)
    return {"ct": make_prior(read_prior(*DEMO)[0], network, "cpu"),
            "mr": load_prior(mr, NCSNpp(mr.architecture), weights, "cpu")}


def initial_of(images, views):
    """SIRT of some views of a CT [n, 1, H, W]."""
    geometry = read_geometry(ROOT / "configs" / "geometry" / "demo.yaml").on_grid(
        (len(images), *images.shape[2:]))
    operator = ConeBeam(geometry.select(views(geometry)))
    return sirt(operator.A(images), operator, 50)


@pytest.fixture(scope="module")
def initial(images):
    cut = torch.nn.functional.interpolate(images[..., 12:52, 12:52], (64, 64), mode="bilinear")
    thick = sample_slices("mr", 64)
    return {"sparse": initial_of(images, lambda scan: svct_views(scan, 20)),
            "few": initial_of(images, lambda scan: svct_views(scan, 4)),
            "limited": initial_of(images, lambda scan: lact_views(scan, 90)),
            "cut at the border": initial_of(cut, lambda scan: svct_views(scan, 20)),
            "mr": repeated(ZAverage(thick.shape, 4).A(thick), 4)}


@pytest.mark.parametrize("name", ["sparse", "few", "limited", "cut at the border", "mr"])
def test_nothing_is_said_of_the_intensities_of_an_initial_reconstruction(priors, initial, name):
    modality = "mr" if name == "mr" else "ct"
    assert intensities_verdict(priors[modality], initial[name], modality) == ""


@pytest.mark.parametrize("name, change, named", [
    ("sparse", lambda x: x + 1024 / 2600, "with 1024 HU less"), ("limited", lambda x: 10 * x, "with a tenth of their"),
    ("cut at the border", lambda x: x + 1024 / 2600, "with 1024 HU less"), ("sparse", lambda x: 2 * x - 1, "not know")])
def test_intensities_that_a_prior_does_not_know_are_named(priors, initial, name, change, named):
    assert named in intensities_verdict(priors["ct"], change(initial[name]), "ct")


def test_it_is_said_of_the_run_s_own_initial_image(priors, initial, caplog):
    wrong = SimpleNamespace(y=torch.zeros(1), initial=initial["sparse"] + 0.4)
    say_intensities(None, wrong, "ct")
    say_intensities(priors["ct"], SimpleNamespace(y=None, initial=wrong.initial), "ct")
    assert caplog.text == ""
    say_intensities(priors["ct"], wrong, "ct")
    assert "the initial reconstruction: intensities that the prior does not know: at sigma 0.5" in caplog.text
