"""The interval about a mean of samples: what it holds, for which runs there is one, and what it is calibrated on."""
import pytest
import torch

from utils.cli.flags import flag_groups
from utils.cli.settings import parse_args
from utils.io.yaml_file import read_yaml, yaml_text
from utils.run.interval import (
    SETTINGS,
    Calibration,
    calibrated,
    calibration_for,
    coverage,
    half_width,
    local,
    settings_of,
)
from utils.run.provenance import record

ARGS = {"task": "LACT", "method": "DDS", "noise_control": "SLERP", "NFE": 30, "samples": 3, "dual": 0.7, "seed": 7,
        "degree": 90, "projections": None, "digests": {"checkpoint_path": "aa", "config_path": "bb", "data": "cc"}}
EDGES, FACTORS = (0.2, 0.5), (1.5, 2.5, 4.0)


@pytest.fixture
def known(tmp_path):
    """A file with the calibration of runs like `ARGS`."""
    entry = {"settings": settings_of(ARGS), "edges": list(EDGES), "factors": list(FACTORS), "measured": "on a chest"}
    (tmp_path / "intervals.yaml").write_text(yaml_text({"ct, LACT": entry}))
    return tmp_path / "intervals.yaml"


def case(seed, factors=FACTORS):
    """Mean, standard deviation and truth whose errors are normal, 90 % of them within the factors."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(40, 40, 40, generator=generator)
    std = torch.linspace(0.01, 0.05, 40)[:, None, None].expand(40, 40, 40)     # alike among neighbours
    half = torch.tensor(factors)[torch.bucketize(mean, torch.tensor(EDGES), right=True)] * std
    return mean, std, mean + half / 1.6449 * torch.randn(40, 40, 40, generator=generator)


def test_calibration_finds_the_factors_that_errors_were_made_with_and_covers_90_percent_elsewhere():
    found = calibrated([case(1), case(2)], EDGES)
    assert found == pytest.approx(FACTORS, rel=0.02)
    calibration = Calibration(settings={}, edges=EDGES, factors=found, measured="")
    mean, std, truth = case(3)
    parts = coverage(mean, half_width(mean, std, calibration), truth)
    assert parts["whole"] == pytest.approx(0.9, abs=0.005) and parts["foreground"] == pytest.approx(0.9, abs=0.005)


def test_every_case_counts_alike_however_many_voxels_it_has():
    mean, std, truth = case(2, (3.0, 5.0, 8.0))
    found = calibrated([case(1), (mean[:10], std[:10], truth[:10])], EDGES)
    assert found == pytest.approx([1.5 * factor for factor in FACTORS], rel=0.05)


def test_half_widths_by_class_at_the_edges():
    calibration = Calibration(settings={}, edges=EDGES, factors=FACTORS, measured="")
    mean = torch.tensor([0.1, 0.2, 0.4999, 0.5, -1.0, 2.0])[None, None]
    half = half_width(mean, torch.full((1, 1, 6), 0.02), calibration)
    torch.testing.assert_close(half[0, 0], torch.tensor([0.03, 0.05, 0.05, 0.08, 0.03, 0.08]))


def test_the_spread_about_a_voxel_is_the_root_mean_square_of_those_beside_it():
    std = torch.zeros(4, 5, 6)
    std[1, 2, 3] = 27.0
    spread = local(std)
    assert spread[2, 3, 4] == pytest.approx(27 / 27**0.5)       # one of 27
    assert spread[0, 2, 3] == pytest.approx(27 / 18**0.5)       # at the border, one of 18
    assert spread[3].max() == 0 and spread[:, :, :2].max() == 0
    assert torch.equal(local(std[1:2]) > 0, spread[1:2] > 0)    # one slice alone


def test_coverage_counts_voxels_and_knows_no_foreground_of_air():
    mean, half = torch.zeros(4), torch.tensor([0.1, 0.3, 0.5, 0.1])
    parts = coverage(mean, half, torch.tensor([0.0, 0.2, 0.6, 0.12]))
    assert parts == pytest.approx({"whole": 0.5, "foreground": 0.5})
    assert coverage(mean, half, mean) == {"whole": 1.0, "foreground": None}


def test_a_class_without_voxels_is_said():
    with pytest.raises(ValueError, match="no case has voxels of class 1"):
        calibrated([(torch.zeros(2, 10, 10), torch.ones(2, 10, 10), torch.zeros(2, 10, 10))], (0.5,))


@pytest.mark.parametrize("change", [
    {"NFE": 50}, {"degree": 120}, {"samples": 4}, {"noise_control": "None"}, {"dual": None},
    {"projections": "scan.mha"}, {"thick": "slices.nii.gz"}, {"w_tv": 0.3},
    {"digests": {"checkpoint_path": "other", "config_path": "bb"}}],
    ids=str)
def test_other_settings_have_no_interval(known, change):
    assert calibration_for(ARGS, known).factors == FACTORS
    assert calibration_for(ARGS | {"seed": 8}, known)
    assert calibration_for(ARGS | change, known) is None


@pytest.mark.parametrize("task, degree, known", [
    ("SVCT", 20, True), ("SVCT", 30, True), ("SVCT", 60, True), ("LACT", 90, True), ("LACT", 120, True),
    ("SVCT", 24, False)])
def test_the_preset_has_the_intervals_that_were_measured(tmp_path, task, degree, known):
    """What was calibrated is the preset of today: settings and the bytes of the demo's prior."""
    options = parse_args("ct", ["--preset", "best", "--task", task, "--degree", str(degree), "--samples", "3",
                                "--output-dir", str(tmp_path)], read_yaml)
    assert (calibration_for(record(options, "cpu")) is not None) == known


def test_a_file_that_is_none_is_one_line(known):
    known.write_text(known.read_text().replace("- 4.0", "- -4.0"))
    with pytest.raises(ValueError, match=r"intervals.yaml: .*factors: .*accepted: a list of number above 0"):
        calibration_for(ARGS, known)
    known.write_text(known.read_text().replace("- -4.0", ""))
    with pytest.raises(ValueError, match="3 factors|2 factors"):
        calibration_for(ARGS, known)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_every_flag_that_shapes_the_samples_is_among_the_settings(modality):
    groups = flag_groups(modality)
    shaping = {flag.name.replace("-", "_") for title in
               ("sampling", "settings of one method, noise control or re-noising rule") for flag in groups[title]}
    assert shaping and shaping <= set(SETTINGS)
