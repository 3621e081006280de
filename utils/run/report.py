"""The report of a run: one HTML file with a viewer of the volumes, metrics, charts and settings."""
import base64
import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import nibabel
import numpy as np

from utils.io.files import complete_file
from utils.io.volume import Volume
from utils.run import charts
from utils.run.views import VIEWS, patient_axes
from utils.run.words import METRICS, name_of

PAGE = Path(__file__).with_name("report_page")
MAX_BYTES = 15_000_000           # of the page
PRESETS = {"ct": {"lung": (-1350, 150), "soft tissue": (-160, 240), "bone": (-500, 1300)}, "mr": {}}
STEPS = ("The absolute step of the values from each slice of the prior to the next, dark for none. Steps that the "
         "truth does not have are jumps between slices.")
SPREAD = ("Standard deviation of the samples, dark for none: what measurement and prior leave open. Where it is small "
          "the samples agree, which does not mean that they are right: a prior that does not fit is wrong in all.")
ARROWS = {"higher is better": "↑", "lower is better": "↓", "1 is best": "(best: 1)"}
MR_LEVELS = 4095                 # grey levels of MR: more are noise that does not compress


def write_report(path: str | Path, *, title: str, about: dict[str, str], settings: dict, metrics: dict,
                 slices: dict[str, dict], history: list[dict], volumes: dict[str, Volume],
                 window: tuple[float, float], modality: str, slice_axis: int = 0, spread: Volume | None = None,
                 interval: Volume | None = None, calibrated_on: str = "",
                 more: Sequence[tuple[str, str, str]] = ()) -> None:
    """Write the report of a run to ``path``; the file needs nothing but a browser, and no network.

    Volumes too large for `MAX_BYTES` are averaged over whole numbers of voxels, and the page says so.

    Args:
        path: where the page goes.
        title: names the run.
        about: what stands below the title, such as date and command, by name.
        settings: the content of args.yaml.
        metrics: the content of metrics.json.
        slices: of each volume in ``metrics``, what `utils.run.metrics.by_slice` gives.
        history: a dict for every noise level, with 'level' and maybe 'residual' (|Ax - y| / |y|) and 'sigma'.
        volumes: volumes of one grid in the input's units: "GT", "recon" and any baselines; "GT" may be absent.
        window: (low, high), the intensities that 0 and 1 stand for.
        modality: "ct" (HU, to which values are rounded) or "mr" (rounded to `MR_LEVELS` levels).
        slice_axis: the axis of the arrays that the prior's slices are stacked along.
        spread: standard deviation of several samples, whose mean is "recon", in the input's units.
        interval: half the width of the 90 % interval about that mean, where it is calibrated.
        calibrated_on: what its calibration was measured on.
        more: sections: title, drawing and note, in HTML.

    Raises:
        ValueError: another modality, or volumes of more than one grid.
    """
    if modality not in PRESETS:
        raise ValueError(f"modality {modality!r}; accepted: {', '.join(PRESETS)}")
    if len({volume.array.shape for volume in volumes.values()}) > 1:
        raise ValueError("volumes of different shapes; accepted: one grid")
    page = Template((PAGE / "page.html").read_text(encoding="utf-8"))
    compared: dict[str, Volume] = {name: volumes[name] for name in ("GT", "IR", "ATy", "recon") if name in volumes}
    fields = {"title": escape(title), "about": _about(about), "settings": _settings_table(settings),
              "metrics": _metrics_table(metrics), "explained": _explained(metrics),
              "slices": _chart("Slice by slice", charts.by_slice(slices)),
              "more": "".join(_chart(*section) for section in more),
              "jumps": _chart("Steps from slice to slice", charts.jumps(compared, slice_axis), STEPS),
              "spread": _chart("Where samples differ", charts.spread(spread, interval, compared) if spread else "",
                                SPREAD + _interval_note(interval, calibrated_on, metrics)),
              "plot": _chart("Convergence", charts.convergence(history) or '<p class="note">Nothing was recorded.</p>'),
              "viewer": (PAGE / "viewer.js").read_text(encoding="utf-8"),
              "niivue": base64.b64encode(gzip.compress((PAGE / "niivue.umd.js").read_bytes(), mtime=0)).decode()}
    room = MAX_BYTES - sum(len(text.encode(errors="replace")) for text in fields.values()) - 50_000
    encoded, factors = _fit(volumes, modality, room)
    data = {"volumes": encoded, "names": {name: name_of(name) for name in encoded},
            **_presets(volumes, window, modality), **_viewer_settings(volumes, factors),
            "unit": "HU" if modality == "ct" else ""}
    text = page.substitute(fields, data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
                           note=_size_note(volumes, factors))
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


# ---- Text ------------------------------------------------------------------------------------------------------------

def _about(about: dict[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in about.items())


def _chart(title: str, drawing: str, note: str = "") -> str:
    """A section of the page, or nothing where there is no drawing."""
    if not drawing:
        return ""
    return f'<h2>{title}</h2>{f"<p class=note>{note}</p>" if note else ""}<div class="wide">{drawing}</div>'


def _flat(settings: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings_table(settings: dict) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
                   for key, value in _flat(settings))
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def _metrics_table(metrics: dict) -> str:
    """One row a volume; PSNR and SSIM of the volume and of each view."""
    if not metrics:
        return '<p class="note">There is no ground truth to compare with.</p>'
    head = "".join(f'<th colspan="2" scope="colgroup">{view}</th>' for view in ("volume", *VIEWS))
    pairs = (_metric_head("psnr") + _metric_head("ssim")) * 4
    rows = []
    for name, metric in metrics.items():
        cells = [(block.get(key), digits) for block in (metric, *(metric.get(view) or {} for view in VIEWS))
                 for key, digits in (("psnr", 2), ("ssim", 4))]
        cells += [(metric.get("inter_slice_error"), 5), (metric.get("sharpness"), 3)]
        known = [value is not None and math.isfinite(value) for value, _ in cells]
        numbers = "".join(f"<td>{value:.{digits}f}</td>" if there else "<td>–</td>"
                          for there, (value, digits) in zip(known, cells))
        mark = ' class="result"' if name == "recon" else ""
        rows.append(f'<tr{mark}><th scope="row">{escape(name_of(name))} <small>{escape(name)}</small></th>'
                    f'{numbers}</tr>')
    ends = "".join(_metric_head(key, ' rowspan="2"') for key in ("inter_slice_error", "sharpness"))
    return (f'<table class="metrics"><thead><tr><td rowspan="2"></td>{head}{ends}</tr><tr>{pairs}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table>')


def _metric_head(key: str, span: str = "") -> str:
    name, better, explanation = METRICS[key]
    return f'<th{span} scope="col" title="{better}; {explanation}">{name} {ARROWS[better]}</th>'


def _explained(metrics: dict) -> str:
    return "<p class=note>" + ". ".join(f"{name} ({better}): {explanation}" for name, better, explanation
                                        in METRICS.values()) + ".</p>" if metrics else ""


def _interval_note(interval: Volume | None, calibrated_on: str, metrics: dict) -> str:
    """What the interval is, and what it covers here; or that there is none."""
    if interval is None:
        return " It is no interval: of runs with these settings the errors were not measured."
    covered = ", ".join(f"{100 * part:.1f} % of the {where}" for where, part
                        in metrics.get("recon", {}).get("coverage", {}).items() if part is not None)
    return (" The 90 % interval, the reconstruction plus or minus interval.nii.gz, was calibrated "
            f"{escape(calibrated_on)}."
            + f" Here it holds the truth of {covered}." * bool(covered))


def _size_note(volumes: dict, factors: tuple) -> str:
    if factors == (1, 1, 1):
        return "Volumes are shown at full resolution."
    shape = next(iter(volumes.values())).array.shape
    return ("To keep this page small, the volumes shown are averages over blocks of "
            f"{' × '.join(map(str, factors[::-1]))} voxels (x, y, z) of the {' × '.join(map(str, shape[::-1]))} there "
            "are. The files of the run and the metrics are at full resolution.")


# ---- Volumes ---------------------------------------------------------------------------------------------------------

def _fit(volumes: dict, modality: str, room: int) -> tuple[dict, tuple]:
    """The volumes as base64 text of ``room`` bytes in all, and the pooling factors (z, y, x) that this took."""
    factors = np.ones(3, int)
    while volumes:
        shape, spacing = _shape_and_spacing(volumes)
        if len(volumes) * np.prod(-(-shape // factors)) * 2 < 4 * room:         # hopeless ones are not tried
            encoded, left = {}, room
            for name, volume in volumes.items():
                encoded[name] = base64.b64encode(to_nifti(pooled(volume, tuple(factors)), modality)).decode()
                left -= len(encoded[name]) + len(name) + 10
                if left < 0:
                    break
            else:
                return encoded, tuple(map(int, factors))
        step = spacing * factors                    # coarsen where voxels are finest, and whatever is about as fine
        factors = factors + (step <= 1.25 * step.min())
    return {}, (1, 1, 1)


def _shape_and_spacing(volumes: dict) -> tuple[np.ndarray, np.ndarray]:
    """Of the first volume, in the order z, y, x."""
    first = next(iter(volumes.values()))
    return np.array(first.array.shape), np.array(first.spacing[::-1])


def pooled(volume: Volume, factors: tuple) -> Volume:
    """Means over blocks of ``factors`` (z, y, x) voxels; the last block repeats the edge where it is incomplete."""
    if factors == (1, 1, 1):
        return volume
    array = np.pad(volume.array, [(0, -size % factor) for size, factor in zip(volume.array.shape, factors)], "edge")
    for axis, factor in enumerate(factors):
        blocks = array.reshape(*array.shape[:axis], array.shape[axis] // factor, factor, *array.shape[axis + 1:])
        array = blocks.mean(axis + 1, dtype=np.float32)
    steps = np.array(factors[::-1])
    axes = np.reshape(volume.direction, (3, 3)) * np.asarray(volume.spacing)
    origin = np.asarray(volume.origin) + axes @ ((steps - 1) / 2)
    return replace(volume, array=array, origin=tuple(map(float, origin)),
                   spacing=tuple(map(float, volume.spacing * steps)))


def to_nifti(volume: Volume, modality: str) -> bytes:
    """A gzipped NIfTI-1 file of int16: HU for CT, `MR_LEVELS` steps between the extremes for MR."""
    array = np.nan_to_num(volume.array)
    slope, offset = 1.0, 0.0
    if modality == "mr":
        offset = float(array.min())
        slope = float(np.float32((float(array.max()) - offset) / MR_LEVELS)) or 1.0
    stored = np.clip(np.rint((array - np.float32(offset)) / np.float32(slope)), -32768, 32767).astype("<i2")
    # NIfTI's axes run to the patient's right, front and head: those of LPS with x and y turned.
    affine = np.eye(4)
    affine[:3] = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack(
        [np.reshape(volume.direction, (3, 3)) * np.asarray(volume.spacing), volume.origin])
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.int16)
    header.set_data_shape(stored.shape[::-1])
    header.set_zooms(volume.spacing)
    header.set_xyzt_units("mm")
    header.set_sform(affine, "scanner")
    header.set_slope_inter(slope, offset)
    header["magic"], header["vox_offset"] = b"n+1", 352         # header and voxels in one file
    return gzip.compress(header.binaryblock + bytes(4) + stored.tobytes(), compresslevel=6, mtime=0)


def _presets(volumes: dict, window: tuple, modality: str) -> dict:
    """Names and limits of the windows to choose from, and the one first shown, which fits what is there.

    CT: lung where a twentieth of the voxels are, bone where a fifth of what is no air is, else soft tissue. MR: from
    the 1st to the 99th percentile.
    """
    ranges, first = {"full range": window, **PRESETS[modality]}, "full range"
    if volumes:
        array = volumes.get("GT", volumes.get("recon", next(iter(volumes.values())))).array.ravel()
        sample = array[::max(1, array.size // 1_000_000)]
        low, high = np.quantile(sample, (0.01, 0.99))
        if modality == "mr" and high > low:
            ranges[first := "1st to 99th percentile"] = (low, high)
        elif modality == "ct":
            lung, tissue = ((sample > -950) & (sample < -600)).mean(), sample > -500
            bone = (sample > 300).sum() / max(1, tissue.sum())
            first = "lung" if lung > 0.05 else "bone" if bone > 0.2 else "soft tissue"
    return {"presets": [{"name": name, "low": float(low), "high": float(high)} for name, (low, high) in ranges.items()],
            "first": first}


def _viewer_settings(volumes: dict, factors: tuple) -> dict:
    """The first baseline shown, and the slices and mm there are to the patient's left, back and head."""
    names = [name for name in volumes if name not in ("GT", "recon")]
    baseline = next((name for name in ("FBP-LV", "ATy", "FBP-FV") if name in names), names[0] if names else "")
    if not volumes:
        return {"baseline": "", "counts": [1, 1, 1], "extent": [1, 1, 1]}
    shape, spacing = _shape_and_spacing(volumes)
    order = list(patient_axes(next(iter(volumes.values())).direction)[0][::-1])      # axes of the array, of L, P, S
    counts = -(-shape // np.array(factors))
    return {"baseline": baseline, "counts": [int(n) for n in counts[order]],
            "extent": [float(mm) for mm in (shape * spacing)[order]]}
