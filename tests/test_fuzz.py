"""Readers given bad input: a valid result, or one line that names the file; never anything else, never anything left.

The inputs are drawn by hypothesis, the same ones every time. There are 4000 or so.
"""
import gzip
import io
import locale
import os
import pickle
import tempfile
import time
import zipfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
import yaml
from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis import strategies as st
from torch import nn

from models.checkpoint import load_weights
from physics.geometry import ConeGeometry
from utils.cli import settings as cli_settings
from utils.evaluation.grid import read_grid
from utils.io.config import load_config
from utils.io.geometry_file import read_geometry
from utils.io.measured import read_line_integrals
from utils.io.projections import read_bad_pixels, read_projections
from utils.io.read import read_volume
from utils.io.yaml_file import read_yaml

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))    # not a folder in the repository

SECONDS = 10
SHAPE = (4, 5, 6)
NUMBERS = [0, 1, -1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 2304, 30000, 32767, -32768]
REALS = [0.0, 1.0, -1.0, 0.5, np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-38, 352, 1e9, -352, 1e-5]
NIFTI = {**{40 + 2 * k: "i2" for k in range(8)}, 0: "i4", 70: "i2", 72: "i2", 252: "i2", 254: "i2", 123: "u1",
         344: "i4",
         **{76 + 4 * k: "f4" for k in range(8)}, 108: "f4", 112: "f4", 116: "f4",
         **{256 + 4 * k: "f4" for k in range(18)}}    # byte: type of a field of the header
VALUES = [None, True, 0, -1, 1, 3, 1e300, 10 ** 400, 10 ** 12, float("nan"), float("inf"), "", "x", "7e2", "\x00",
          [], [[]], [1, 2], [1, 2, 3], [0.5] * 12, [[0.5] * 12], {}, {"a": 1}, b"\xff",
          {"start": 0, "stop": 1, "views": 10 ** 12},
          [float("nan")] * 3, [10 ** 9] * 3, [1e308] * 3, [1e-308] * 3, "views.npy", "views.txt", "é\ud7ff"]


def examples(count):
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck))


@contextmanager
def clean(folder):
    """Fails when the block takes too long (a hang is busy, a machine may be), or leaves or takes a file."""
    before, begin = sorted(os.listdir(folder)), time.process_time()
    yield
    assert time.process_time() - begin < SECONDS and sorted(os.listdir(folder)) == before


def outcome(path, read, *arguments, named=None):
    """What the reader gives; None for a ValueError or OSError in one line that names the file."""
    with clean(path.parent):
        try:
            return read(path, *arguments)
        except (ValueError, OSError) as error:
            message = str(error)
            message.encode("utf-8")    # can be printed
            assert (path.name if named is None else named) in message, message
            assert "\n" not in message and len(message) < 5000, message
            return None


def bytes_of(write, name, tmp_path):
    write(str(tmp_path / name))
    return (tmp_path / name).read_bytes()


def damages(length, header):
    """Changes to ``length`` bytes, most of them in the ``header`` first ones, and where to cut the rest off."""
    place = st.integers(0, header - 1) | st.integers(0, length - 1)
    return st.tuples(st.lists(st.tuples(place, st.sampled_from([0, 1, 32, 48, 57, 127, 255]) | st.integers(0, 255)),
                              max_size=6), st.just(length) | st.just(length) | st.integers(0, length))


def damaged(content, damage):
    content = bytearray(content)
    for place, value in damage[0]:
        content[place % len(content)] = value
    return bytes(content[:damage[1]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def image():
    result = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 50, SHAPE).astype(np.int16))
    result.SetSpacing((0.7, 0.8, 2.5))
    result.SetDirection((0.9, -0.4358898943540674, 0, 0.4358898943540674, 0.9, 0, 0, 0, 1))
    return result


def is_volume(volume):
    axes = np.reshape(volume.direction, (3, 3))
    return (volume.array.dtype == np.float32 and volume.array.ndim == 3 and np.isfinite(volume.array).all()
            and min(volume.spacing) > 0 and np.isfinite((*volume.spacing, *volume.origin)).all()
            and np.allclose(axes.T @ axes, np.eye(3), atol=1e-3))


@pytest.fixture(scope="module")
def nifti(folder, image):
    return {order: swapped(bytes_of(lambda name: sitk.WriteImage(image, name), "scan.nii", folder), order)
            for order in "<>"}


def swapped(content, order):
    """A NIfTI file of int16, its header and voxels in this byte order."""
    content = bytearray(content)
    if order == ">":
        for place, kind in {**NIFTI, **dict.fromkeys(range(352, len(content), 2), "i2")}.items():
            if place not in (123, 344):
                size = int(kind[1])
                content[place:place + size] = content[place:place + size][::-1]
    return bytes(content)


@examples(500)
@given(order=st.sampled_from("<<<>"), packed=st.sampled_from([False, False, False, True]),
       fields=st.lists(st.tuples(st.sampled_from(sorted(NIFTI)), st.sampled_from(NUMBERS), st.sampled_from(REALS)),
                       max_size=4), damage=damages(592, 352), turn=st.sampled_from([None, "LPS"]))
def test_nifti(folder, nifti, order, packed, fields, damage, turn):
    content = bytearray(nifti[order])
    for place, whole, real in fields:
        kind = NIFTI[place]
        with np.errstate(all="ignore"):
            value = np.array([real if kind[0] == "f" else whole]).astype(order + kind).tobytes()
        content[place:place + len(value)] = value
    if not fields:
        content = damaged(content, damage)
    path = folder / ("scan.nii.gz" if packed else "scan.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    volume = outcome(path, read_volume, turn)
    assert volume is None or is_volume(volume)
    found = outcome(path, read_projections)
    assert found is None or (found.ndim == 3 and np.isfinite(found).all())
    path.unlink()


@examples(150)
@given(content=st.binary(max_size=600), cut=st.integers(0, 300))
def test_bytes_that_are_no_nifti(folder, nifti, content, cut):
    for name, stored in (("scan.nii", content), ("scan.nii.gz", content),
                         ("scan.nii.gz", gzip.compress(nifti["<"])[:-1 - cut])):
        (folder / name).write_bytes(stored)
        assert outcome(folder / name, read_volume) is None
        (folder / name).unlink()


def test_a_header_that_claims_more_than_there_is_takes_no_memory(folder, nifti):
    content = bytearray(nifti["<"])
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()
    for name, stored in (("scan.nii", content), ("scan.nii.gz", gzip.compress(content))):
        (folder / name).write_bytes(stored)
        with pytest.raises(ValueError, match="bytes short of its 30000 x 30000 x 30000 voxels"):
            read_volume(folder / name)
        (folder / name).unlink()


@pytest.fixture(scope="module")
def dicom(folder):
    """The content of three slices."""
    contents, language = [], locale.setlocale(locale.LC_ALL)
    for k in range(3):
        image = sitk.GetImageFromArray(np.random.default_rng(k).integers(-1000, 1500, (1, 5, 6)).astype(np.int16))
        for tag, value in {"0008|0060": "CT", "0020|000e": "1.2.3.4", "0020|0032": f"-12\\34\\{2.5 * k}",
                           "0020|0037": "1\\0\\0\\0\\1\\0", "0028|1053": "1", "0028|1052": "-1024"}.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / "slice.dcm"))
        writer.Execute(image)
        contents.append((folder / "slice.dcm").read_bytes())
    (folder / "slice.dcm").unlink()
    locale.setlocale(locale.LC_ALL, language)    # writing (not reading) DICOM sets it to "C", without UTF-8
    return contents


@examples(400)
@given(damage=damages(1000, 1000), place=st.integers(128, 999), value=st.integers(0, 255), which=st.integers(0, 2),
       rest=st.binary(max_size=60))
def test_dicom(folder, dicom, damage, place, value, which, rest):
    series = folder / "series"
    series.mkdir()
    for k, content in enumerate(dicom):
        if k == which:
            head, pixels = content[:-60], content[-60:]
            changes = [(128 + p % (len(head) - 128), v) for p, v in [*damage[0], (place, value)]]
            content = (damaged(head, (changes, len(head))) + pixels if damage[1] == 1000 else
                       content[:damage[1] * len(content) // 1000])
        (series / f"{k}.dcm").write_bytes(content)
    (series / "notes.txt").write_bytes(rest)
    volume = outcome(series, read_volume)
    assert volume is None or is_volume(volume)
    for file in series.iterdir():
        file.unlink()
    series.rmdir()


@pytest.fixture(scope="module")
def stacks(folder, image):
    contents = {}
    for name in ("p.mha", "p.nrrd", "p.tif"):
        for packed in (False, True):
            contents[name, packed] = bytes_of(partial(sitk.WriteImage, image, useCompression=packed), name, folder)
            (folder / name).unlink()
    stream = io.BytesIO()
    np.save(stream, sitk.GetArrayFromImage(image).astype(np.float32))
    return contents | {("p.npy", False): stream.getvalue(), ("p.npy", True): stream.getvalue()}


@pytest.mark.parametrize("name", ["p.mha", "p.nrrd", "p.tif", "p.npy"])
@examples(250)
@given(packed=st.booleans(), fraction=st.floats(0, 1), rest=st.binary(max_size=40),
       damage=damages(10 ** 6, 10 ** 6), claim=st.sampled_from([None, None, b"9", b"99999", b"-3", b"nan", b"0"]))
def test_projections(folder, stacks, name, packed, fraction, rest, damage, claim):
    content, path = stacks[name, packed], folder / name
    if claim and name != "p.tif":
        content = content.replace(b"6 5 4", b"%s 5 4" % claim).replace(b"(4, 5, 6)", b"(4, 5, %s)" % claim)
    elif rest and rest[0] < 10:
        content = rest
    else:
        content = damaged(content, (damage[0], int(damage[1] / 1e6 * len(content))))
    path.write_bytes(content)
    for i0 in (None, 100.0):    # line integrals, counts
        found = outcome(path, read_line_integrals, SHAPE, None, None, i0)
        assert found is None or (found.p.dtype == np.float32 and np.isfinite(found.p).all())
    path.unlink()


@examples(80)
@given(names=st.lists(st.from_regex("[-_.,a0-9]{1,9}", fullmatch=True) | st.from_regex("v?-?[0-9]{1,2}[.,_-][0-9]",
                                                                                       fullmatch=True),
                      min_size=1, max_size=4, unique=True), damage=damages(200, 200))
def test_folders_of_views(folder, stacks, names, damage):
    views = folder / "views"
    views.mkdir()
    for k, name in enumerate(names):
        tifffile.imwrite(views / f"{name}.tif", np.full((2, 3), k, np.uint8))
    (views / f"{names[0]}.tif").write_bytes(damaged((views / f"{names[0]}.tif").read_bytes(), damage))
    found = outcome(views, read_projections)
    assert found is None or (found.shape[0] <= len(names) and np.isfinite(found).all())
    for file in views.iterdir():
        file.unlink()
    views.rmdir()


@examples(80)
@given(content=st.binary(max_size=60) | st.from_regex(r"([0-9]{1,3}[ ,][0-9]{1,3}\n){1,4}", fullmatch=True))
def test_lists_of_bad_pixels(folder, content):
    path = folder / "bad.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = outcome(path, read_bad_pixels, (40, 50))
    assert found is None or (found.shape == (40, 50) and found.dtype == bool)
    path.unlink()


GEOMETRY = dict(angles=[0, 120, 240], src_dist=7, det_dist=5, det_shape=[3, 4], det_spacing=[1, 1], det_offset=[0, 0],
                volume_shape=[2, 2, 2], voxel_size=[1, 1, 1], volume_centre=[0, 0, 0], unit="mm", mu_water=0.02)
SPOILT = st.lists(st.tuples(st.integers(0, 99), st.sampled_from(VALUES),
                            st.sampled_from(["set", "set", "drop", "misspell"])), min_size=1, max_size=3)
ODD = ["a: &a [1, 1]\n" + "".join(f"k{k}: &b{k} [*{'a' if not k else f'b{k - 1}'}, *{'a' if not k else f'b{k - 1}'}]\n"
                                  for k in range(40)),
       "a: &a [*a]", "[" * 5000, "{a: " * 3000, "- " * 3000, "? [1]\n: 2", "a: !!int ''", "a: !!bool x", "!!map [1]",
       "a: !!timestamp x", "a: 1:1" + ":1" * 3000 + ".5", "a: " + "9" * 5000, "a: 1\na: 2", "a: 2000-99-99",
       "!!python/object/apply:os.mkdir [ran]", "<<: 3", "<<: [1]", "a: *b", "\ufeff", "%YAML 9.9\n---\na", "\t",
       "a: [1",
       "--- 1\n--- 2"]


def spoil(tree, changes):
    """Sets, drops or misspells entries of a tree of two levels."""
    for place, value, how in changes:
        places = [(tree, key) for key in tree] + [(item, key) for item in tree.values() if isinstance(item, dict)
                                                  for key in item]
        if not places:
            break
        level, key = places[place % len(places)]
        old = level.pop(key)
        if how != "drop":
            level[key if how == "set" or not isinstance(key, str) else f"{key}_"] = value if how == "set" else old
    return yaml.safe_dump(tree)


def changed(text, tree, changes, place, odd):
    """The YAML of the spoilt tree, that with a piece of ``odd`` in it, or that alone."""
    if odd is None:
        return spoil(tree, changes)
    return odd if place % 3 == 0 else text + "\n" + odd if place % 3 == 1 else text[:place] + odd + text[place:]


@examples(400)
@given(changes=SPOILT, place=st.integers(0, 300), odd=st.none() | st.sampled_from(ODD) | st.text(max_size=20))
def test_geometry(folder, changes, place, odd):
    path = folder / "scan.yaml"
    path.write_text(changed(yaml.safe_dump(GEOMETRY), dict(GEOMETRY), changes, place, odd), encoding="utf-8",
                    errors="replace")
    found = outcome(path, read_geometry)
    assert found is None or (isinstance(found, ConeGeometry) and np.isfinite(found.vectors).all())
    path.unlink()


@examples(250)
@given(damage=damages(1400, 128), cut=st.booleans(), kind=st.sampled_from(["views.npy", "views.txt", "views.csv"]))
def test_tables_of_vectors(folder, damage, cut, kind):
    vectors = ConeGeometry(**{key: GEOMETRY[key] for key in ("angles", "src_dist", "det_dist", "det_shape",
                                                              "det_spacing")}).vectors
    stream = io.BytesIO()
    if kind == "views.npy":
        np.save(stream, vectors)
    else:
        np.savetxt(stream, vectors, "%.3g", "," if kind == "views.csv" else " ")
    (folder / kind).write_bytes(damaged(stream.getvalue(), damage))
    (folder / "scan.yaml").write_text(f"{{det_shape: [3, 4], view_vectors: {kind}}}")
    found = outcome(folder / "scan.yaml", read_geometry)
    assert found is None or np.isfinite(found.vectors).all()
    (folder / kind).unlink()
    (folder / "scan.yaml").unlink()


@examples(250)
@given(changes=SPOILT, place=st.integers(0, 1500), odd=st.none() | st.sampled_from(ODD) | st.text(max_size=20))
def test_config(folder, data_dir, changes, place, odd):
    text = (data_dir / "ncsnpp_tiny.yaml").read_text()
    path = folder / "config.yaml"
    path.write_text(changed(text, yaml.safe_load(text), changes, place, odd), encoding="utf-8", errors="replace")
    config = outcome(path, load_config)
    assert config is None or config.model.sigma_max < float("inf")
    path.unlink()


@examples(250)
@given(changes=SPOILT, place=st.integers(0, 300), odd=st.none() | st.sampled_from(ODD) | st.text(max_size=20))
def test_grid(folder, pytestconfig, changes, place, odd):
    tree = {"volumes": {"thorax": {"modality": "CT", "path": "demo/chest.nii.gz", "slices": [0, 8], "size": 32}},
            "tasks": {"few": {"task": "SVCT", "degree": 20}}, "seeds": [1], "keep": ["recon.nii.gz"],
            "variants": {"ours": {"flags": {"NFE": 3}, "samples": 2}, "none": {"baseline": True}}}
    path = folder / "grid.yaml"
    path.write_text(changed(yaml.safe_dump(tree), tree, changes, place, odd), encoding="utf-8", errors="replace")
    outcome(path, read_grid, pytestconfig.rootpath)
    path.unlink()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fixed = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.first = nn.Linear(2, 2)


def checkpoint(legacy=False, change=None):
    network = Network()
    content = {"model": {f"module.{key}": value for key, value in network.state_dict().items()}, "step": 5,
               "ema": {"decay": 0.9, "num_updates": 1, "shadow_params": [p.detach() for p in (
                   network.first.weight, network.first.bias)]}}
    if change:
        change(content)
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def weights(path):
    network = Network()
    load_weights(network, path)
    return network


@pytest.mark.filterwarnings("ignore")
@examples(300)
@given(legacy=st.booleans(), damage=damages(10 ** 6, 10 ** 6), near=st.integers(0, 800), value=st.integers(0, 255))
def test_checkpoints(folder, legacy, damage, near, value):
    torch.manual_seed(0)
    content = damaged(checkpoint(legacy), (damage[0], 10 ** 9))
    content = damaged(content, ([(near, value)], int(damage[1] / 1e6 * len(content))))
    (folder / "prior.pth").write_bytes(content)
    network = outcome(folder / "prior.pth", weights)
    assert network is None or all(torch.isfinite(p).all() for p in network.parameters())
    (folder / "prior.pth").unlink()


TENSORS = [torch.zeros(2), torch.full((2, 2), torch.nan), torch.full((2, 2), 1e300, dtype=torch.float64),
           torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.complex64),
           torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2, device="meta"),
           torch.zeros(1).expand(10 ** 6, 10 ** 6), torch.zeros(0), 3, None, "x", [], {}]


@pytest.mark.filterwarnings("ignore")
@examples(150)
@given(value=st.sampled_from(range(len(TENSORS))), place=st.integers(0, 8))
def test_tensors_that_do_not_fit(folder, value, place):
    value = TENSORS[value]

    def change(content):
        for k, (level, key) in enumerate([(content, "model"), (content, "ema"),
                                          (content["model"], "module.first.weight"),
                                          (content["model"], "module.fixed"), (content["model"], "extra"),
                                          (content["ema"]["shadow_params"], 0), (content["ema"], "shadow_params"),
                                          (content["model"], 7), (content["model"], "module.module.fixed")]):
            if k == place:
                level[key] = value

    (folder / "prior.pth").write_bytes(checkpoint(change=change))
    network = outcome(folder / "prior.pth", weights)
    assert network is None or all(torch.isfinite(p).all() for p in network.parameters())
    (folder / "prior.pth").unlink()


class Payload:
    """Makes a folder when it is unpickled with code allowed."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy", "protocol 0", "compressed zip"])
def test_code_in_a_checkpoint_does_not_run(folder, kind):
    marker, path = str(folder / "ran"), folder / "prior.pth"
    payload = {"model": {}, "optimizer": Payload(marker)}
    if kind in ("pickle", "protocol 0"):
        path.write_bytes(pickle.dumps(payload, 0 if kind == "protocol 0" else None))
    elif kind == "legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        packing = zipfile.ZIP_DEFLATED if kind == "compressed zip" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", packing) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(payload, 2))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
    assert outcome(path, weights) is None and not os.path.exists(marker)
    path.unlink()


def test_a_checkpoint_that_unpacks_to_more_than_it_is(folder):
    path = folder / "prior.pth"
    with zipfile.ZipFile(io.BytesIO(checkpoint())) as whole, \
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
        archive.writestr("archive/data/99", bytes(10 ** 7))
    with pytest.raises(ValueError, match="prior.pth.*bytes in a file of"):
        weights(path)
    path.unlink()


FLAGS = ["--task", "--degree", "--method", "--data", "--slice-begin", "--slice-end", "--recon-size", "--sino-noise",
         "--geometry", "--projections", "--flat", "--dark", "--i0", "--projector", "--checkpoint-path", "--config-path",
         "--use-init", "--NFE", "--num-cg", "--weights", "--w-tik", "--w-dz", "--w-tv", "--w-dps", "--sigma-max",
         "--sigma-min", "--noise-control", "--noise-length", "--renoise-method", "--gpu", "--device", "--seed",
         "--batch-size", "--output-dir", "--save-intermediates", "--none", "-x", "--"]
TEXTS = ["", "0", "1", "-1", "1e400", "nan", "inf", "1e5", "9" * 5000, "1_0", "SVCT", "DDS", "ADMM-TV", "GP", "x",
         "true", "\x00", "é", "/", "/dev/null", "/root/none/none", "a" * 5000, "\ud800", "cuda:1"]


WORDS = st.text(st.characters(exclude_categories=("Cc", "Zl", "Zp")), max_size=8)    # one line each


@pytest.mark.parametrize("problem", ["ct", "mr"])
@examples(300)
@given(words=st.lists(st.tuples(st.sampled_from(FLAGS), st.sampled_from(TEXTS) | WORDS | st.none()),
                      max_size=5), whole=st.booleans())
def test_flags(folder, problem, words, whole):
    (folder / "a").write_text("x")
    begin = [flag for name in ("data", "checkpoint-path", "config-path")
             for flag in (f"--{name}", str(folder / "a"))] if whole else []
    stderr = io.StringIO()
    with clean(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        try:
            own = [word for pair in words for word in pair if word is not None]
            cli_settings.parse_args(problem, begin + own, read_yaml)
        except SystemExit as error:
            message = stderr.getvalue()
            assert error.code == 2 and message.count("\n") == 1 and message.endswith("\n"), (error.code, message)
            assert len(message) < 8000
    (folder / "a").unlink()
