"""A grid of runs of a small script that answers like an entry point."""
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

import evaluate

ENTRY = '''
import json, os, shutil, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
seed, name = int(flags["--seed"]), " ".join(flags.get(f"--{key}", "") for key in ("task", "noise-control", "seed"))
def log(word):
    with open(os.path.join(os.path.dirname(__file__), "log.txt"), "a") as file:
        file.write(f"{word} {name} {os.getpid()}\\n")
log("begin")
folder = os.path.join(flags["--output-dir"], "demo", "time")
os.makedirs(folder)
time.sleep(float(flags.get("--sleep", 0)))
while os.path.exists(os.path.join(os.path.dirname(__file__), f"hold {name}")):
    time.sleep(0.01)
if "--prepared" in flags:
    shutil.copytree(os.path.join(flags["--prepared"], str(seed)), folder, dirs_exist_ok=True)
else:
    if os.path.exists(flags.get("--fail-if", "")) and seed == 2:
        sys.exit("warning\\nentry.py: error: no luck")
    block = "x" * int(float(flags.get("--memory", 0)))
    view = {"psnr": 1.0, "ssim": None}
    level = float(flags.get("--level", 0))
    def metrics(psnr):
        return {"psnr": psnr, "ssim": psnr / 100, "inter_slice_error": 1 / psnr, "sharpness": 2 / psnr, "axial": view,
                "coronal": view, "sagittal": {"psnr": 2 * psnr, "ssim": None}}
    with open(os.path.join(folder, "metrics.json"), "w") as file:
        json.dump({"FBP-LV": metrics(10.0), "IR": metrics(20.0 + seed), "recon": metrics(level + seed**2)}, file)
    open(os.path.join(folder, "recon.nii.gz"), "w").close()
    open(os.path.join(folder, "IR.nii.gz"), "w").close()
log("end")
print("level 3 of 3")
print(folder)
'''


class Study:
    """A grid of fake runs in a folder, and what was called."""

    def __init__(self, folder: Path):
        self.folder, self.output, self.log = folder, folder / "output", folder / "log.txt"
        (folder / "entry.py").write_text(ENTRY)
        (folder / "scan.nii.gz").write_text("voxels")
        self.tree = {
            "seeds": [1, 2, 4], "flags": {"level": 20}, "modalities": {"CT": {"entry": str(folder / "entry.py")}},
            "volumes": {"chest": {"modality": "CT", "path": str(folder / "scan.nii.gz"), "size": 32}},
            "tasks": {"SVCT-20": {"task": "SVCT", "degree": 20}},
            "variants": {"independent": {"baseline": True, "flags": {"noise-control": "None"}},
                         "ISCS": {"flags": {"noise-control": "SLERP", "level": 30.5}}}}

    def grid(self) -> str:
        (self.folder / "grid.yaml").write_text(yaml.safe_dump(self.tree, sort_keys=False))
        return str(self.folder / "grid.yaml")

    def arguments(self, *flags) -> list[str]:
        return [self.grid(), "--output", str(self.output), *map(str, flags)]

    def run(self, *flags) -> int:
        return evaluate.main(self.arguments(*flags))

    def start(self, *flags) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, evaluate.__file__, *self.arguments(*flags)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def calls(self, word: str) -> list[str]:
        """Task, noise control and seed of the runs that began, or came to their end."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split(" ", 1)[1].rsplit(" ", 1)[0] for line in lines if line.startswith(f"{word} ")]

    def hold(self, *calls: str) -> None:
        """Keep these runs from ending, until `release`."""
        for call in calls:
            (self.folder / f"hold {call}").touch()

    def release(self) -> None:
        for path in self.folder.glob("hold *"):
            path.unlink()

    def wait(self, *calls: str) -> None:
        """Until these runs have begun."""
        patience = time.monotonic() + 60
        while not set(calls) <= set(self.calls("begin")):
            assert time.monotonic() < patience
            time.sleep(0.01)

    def rows(self) -> dict:
        return {row["row"]: row for row in json.loads((self.output / "results.json").read_text())["rows"]}

    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.output / "runs").iterdir())
