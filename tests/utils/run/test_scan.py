"""The grid of a reconstruction: pixels of the size that is asked for, where they lie; cards that are read once."""
import nibabel
import numpy as np
import pytest
import yaml

from utils.cli.settings import parse_args
from utils.io.yaml_file import read_yaml
from utils.run import setup
from utils.run.scan import read_mr, read_scan

BLOB = np.array([4.0, -3.0, 2.0])      # mm, in the patient


@pytest.fixture(scope="module")
def folder(data_dir, tmp_path_factory):
    """A prior of pixels of 2.5 mm, scans of an oblique blob, and a measured scan."""
    folder = tmp_path_factory.mktemp("scans")
    card = {"network": "ncsnpp", "architecture": yaml.safe_load((data_dir / "ncsnpp_tiny.yaml").read_text()),
            "pixel_size": 2.5, "weights": "prior.pth"}
    (folder / "prior.yaml").write_text(yaml.safe_dump(card))
    (folder / "prior.pth").write_bytes(b"")
    for name, shape, spacing, low, high in (("ct", (44, 40, 9), (1, 1.5, 4), -1000, 1000),
                                            ("mr", (44, 40, 20), (1, 1.5, 1.7), 0, 1000)):
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + (3, 1, 0)
        points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
        away = np.linalg.norm(points - BLOB, axis=-1)
        nibabel.save(nibabel.Nifti1Image((low + (high - low) * np.exp(-(away / 6)**2)).astype("f4"), affine),
                     folder / f"{name}.nii.gz")
    (folder / "scan.yaml").write_text(yaml.safe_dump({
        "src_dist": 200.0, "det_dist": 100.0, "det_shape": [12, 30], "det_spacing": [3.0, 3.0], "mu_water": 0.02,
        "angles": {"start": 0, "stop": 360, "views": 4}, "volume_shape": [6, 30, 40], "voxel_size": [3.0, 1.0, 1.5]}))
    np.save(folder / "p.npy", np.tile(3 * np.hanning(30), (4, 12, 1)).astype("f4"))
    return folder


def options(modality, *flags):
    return parse_args(modality, list(map(str, flags)), read_yaml)


def blob_of(volume):
    """Where a volume's blob lies, in RAS."""
    weights = np.clip(volume.array - volume.array.min(), 0, None).astype(float)**2
    k, j, i = (np.tensordot(weights, np.arange(count), ([axis], [0])).sum() / weights.sum()
               for axis, count in enumerate(weights.shape))
    return (np.asarray(volume.origin) + volume.axes @ (i, j, k)) * (-1, -1, 1)


@pytest.mark.parametrize("wanted, size", [("prior", 2.5), (1.2, 1.2)])
def test_pixels_of_a_ct_have_the_size_and_lie_where_they_did(folder, wanted, size):
    scan, volume, source, _ = read_scan(options("ct", "--data", folder / "ct.nii.gz", "--prior", folder, "--pixel-size",
                                             wanted, "--oversample", 2))
    assert volume.spacing == pytest.approx((size, size, 4), rel=0.03) and volume.array.shape[0] == 9
    assert scan.volume_shape == volume.array.shape and source.shape[1:] == tuple(2 * n for n in volume.array.shape[1:])
    assert np.multiply(volume.spacing[:2], volume.array.shape[:0:-1]) == pytest.approx((44, 60))   # the field of view
    assert blob_of(volume) == pytest.approx(BLOB, abs=0.1)


def test_pixels_of_an_mr_have_the_size_along_all_axes_and_lie_where_they_did(folder):
    flags = "--prior", folder, "--pixel-size", "prior", "--degree", 2, "--method", "DDS"
    volume, _, source = read_mr(options("mr", "--data", folder / "mr.nii.gz", *flags))
    assert volume.spacing == pytest.approx((2.5, 2.5, 2.5), rel=0.05) and source.shape == volume.array.shape
    assert blob_of(volume) == pytest.approx(BLOB, abs=0.1)
    place, _, source = read_mr(options("mr", "--thick", folder / "mr.nii.gz", *flags))
    assert place.spacing == pytest.approx((2.5, 2.5, 0.85), rel=0.05) and len(source) == 20


def test_pixels_of_a_measured_scan_have_the_size_in_the_same_field_of_view(folder):
    measured = "--projections", folder / "p.npy", "--geometry", folder / "scan.yaml", "--prior", folder
    own, *_ = read_scan(options("ct", *measured))
    scan, place, *_ = read_scan(options("ct", *measured, "--pixel-size", "prior"))
    assert scan.volume_shape == place.array.shape == (6, 12, 24) and scan.voxel_size == pytest.approx((3, 2.5, 2.5))
    assert place.spacing == pytest.approx((2.5, 2.5, 3)) and scan.volume_centre == pytest.approx(own.volume_centre)


def test_what_has_no_pixels_to_say_is_refused(folder, data_dir):
    flags = "--data", folder / "ct.nii.gz", "--checkpoint-path", folder / "prior.pth"
    with pytest.raises(ValueError, match="--pixel-size prior: the card of .*prior.pth has no pixel_size"):
        read_scan(options("ct", *flags, "--config-path", data_dir / "ncsnpp_tiny.yaml", "--pixel-size", "prior"))
    with pytest.raises(ValueError, match="--pixel-size 9.0: 5 x 7 pixels; accepted: 8 to 4096"):
        read_scan(options("ct", *flags, "--config-path", folder / "prior.yaml", "--pixel-size", 9))


def test_a_card_within_the_weights_is_read_once(folder, monkeypatch):
    weights, read = folder / "alone.pth", []
    weights.write_bytes(b"")
    card = read_yaml(folder / "prior.yaml")
    monkeypatch.setattr(setup, "read_checkpoint", lambda path: read.append(path) or {"prior": card})
    (folder / "elsewhere").mkdir()
    weights = weights.rename(folder / "elsewhere" / "alone.pth")
    assert setup.find_prior(weights) == setup.find_prior(weights) and setup.find_prior(weights)[0].pixel_size == 2.5
    assert read == [weights]
