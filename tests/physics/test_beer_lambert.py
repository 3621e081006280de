"""Beer-Lambert: counts become line integrals; what can give none is refused."""
import numpy as np
import pytest
import torch

from physics.beer_lambert import line_integrals


def stack(kind="u2", shape=(5, 9, 7)):
    return np.random.default_rng(0).normal(120, 30, shape).clip(1, 255).astype(kind)


def example(kind=np.float32):
    """Line integrals, and the counts, flat frames and dark frames that stand for them."""
    rng = np.random.default_rng(1)
    p = rng.uniform(-0.1, 6, (4, 5, 7))
    dark = rng.uniform(90, 110, (3, 5, 7))
    flat = rng.uniform(40000, 60000, (2, 5, 7))
    counts = np.exp(-p) * (flat.mean(0) - dark.mean(0)) + dark.mean(0)
    return p, counts.astype(kind), flat, dark


def test_counts_become_line_integrals():
    p, counts, flat, dark = example(np.float64)
    found, replaced = line_integrals(counts, flat, dark)
    assert found.dtype == np.float32 and replaced == 0 and np.abs(found - p).max() < 1e-6
    found, _ = line_integrals(counts, flat.mean(0), dark.mean(0))
    assert np.abs(found - p).max() < 1e-6
    counts = np.exp(-p) * 5e4
    assert np.abs(line_integrals(counts, i0=5e4)[0] - p).max() < 1e-6
    assert np.abs(line_integrals(counts / 5e4, np.ones((5, 7)))[0] - p).max() < 1e-6
    assert np.abs(line_integrals(counts + 100, i0=5e4 + 100, dark=np.full((5, 7), 100))[0] - p).max() < 1e-6


def test_whole_numbers_of_any_width():
    for kind in ("u1", "u2", "i4", ">u2", "f4"):
        counts = stack(kind)
        expected = -np.log(counts / 200.0)
        found, replaced = line_integrals(counts.copy(), i0=200)
        assert replaced == 0 and found.dtype == np.float32 and np.abs(found - expected).max() < 1e-6


def test_p_is_written_where_the_caller_says():
    p, counts, flat, dark = example()
    before = counts.copy()
    assert np.abs(line_integrals(counts, flat, dark)[0] - p).max() < 1e-4 and np.array_equal(counts, before)
    assert line_integrals(counts, flat, dark, out=counts)[0] is counts
    assert np.abs(counts - p).max() < 1e-4    # float32 counts: of 5e4, to 4e-3


def test_tensors_are_accepted():
    p, counts, flat, dark = example()
    found, _ = line_integrals(*map(torch.from_numpy, (counts, flat, dark)))
    assert np.abs(found - p).max() < 1e-4


def test_bad_pixels_are_not_looked_at():
    p, counts, flat, dark = example()
    flat[:, 2, 3], counts[:, 4, 4] = 0, -5
    bad = np.zeros((5, 7), bool)
    bad[2, 3] = bad[4, 4] = True
    found, replaced = line_integrals(counts, flat, dark, bad=bad)
    assert replaced == 0 and np.all(found[:, bad] == 0) and np.abs(found - p)[:, ~bad].max() < 1e-4
    with pytest.raises(ValueError, match="flat minus dark: 1 of 35"):
        line_integrals(counts, flat, dark)


def test_pixels_without_signal_are_replaced_and_counted():
    counts = stack("u2") + 100
    counts[0, 0, :3] = (0, 99, 100)    # with a dark of 100: below, below, equal
    dark, flat = np.full((9, 7), 100), np.full((2, 9, 7), 1100)
    found, replaced = line_integrals(counts, flat, dark)
    assert replaced == 3 and np.allclose(found[0, 0, :3], np.log(1000 / 0.5), atol=1e-6)
    assert np.allclose(found.ravel()[3:], -np.log((counts.ravel()[3:] - 100) / 1000.0), atol=1e-6)
    # The mean of dark frames leaves parts of a count.
    counts[0, 0, 3] = 101
    found, replaced = line_integrals(counts, flat, np.full((9, 7), 100.75))
    assert replaced == 4 and np.allclose(found[0, 0, :4], np.log(999.25 / 0.5), atol=1e-6)


def test_transmissions_have_the_floor_of_16_bits():
    counts = np.random.default_rng(2).uniform(0.01, 1, (4, 5, 7)).astype(np.float32)
    counts[1, 2, 3:] = (0, -0.2, 1e-7, 1e-5)
    expected = -np.log(counts[1, 2, 6])
    found, replaced = line_integrals(counts, i0=1)
    assert replaced == 3 and np.allclose(found[1, 2, 3:6], 17 * np.log(2), atol=1e-6)
    assert found[1, 2, 6] == pytest.approx(expected, abs=1e-6) and np.isfinite(found).all()


@pytest.mark.parametrize("change, reason", [
    ({"flat": None}, "neither of flat and i0"), ({"i0": 5e4}, "both of flat and i0"),
    ({"counts": np.ones((5, 7))}, r"shape \(5, 7\); accepted: views x v x u"),
    ({"counts": np.ones((0, 5, 7))}, r"shape \(0, 5, 7\)"),
    ({"flat": np.ones((5, 8))}, r"flat of shape \(5, 8\) for views of shape \(5, 7\)"),
    ({"flat": np.ones((1, 2, 5, 7))}, r"flat of shape \(1, 2, 5, 7\)"),
    ({"flat": np.ones((0, 5, 7))}, r"flat of shape \(0, 5, 7\)"),
    ({"dark": np.ones((7, 5))}, r"dark of shape \(7, 5\)"), ({"dark": 3}, r"dark of shape \(\)"),
    ({"flat": np.zeros((5, 7))}, "flat minus dark: 35 of 35 pixels are not above zero"),
    ({"flat": None, "i0": 0, "dark": None}, "i0 = 0 minus dark: 35 of 35"), ({"flat": None, "i0": np.nan}, "35 of 35"),
    ({"flat": None, "i0": -5}, "35 of 35"), ({"flat": None, "i0": np.inf}, "35 of 35"),
    ({"flat": np.where(np.arange(35).reshape(5, 7) < 2, 0, 5e4)}, "flat minus dark: 2 of 35 pixels"),
    ({"dark": np.full((5, 7), np.nan)}, "dark: 35 pixels are NaN"),
    ({"counts": np.zeros((4, 5, 7), np.float32)}, "no pixel above dark"),
    ({"counts": np.full((4, 5, 7), 50, np.float32)}, "no pixel above dark"),
    ({"counts": np.full((4, 5, 7), np.nan)}, "view 0: 35 pixels are NaN")])
def test_what_gives_no_line_integrals_is_refused(change, reason):
    _, counts, flat, dark = example()
    arguments = {"counts": counts, "flat": flat, "dark": dark} | change
    before = arguments["counts"].copy()
    with pytest.raises(ValueError, match=reason) as error:
        line_integrals(**arguments)
    assert "\n" not in str(error.value) and np.array_equal(arguments["counts"], before, equal_nan=True)


def test_swapped_flat_and_dark_are_refused():
    _, counts, flat, dark = example()
    with pytest.raises(ValueError, match="35 of 35 pixels are not above zero.*swapped"):
        line_integrals(counts, dark, flat)
