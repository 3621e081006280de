"""Priors from their cards: levels, what a card says against slices, the same score however the prior is named."""
from types import SimpleNamespace

import pytest

from models.prior import check_levels, levels
from models.prior.fit import misfit_of_pixels, misfits


def test_levels_within_the_priors_are_taken_and_the_first_is_its_own():
    assert check_levels(0.01, 378, 0.01, 378) == 378 and check_levels(0.01, 378, 0.5, 3) == 3
    assert check_levels(0.01, 378, 0.01, None) == 378 and check_levels(0.0100005, 157, 0.01, 5) == 5


@pytest.mark.parametrize("sigma_min, sigma_max", [(0.009, 1), (0.01, 379), (2, 1), (1, 1), (400, None)])
def test_levels_beyond_the_priors_are_refused(sigma_min, sigma_max):
    with pytest.raises(ValueError, match="this prior knows 0.01 to 378"):
        check_levels(0.01, 378, sigma_min, sigma_max)


def card(**changes):
    values = dict(modality="ct", plane="axial", window=(-1000, 1600), pixel_size=1.0, image_size=256,
                  intensities=(-1, 1), schedule={"kind": "sigmas", "sigma_min": 0.02, "sigma_max": 40.0})
    return SimpleNamespace(**values | changes)


def test_levels_are_those_of_unit_intensities():
    assert levels(card()) == levels(card(), (-1000, 1600)) == pytest.approx((0.01, 20))
    assert levels(card(window=(-160, 240)), (-1000, 1600)) == pytest.approx((0.02 * 400 / 5200, 40 * 400 / 5200))


SLICES = ("ct", (-1000, 1600), "axial", 256)


@pytest.mark.parametrize("changes, named", [
    ({}, None), ({"modality": None, "plane": None, "window": None, "pixel_size": None, "image_size": None}, None),
    ({"plane": "coronal"}, "a prior of coronal slices on axial ones"),
    ({"window": (-160, 240)}, "a prior of the window -160 to 240 HU in the window -1000 to 1600"),
    ({"window": (-1024, 3000)}, None), ({"image_size": 128}, "images of 128 pixels on slices of 256")])
def test_what_a_card_says_against_slices(changes, named):
    found = misfits(card(**changes), *SLICES)
    assert (found == []) if named is None else (len(found) == 1 and named in found[0])


def test_the_window_of_mr_is_a_rule():
    slices = ("mr", "percentile", "coronal")
    assert misfits(card(modality="mr", plane="coronal", window="percentile"), *slices) == []
    assert "min-max in the window percentile" in misfits(card(modality="mr", plane="coronal", window="min-max"),
                                                         *slices)[0]


@pytest.mark.parametrize("size, named", [(None, ""), (0.8, ""), (0.6, "0.6 mm on 1.2 x 1 mm"), (3.0, "3 mm on 1.2")])
def test_pixels_of_another_size(size, named):
    found = misfit_of_pixels(card(pixel_size=size), (1.2, 1.0))
    assert named in found and bool(found) == bool(named)


def test_another_modality_is_refused():
    with pytest.raises(ValueError, match="a prior of MR slices; accepted: CT"):
        misfits(card(modality="mr"), *SLICES)
