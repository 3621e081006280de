"""Priors: the levels that they know."""
import pytest

from models.prior import check_levels
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
