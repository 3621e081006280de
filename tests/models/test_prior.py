"""Priors: the levels that they know, and what they are for."""
import pytest
import torch

from models.prior import check_levels, check_prior, score_settings
from utils.io.config import load_config


@pytest.fixture
def config(data_dir):
    return load_config(data_dir / "ncsnpp_tiny.yaml")


def test_levels_within_the_priors_are_taken_and_the_first_is_the_configs(config):
    assert check_levels(config, 0.01, 378) == 378 and check_levels(config, 0.5, 3) == 3
    assert check_levels(config, 0.01, None) == 378


@pytest.mark.parametrize("sigma_min, sigma_max", [(0.009, 1), (0.01, 379), (2, 1), (1, 1), (400, None)])
def test_levels_beyond_the_priors_are_refused(config, sigma_min, sigma_max):
    with pytest.raises(ValueError, match="this prior knows 0.01 to 378"):
        check_levels(config, sigma_min, sigma_max)


def test_a_prior_says_what_it_is_for(config, caplog):
    config.training.preconditioning, config.data.image_size = "edm", 128
    prior = {"modality": "ct", "window": [-1000.0, 1600.0]} | score_settings(config)
    check_prior({"prior": prior}, "a.pth", "ct", config, 128)
    check_prior({"a": torch.ones(1)}, "a.pth", "mr", config, 7)     # a published one says nothing
    assert not caplog.records
    check_prior({"prior": prior}, "a.pth", "ct", config, 256)
    assert "images of 128 pixels on slices of 256" in caplog.text
    with pytest.raises(ValueError, match="a.pth: a prior of CT slices; accepted: MR"):
        check_prior({"prior": prior}, "a.pth", "mr", config)
    with pytest.raises(ValueError, match="window .*-160, 240.* accepted"):
        check_prior({"prior": prior | {"window": [-160, 240]}}, "a.pth", "ct", config, 128)
    config.training.preconditioning = "none"
    with pytest.raises(ValueError, match="a prior with training.preconditioning: edm; its config says none"):
        check_prior({"prior": prior}, "a.pth", "ct", config, 128)
