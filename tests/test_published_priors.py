"""The cards in configs/priors: each is one, and its network can be built with random weights."""
import pytest
import torch

from models.prior import levels
from utils.cli import choices
from utils.io.config import load_config
from utils.io.files import ROOT
from utils.io.prior_file import read_prior
from utils.run.setup import open_prior

CARDS = sorted((ROOT / "configs" / "priors").glob("*.yaml"))
DEMO = sorted((ROOT / "demo").glob("*.yaml"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_published_prior_can_be_built(path):
    card, _ = read_prior("weights.pt", path)
    if card.network in ("diffusers", "monai"):
        pytest.importorskip(card.network, reason=f"{card.network} is not installed")
    with torch.device("meta"):
        network = choices.named(choices.NETWORKS, card.network).load()(card.architecture)
    assert sum(value.numel() for value in network.parameters()) > 1e6
    low, high = levels(card)
    assert low <= 0.0101 and high > 50 and card.source


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.stem)
def test_a_bundled_prior_is_what_its_card_and_its_config_say(path):
    card, weights = read_prior(path)
    open_prior(card, weights, torch.device("cpu"), path)
    config = load_config(ROOT / "configs" / "ve" / f"{path.stem.replace('prior', 'demo')}.yaml")
    assert card.architecture == config and card.modality and card.licence


def test_there_are_cards():
    assert len(CARDS) >= 4 and len(DEMO) == 2
