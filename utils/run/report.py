"""The report of a run: one HTML file with settings, metrics, convergence and a viewer of the volumes."""
import base64
import gzip
import json
import math
import struct
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from utils.io.files import complete_file
from utils.io.volume import Volume

PAGE = Path(__file__).with_name("report_page")
MAX_BYTES = 15_000_000           # of the page
PRESETS = {"CT": {"lung": (-1350, 150), "soft tissue": (-160, 240), "bone": (-500, 1300)}, "MR": {}}
MR_LEVELS = 4095                 # grey levels of MR: more are noise that does not compress


def write_report(path: str | Path, *, title: str, settings: dict, metrics: dict, history: list[dict],
                 volumes: dict[str, Volume], window: tuple[float, float], modality: str) -> None:
    """Write the report of a run to ``path``; the file needs nothing but a browser, and no network.

    ``metrics`` is the content of metrics.json, ``history`` has a dict with 'level' and 'residual' (|Ax - y| / |y|)
    and maybe 'sigma' for every noise level. ``volumes`` maps names to volumes of one grid in the input's units: "GT",
    "recon" and any baselines, of which "GT" may be absent. ``window`` = (low, high) are the grey values first shown;
    ``modality`` is "CT" (HU, to which values are rounded) or "MR" (rounded to `MR_LEVELS` levels). Volumes too large
    for `MAX_BYTES` are averaged over whole numbers of voxels, and the page says so.
    """
    if modality not in PRESETS:
        raise ValueError(f"modality {modality!r}; accepted: {', '.join(PRESETS)}")
    if len({volume.array.shape for volume in volumes.values()}) > 1:
        raise ValueError("volumes of different shapes; accepted: one grid")
    page = Template((PAGE / "page.html").read_text(encoding="utf-8"))
    fields = {"title": escape(title), "settings": _settings_table(settings), "metrics": _metrics_table(metrics),
              "plot": _convergence_plot(history), "viewer": (PAGE / "viewer.js").read_text(encoding="utf-8"),
              "niivue": base64.b64encode(gzip.compress((PAGE / "niivue.umd.js").read_bytes(), mtime=0)).decode()}
    room = MAX_BYTES - sum(len(text.encode()) for text in fields.values()) - 50_000
    encoded, factors = _fit(volumes, modality, room)
    data = {"volumes": encoded, "presets": _presets(volumes, window, modality), **_viewer_settings(volumes, factors),
            "unit": "HU" if modality == "CT" else ""}
    text = page.substitute(fields, data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
                           note=_size_note(volumes, factors))
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


# ---- Text ------------------------------------------------------------------------------------------------------------

def _flat(settings: dict, prefix: str = ""):
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
    views = ("axial", "coronal", "sagittal")
    head = "".join(f'<th colspan="2" scope="colgroup">{view}</th>' for view in ("volume", *views))
    pairs = '<th scope="col">PSNR (dB)</th><th scope="col">SSIM</th>' * 4
    rows = []
    for name, metric in metrics.items():
        cells = [(block.get(key), digits) for block in (metric, *(metric.get(view) or {} for view in views))
                 for key, digits in (("psnr", 2), ("ssim", 4))]
        cells += [(metric.get("inter_slice_error"), 5), (metric.get("sharpness"), 3)]
        known = [value is not None and math.isfinite(value) for value, _ in cells]
        numbers = "".join(f"<td>{value:.{digits}f}</td>" if there else "<td>–</td>"
                          for there, (value, digits) in zip(known, cells))
        mark = ' class="result"' if name == "recon" else ""
        rows.append(f'<tr{mark}><th scope="row">{escape(str(name))}</th>{numbers}</tr>')
    return (f'<table class="metrics"><thead><tr><td rowspan="2"></td>{head}<th rowspan="2" scope="col">inter-slice '
            f'error</th><th rowspan="2" scope="col">sharpness</th></tr><tr>{pairs}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table>')


def _convergence_plot(history: list[dict]) -> str:
    """Data residual and sigma over the levels as an SVG with a logarithmic axis."""
    series = {key: [(step["level"] + 1, float(step[key])) for step in history
                    if step.get(key) is not None and math.isfinite(step[key]) and step[key] > 0]
              for key in ("residual", "sigma")}
    points = [point for line in series.values() for point in line]
    if not points:
        return '<p class="note">Nothing was recorded.</p>'
    first, last = min(level for level, _ in points), max(level for level, _ in points)
    low = math.floor(min(math.log10(value) for _, value in points))
    high = max(low + 1, math.ceil(max(math.log10(value) for _, value in points)))
    left, right, top, bottom = 60, 620, 12, 228

    def x(level):
        return left + (right - left) * ((level - first) / (last - first) if last > first else 0.5)

    def y(value):
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    parts = []
    for power in range(low, high + 1, math.ceil((high - low) / 8)):
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(10.0 ** power):.1f}" y2="{y(10.0 ** power):.1f}" '
                     f'stroke="currentColor" opacity="0.15"/><text x="{left - 8}" y="{y(10.0 ** power) + 4:.1f}" '
                     f'text-anchor="end">{10.0 ** power:g}</text>')
    for level in sorted({round(first + (last - first) * part / 5) for part in range(6)}):
        parts.append(f'<text x="{x(level):.1f}" y="{bottom + 18}" text-anchor="middle">{level}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">noise level</text>')
    labels = {"residual": ("one", "data residual |Ax − y| / |y|"), "sigma": ("two", "sigma")}
    for row, (key, line) in enumerate((key, line) for key, line in series.items() if line):
        style, label = labels[key]
        dash = ' stroke-dasharray="6 4"' if key == "sigma" else ""
        parts.append(f'<polyline class="{style}"{dash} points="'
                     + " ".join(f"{x(level):.1f},{y(value):.1f}" for level, value in line) + '"/>')
        if len(line) <= 100:
            parts += [f'<circle class="{style}" cx="{x(level):.1f}" cy="{y(value):.1f}" r="3"><title>level {level}: '
                      f'{label} {value:.4g}</title></circle>' for level, value in line]
        parts.append(f'<line class="{style}"{dash} stroke-width="2" x1="{right + 16}" x2="{right + 44}" '
                     f'y1="{24 + 22 * row}" y2="{24 + 22 * row}"/>'
                     f'<text x="{right + 50}" y="{28 + 22 * row}">{label}</text>')
    return ('<svg width="860" height="275" viewBox="0 0 860 275" role="img" aria-label="Data residual and sigma of '
            f'every noise level, logarithmic">{"".join(parts)}</svg>')


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
    if modality == "MR":
        offset = float(array.min())
        slope = float(np.float32((float(array.max()) - offset) / MR_LEVELS)) or 1.0
    stored = np.clip(np.rint((array - np.float32(offset)) / np.float32(slope)), -32768, 32767).astype("<i2")
    # NIfTI's axes run to the patient's right, front and head: those of LPS with x and y turned.
    affine = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack(
        [np.reshape(volume.direction, (3, 3)) * np.asarray(volume.spacing), volume.origin])
    depth, height, width = array.shape
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, width, height, depth, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)                                  # int16
    struct.pack_into("<8f", header, 76, 1, *volume.spacing, 0, 0, 0, 0)
    struct.pack_into("<fff", header, 108, 352, slope, offset)
    header[123] = 2                                                             # mm
    struct.pack_into("<hh", header, 252, 0, 1)                                  # sform: scanner coordinates
    struct.pack_into("<12f", header, 280, *affine.ravel())
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + stored.tobytes(), compresslevel=6, mtime=0)


def _presets(volumes: dict, window: tuple, modality: str) -> list[dict]:
    """Names and limits of the windows to choose from."""
    ranges = {"full range": window, **PRESETS[modality]}
    if modality == "MR" and volumes:
        sample = volumes.get("GT", volumes.get("recon", next(iter(volumes.values())))).array.ravel()
        low, high = np.quantile(sample[::max(1, sample.size // 1_000_000)], (0.005, 0.995))
        if high > low:
            ranges["auto"] = (low, high)
    return [{"name": name, "low": float(low), "high": float(high)} for name, (low, high) in ranges.items()]


def _viewer_settings(volumes: dict, factors: tuple) -> dict:
    """The first baseline shown, and the slices and mm there are to the patient's left, back and head."""
    names = [name for name in volumes if name not in ("GT", "recon")]
    baseline = next((name for name in ("FBP-LV", "ATy", "FBP-FV") if name in names), names[0] if names else "")
    if not volumes:
        return {"baseline": "", "counts": [1, 1, 1], "extent": [1, 1, 1]}
    shape, spacing = _shape_and_spacing(volumes)
    direction = np.abs(np.reshape(next(iter(volumes.values())).direction, (3, 3)))
    order = direction.argmax(1)                     # of the axes x, y, z, the one along each of the patient's
    counts = -(-shape // np.array(factors))
    return {"baseline": baseline, "counts": [int(n) for n in counts[::-1][order]],
            "extent": [float(mm) for mm in (shape * spacing)[::-1][order]]}
