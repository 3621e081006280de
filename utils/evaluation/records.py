"""What is known of the runs of an evaluation, in files that a kill at any time leaves whole."""
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from utils.io.files import complete_file
from utils.io.schema import read
from utils.io.yaml_file import short

LONGEST_NAME = 100      # characters of a folder's name before its key
METRICS = ("psnr", "ssim", "inter_slice_error", "sharpness")
VIEWS = ("axial", "coronal", "sagittal")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, or the mean of several."""
    state: Literal["running", "done", "failed"]
    name: str
    folder: str                         # below the evaluation's, which may therefore be moved
    command: tuple[str, ...] = ()
    program: str = ""                   # digest of its source code
    seconds: float | None = None
    peak_memory_gb: float | None = None
    result: str = "."                   # where its volumes are, below `folder`
    metrics: dict[str, dict] = field(default_factory=dict)      # as `utils.run.metrics.evaluate` gives them
    error: str = ""

    def __post_init__(self):
        for name, own in self.metrics.items():
            for block in (own, *(own.get(view, {}) for view in VIEWS)):
                for metric in METRICS:
                    if not isinstance(block, dict) or type(block.get(metric)) not in (int, float, NoneType):
                        raise ValueError(f"metrics of {short(name)}: {short(block)}; accepted: numbers by name")
        if self.state == "done" and not ("recon" in self.metrics and self.seconds is not None
                                         and self.peak_memory_gb is not None):
            raise ValueError("done, without metrics of recon, seconds or peak_memory_gb")

    @property
    def summary(self) -> str:
        """What came of it, in a few words."""
        if self.state == "failed":
            return f"failed: {self.error}"
        psnr = self.metrics["recon"].get("psnr")
        return (f"{'PSNR undefined' if psnr is None else f'{psnr:.2f} dB'}, {self.seconds:.0f} s, "
                f"{self.peak_memory_gb:.2f} GB")


class Records:
    """The record of every run and mean by its key: a JSON file each in ``output``/records, complete or not there.

    Raises:
        ValueError: In one line, for a file that is no record, or that names another folder than one in ``output``/runs
            or ``output``/means that is made for its key; nothing else is ever removed.
    """

    def __init__(self, output: Path):
        self.output = Path(os.path.realpath(output))
        self.read()

    def read(self) -> None:
        """Know what the files say now."""
        self.known: dict[str, Record] = {}
        for path in sorted((self.output / "records").glob("[!.]*.json")):
            try:
                record = read(Record, json.loads(path.read_text(encoding="utf-8")))
                self._own(record.folder, path.stem)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: not a record ({' '.join(str(error).split())}); remove it to do that run "
                                 "again") from None
            self.known[path.stem] = record

    def done(self, key: str) -> Record | None:
        """The record of a run that has a result."""
        record = self.known.get(key)
        return record if record and record.state == "done" else None

    def folder(self, key: str) -> Path:
        """Where the run writes."""
        return self._own(self.known[key].folder, key)

    def result(self, key: str) -> Path:
        """Where the volumes of a run are that is done."""
        return self.folder(key) / self.known[key].result

    def write(self, key: str, record: Record) -> None:
        """Keep a record."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        tree = {name: value for name, value in asdict(record).items() if value not in (None, "", (), {}, ".")}
        with complete_file(path) as partial:
            partial.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        self.known[key] = record

    def begin(self, key: str, record: Record) -> Path:
        """Keep the record of a run or mean that begins; returns its folder, new and empty."""
        self.discard(key)
        folder = self._own(record.folder, key)
        self.write(key, record)
        if folder.exists():     # of a record that somebody removed
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def discard(self, key: str) -> None:
        """Forget a run and remove its folder."""
        if key in self.known:
            folder = self.folder(key)
            if folder.exists():
                shutil.rmtree(folder)
            self._path(key).unlink(missing_ok=True)
            del self.known[key]

    def tidy(self) -> None:
        """Remove what an evaluation that was killed left half done."""
        for key in [key for key, record in self.known.items() if record.state == "running"]:
            self.discard(key)
        for path in [*self.output.glob(".partial-*"), *self.output.glob("records/.partial-*")]:
            if os.path.realpath(path.parent) == str(path.parent):
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.output / "records" / f"{key}.json"

    def _own(self, folder: str, key: str) -> Path:
        """The folder of the run or mean of this key; no other, and none that a link leads to."""
        path = self.output / folder
        if not re.fullmatch(rf"(runs|means)/[\w.-]+-{re.escape(key)}", folder) or os.path.realpath(path) != str(path):
            raise ValueError(f"folder: {short(folder)}; accepted: the one that is made for it in {self.output}/runs")
        return path


def folder_name(place: str, what: Any, key: str) -> str:
    """Where a run ("runs") or mean ("means") of this key belongs, below an evaluation's folder."""
    return f"{place}/{re.sub(r'[^a-zA-Z0-9_.-]+', '_', str(what))[:LONGEST_NAME]}-{key}"
