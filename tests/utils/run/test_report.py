"""The report: what it says, that it needs no network, that its volumes are those given, and that a browser draws it."""
import base64
import hashlib
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from utils.io.read import read_volume
from utils.io.volume import Volume
from utils.run import report
from utils.run.report import PAGE, pooled, to_nifti, write_report

PLACE = dict(spacing=(2.0, 3.0, 4.0), origin=(-10.0, 20.0, 5.0), direction=(1, 0, 0, 0, -1, 0, 0, 0, -1))
SETTINGS = {"task": "SVCT", "data": "<b>scan</b> & more", "nothing": None, "versions": {"torch": "2.15"}}
VIEW = {"psnr": 30.1234, "ssim": None}
METRICS = {name: {"psnr": psnr, "ssim": 0.5, "inter_slice_error": 0.00321, "sharpness": None,
                  "axial": VIEW, "coronal": VIEW, "sagittal": VIEW}
           for name, psnr in (("FBP-LV", 18.0), ("IR", None), ("recon", 27.25))}
ABOUT = {"date": "2026-11-26 00:40", "duration": "2 min 5 s", "command": "recon_CBCT.py --data '<i>'"}
SLICES = {name: {"psnr": [20.0, 21.0 + k, None, 24.0], "inter_slice_error": [0.01, 0.02, 0.03]}
          for k, name in enumerate(METRICS)}
HISTORY = [{"level": level, "sigma": 0.5 / 2 ** level, "residual": 0.1 / (level + 1)} for level in range(8)]


def a_set(shape=(12, 20, 16), names=("GT", "FBP-LV", "IR", "recon"), scale=200.0):
    """A block in the patient's left, front, upper corner, and noisy copies."""
    generator = np.random.default_rng(0)
    truth = np.full(shape, -1000.0, np.float32)
    truth[shape[0] // 2:, :shape[1] // 2, shape[2] // 2:] = 1200
    return {name: Volume(truth + (name != "GT") * scale * generator.standard_normal(shape, np.float32), **PLACE)
            for name in names}


def write(path, volumes=None, **changes):
    values = dict(title="A run of <script>alert(1)</script>", settings=SETTINGS, metrics=METRICS, history=HISTORY,
                  volumes=a_set() if volumes is None else volumes, window=(-1000.0, 1600.0),
                  modality="ct", about=ABOUT, slices=SLICES)
    write_report(path, **values | changes)
    return path.read_text(encoding="utf-8")


def data_of(text):
    return json.loads(re.search(r'id="report-data">(.*?)</script>', text, re.DOTALL)[1])


def test_it_says_what_was_run_and_how_good_it_is(tmp_path):
    text = write(tmp_path / "report.html")
    for part in ('<th scope="row">versions.torch</th><td>2.15</td>', "&lt;b&gt;scan&lt;/b&gt; &amp; more",
                 "<td>27.25</td>", "<td>30.12</td>", "<td>–</td>", "0.00321", "noise level sigma", "data residual",
                 "FDK of the views used", "PSNR (dB) ↑", "inter-slice error ↓", "lower is better",
                 "<dd>2 min 5 s</dd>", "&lt;i&gt;", "PSNR of each slice", "inter-slice error of each pair",
                 "Volumes are shown at full resolution."):
        assert part in text, part
    assert "<script>alert" not in text and "<b>scan" not in text
    assert text.count("<svg") == 2 and text.count("<img") == 1 and text.count("<tr") >= 4 + 5
    assert text.index('id="viewer"') < text.index("<table")     # pictures first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_it_loads_nothing(tmp_path):
    text = write(tmp_path / "report.html")
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text) == []
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_a_run_without_truth_metrics_or_history(tmp_path):
    text = write(tmp_path / "report.html", {"recon": a_set()["recon"]}, metrics={}, history=[], slices={})
    assert "no ground truth" in text and "Nothing was recorded" in text
    assert list(data_of(text)["volumes"]) == ["recon"]
    text = write(tmp_path / "report.html", {}, history=[{"level": 0, "residual": float("nan")}])
    assert "Nothing was recorded" in text
    text = write(tmp_path / "report.html", history=[{"level": 0, "residual": 0.25}])       # no sigma, one level
    assert "data residual" in text and "noise level sigma" not in text


@pytest.mark.parametrize("modality, unit", [("ct", 0.5), ("mr", None)])
def test_volumes_come_back_with_their_place(tmp_path, modality, unit):
    volumes = a_set(scale=0.5 if modality == "ct" else 300.0)
    data = data_of(write(tmp_path / "report.html", volumes, modality=modality))
    assert list(data["volumes"]) == list(volumes) and data["baseline"] == "FBP-LV"
    for name, volume in volumes.items():
        file = tmp_path / f"{name}.nii.gz"
        file.write_bytes(base64.b64decode(data["volumes"][name]))
        back = read_volume(file)
        step = unit or np.ptp(volume.array) / report.MR_LEVELS / 2
        assert np.abs(back.array - volume.array).max() <= step * 1.01 + 1e-3
        assert np.allclose(back.spacing, volume.spacing) and np.allclose(back.origin, volume.origin)
        assert np.allclose(back.direction, volume.direction)


def test_constant_mr_and_extreme_ct_values(tmp_path):
    for array, modality in ((np.full((2, 3, 4), 7.5), "mr"), (np.full((2, 3, 4), 1e6), "ct")):
        (tmp_path / "v.nii.gz").write_bytes(to_nifti(Volume(array.astype(np.float32)), modality))
        assert np.all(read_volume(tmp_path / "v.nii.gz").array == (7.5 if modality == "mr" else 32767))


def test_pooled_voxels_are_means_in_the_middle_of_theirs():
    volume = Volume(np.random.default_rng(1).random((5, 8, 6), dtype=np.float32), **PLACE)
    small = pooled(volume, (1, 4, 2))
    assert small.array.shape == (5, 2, 3) and small.spacing == (4.0, 12.0, 4.0)
    assert small.array[3, 1, 2] == pytest.approx(volume.array[3, 4:, 4:].mean())
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.spacing), image.SetOrigin(volume.origin), image.SetDirection(volume.direction)
    assert small.origin == pytest.approx(image.TransformContinuousIndexToPhysicalPoint((0.5, 1.5, 0.0)))
    assert pooled(volume, (2, 1, 1)).array.shape == (3, 8, 6)       # the fifth slice stays
    assert np.array_equal(pooled(volume, (2, 1, 1)).array[2], volume.array[4])


def test_large_volumes_are_averaged_and_the_page_says_so(tmp_path):
    noise = np.random.default_rng(0).normal(0, 300, (256, 256, 256)).astype(np.float32)
    text = write(tmp_path / "report.html", {name: Volume(noise) for name in ("GT", "FBP-LV", "FBP-FV", "IR", "recon")})
    assert (tmp_path / "report.html").stat().st_size < 15_000_000
    blocks = re.search(r"averages over blocks of (\d) × (\d) × (\d) voxels", text)
    assert blocks and len(set(blocks.groups())) == 1 and "of the 256 × 256 × 256 there" in text
    assert data_of(text)["counts"] == [-(-256 // int(blocks[1]))] * 3


def test_thick_slices_are_kept_apart():
    volumes = {"recon": Volume(np.random.default_rng(0).normal(0, 300, (20, 64, 64)).astype(np.float32), (1, 1, 5))}
    encoded, factors = report._fit(volumes, "ct", 20_000)
    assert factors[0] == 1 and factors[1] == factors[2] > 1 and len(encoded["recon"]) <= 20_000


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="accepted: ct, mr"):
        write(tmp_path / "report.html", modality="PET")
    with pytest.raises(ValueError, match="one grid"):
        write(tmp_path / "report.html", {**a_set(), "IR": Volume(np.zeros((2, 2, 2), np.float32))})
    assert list(tmp_path.iterdir()) == []


def test_niivue_is_the_file_that_was_published():
    assert hashlib.sha256((PAGE / "niivue.umd.js").read_bytes()).hexdigest() in (PAGE / "README.md").read_text()


# ---- In a browser ----------------------------------------------------------------------------------------------------

STATE = "document.documentElement.dataset.viewer"
READY = f"['none', 'loading'].includes({STATE}) ? '' : {STATE}"
PLACES = "report.panels.map(({nv}) => Array.from(nv.scene.crosshairPos, x => +x.toFixed(4)))"
# How many grey values a panel shows, and which are in the middles of the quarters of its upper half: drawn and read
# back at once, before the browser puts the picture on the screen and forgets it.
PIXELS = """report.panels.map(({nv, canvas}) => {
  nv.drawScene();
  const {width, height} = canvas, all = new Uint8Array(4 * width * height);
  nv.gl.readPixels(0, 0, width, height, nv.gl.RGBA, nv.gl.UNSIGNED_BYTE, all);
  return [new Set(all).size, ...[[1, 3], [3, 3], [1, 1], [3, 1]].map(([x, y]) =>
    all[4 * (Math.floor(y * height / 4) * width + Math.floor(x * width / 4))])];
})"""


def choose(browser, name, value):
    browser.run(f"{{ const s = document.getElementById('{name}'); s.value = [...s.options].findIndex(o => o.text === "
                f"'{value}'); s.dispatchEvent(new Event('change')); }}")


def test_a_browser_draws_it_and_all_panels_move_together(tmp_path, open_browser):
    write(tmp_path / "report.html")
    browser = open_browser()
    browser.open(tmp_path / "report.html")
    assert browser.wait_for(READY) == "ready"
    print("opened in", browser.run("document.documentElement.dataset.openedMs"), "ms")
    assert browser.run("report.panels.map(({name}) => name)") == ["GT", "FBP-LV", "recon", "error"]
    assert min(count for count, *_ in browser.run(PIXELS)) > 20
    assert browser.run("document.getElementById('window').textContent") == "full rangelungsoft tissuebone"
    assert browser.run("document.getElementById('window').selectedOptions[0].textContent") == "bone"

    # The block lies to the patient's left and, with y against LPS, in the back: lower right. The upper half of the
    # array is, with z against LPS, below.
    choose(browser, "planes", "axial")
    browser.run("{ const s = document.querySelectorAll('#sliders input')[0]; s.value = 2; "
                "s.dispatchEvent(new Event('input')); }")
    _, *corners = browser.run(PIXELS)[0]
    assert corners[3] > 150 and max(corners[:3]) < 20
    browser.run("{ const s = document.querySelectorAll('#sliders input')[0]; s.value = 9; "
                "s.dispatchEvent(new Event('input')); }")
    assert max(browser.run(PIXELS)[0][1:]) < 20

    # The wheel over one panel, and a click in another, move all.
    before = browser.run(PLACES)
    assert all(place == before[0] for place in before)
    box = browser.run("report.panels[1].canvas.scrollIntoView(), JSON.parse(JSON.stringify("
                      "report.panels[1].canvas.getBoundingClientRect()))")
    middle = dict(x=box["x"] + box["width"] * 0.3, y=box["y"] + box["height"] * 0.4)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=120, **middle)
    browser.wait_for(f"{PLACES}[0][2] !== {before[0][2]}")
    scrolled = browser.run(PLACES)
    assert all(place == scrolled[0] for place in scrolled)
    assert abs(scrolled[0][2] - before[0][2]) == pytest.approx(1 / 12, abs=0.01)
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **middle)
    browser.wait_for(f"{PLACES}[0][0] !== {scrolled[0][0]}")
    assert len({tuple(place) for place in browser.run(PLACES)}) == 1
    browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="PageUp", code="PageUp", windowsVirtualKeyCode=33)
    browser.wait_for(f"{PLACES}[3][2] > {scrolled[0][2]}")

    here = browser.run(PLACES)
    choose(browser, "baseline", "SIRT of the views used")
    browser.wait_for("report.panels[1].name === 'IR' && report.panels[1].caption.textContent.includes('SIRT')")
    assert browser.run(PLACES) == here
    blink, shown = "document.getElementById('blink').click()", "report.panels[2].caption.textContent.startsWith"
    browser.run(blink)
    browser.wait_for(f"{shown}('truth')")
    assert browser.run(PLACES) == here
    browser.run(blink)
    browser.wait_for(f"{shown}('reconstruction')")
    choose(browser, "window", "soft tissue")
    assert browser.run("report.panels.map(({nv}) => [nv.volumes[0].cal_min, nv.volumes[0].cal_max])") == [
        [-160, 240], [-160, 240], [-160, 240], [-100, 100]]
    truth, recon, error = (browser.run(f"report.panels[{panel}].nv.volumes[0].getValue(12, 4, 3)")
                           for panel in (0, 2, 3))
    assert error == recon - truth != 0
    assert browser.problems == [] and browser.run("report.problems") == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests), browser.requests


def test_without_truth_in_mr(tmp_path, open_browser):
    write(tmp_path / "report.html", a_set(names=("ATy", "recon")), modality="mr", window=(0, 1000))
    browser = open_browser()
    browser.open(tmp_path / "report.html")
    assert browser.wait_for(READY) == "ready"
    assert browser.run("report.panels.map(({name}) => name)") == ["ATy", "recon"]
    assert browser.run("document.getElementById('window').textContent") == "full range1st to 99th percentile"
    assert browser.problems == []


def test_without_webgl_the_tables_are_there(tmp_path, open_browser):
    write(tmp_path / "report.html")
    browser = open_browser("--disable-3d-apis")
    browser.open(tmp_path / "report.html")
    assert browser.wait_for(READY).startswith("failed: The viewer needs a browser with WebGL2")
    assert "needs a browser with WebGL2" in browser.run("document.body.innerText")
    assert "27.25" in browser.run("document.querySelector('.metrics').innerText")
    assert browser.problems == []
