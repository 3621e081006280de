"""What a grid may say, and the one line for what it may not."""
import shutil
from pathlib import Path

import pytest
import yaml

import evaluate
from tests.study import Study
from utils.cli import settings
from utils.evaluation.grid import read_grid
from utils.io.files import ROOT


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_sweeps_restrictions_and_the_order_of_flags(study):
    tree = study.tree
    tree["modalities"]["CT"]["flags"] = {"level": 21, "batch-size": 4}
    tree["volumes"]["chest"]["slices"] = [2, 9]
    tree["volumes"]["trunk"] = {"modality": "CT", "path": str(study.folder / "scan.nii.gz"), "flags": {"level": 22}}
    tree["tasks"]["LACT-90"] = {"task": "LACT", "flags": {"level": 23}, "volumes": ["trunk"]}
    tree["variants"] = {
        "all": {"baseline": True, "samples": 3}, "off": {"flags": {"batch-size": None, "yes": True}, "seeds": [7]},
        "a": {"sweep": {"NFE": [5, 10]}, "tasks": ["LACT-90"]},
        "b": {"sweep": {"NFE": [5, 10]}, "tasks": ["LACT-90"], "against": "a"},
        "c": {"volumes": ["chest"], "against": "off", "flags": {"level": 1}}}
    cells = {str(cell): cell for cell in read_grid(study.grid(), study.folder).cells}
    assert list(cells) == [
        "chest, SVCT-20, all", "chest, SVCT-20, off", "chest, SVCT-20, c", "trunk, SVCT-20, all",
        "trunk, SVCT-20, off", "trunk, LACT-90, all", "trunk, LACT-90, off",
        *(f"trunk, LACT-90, {name}, NFE {nfe}" for name in "ab" for nfe in (5, 10))]
    assert [cell.flags["level"] for cell in cells.values()] == ["21", "21", "1", "22", "22"] + ["23"] * 6
    assert cells["chest, SVCT-20, c"].flags == {
        "data": str(study.folder / "scan.nii.gz"), "level": "1", "batch-size": "4", "task": "SVCT", "degree": "20",
        "recon-size": "32", "slice-begin": "2", "slice-end": "9"}
    off = cells["trunk, LACT-90, off"]
    assert off.seeds == (7,) and off.flags["yes"] == "true" and not {"batch-size", "degree"} & off.flags.keys()
    assert cells["trunk, LACT-90, all"].sample_seeds() == (1, 2, 4) and off.sample_seeds() == ()
    assert [cells[f"trunk, LACT-90, b, NFE {n}"].against for n in (5, 10)] == ["a, NFE 5", "a, NFE 10"]
    assert cells["trunk, LACT-90, a, NFE 5"].against == "all" and cells["trunk, LACT-90, all"].against is None


def test_measurements_whose_noise_the_seed_draws_are_not_averaged(study):
    study.tree["tasks"]["noisy"] = {"task": "SVCT", "flags": {"sino-noise": 1e5}}
    study.tree["variants"]["ISCS"]["samples"] = 3
    cells = {cell.task: cell for cell in read_grid(study.grid(), study.folder).cells if cell.variant == "ISCS"}
    assert cells["SVCT-20"].sample_seeds() == (1, 2, 4) and cells["noisy"].sample_seeds() == ()


def test_paths_from_the_repository_and_the_environment(study, monkeypatch):
    monkeypatch.setenv("SCANS", str(study.folder))
    study.tree["volumes"]["chest"]["path"] = "${SCANS}/scan.nii.gz"
    assert read_grid(study.grid(), Path("/")).cells[0].flags["data"] == str(study.folder / "scan.nii.gz")
    study.tree["volumes"]["chest"]["path"] = "scan.nii.gz"
    assert read_grid(study.grid(), study.folder).cells[0].flags["data"] == str(study.folder / "scan.nii.gz")


def test_a_run_counts_as_long_as_what_its_preset_sets_stays(study, tmp_path, monkeypatch):
    study.tree["modalities"] = study.tree["flags"] = {}
    study.tree["variants"] = {"fine": {"flags": {"preset": "best"}}}
    presets = Path(shutil.copytree(settings.PRESETS, tmp_path / "presets"))
    monkeypatch.setattr(settings, "PRESETS", presets)

    def changed(file, old, new):
        before = read_grid(study.grid(), ROOT).cells[0].key(1)
        text = (presets / file).read_text()
        assert old in text
        (presets / file).write_text(text.replace(old, new))
        return read_grid(study.grid(), ROOT).cells[0].key(1) != before

    assert changed("best.yaml", "NFE: 50", "NFE: 60")
    assert changed("fast.yaml", "num-cg: 10 ", "num-cg: 11 ")       # best is like it
    assert not changed("best.yaml", "NFE: 40", "NFE: 41")           # of MR
    assert not changed("fast.yaml", "# noise levels", "# a remark")
    study.tree["variants"]["fine"]["flags"]["preset"] = "bets"
    with pytest.raises(ValueError, match="--preset: 'bets'; .*did you mean best"):
        read_grid(study.grid(), ROOT)


def change(*keys, to):
    def apply(tree):
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to
    return apply


@pytest.mark.parametrize("spoil, reason", [
    (change("volume", to={}), "grid.yaml: volume: unknown key; the nearest is volumes"),
    (change("seeds", to=[1, 1]), "seeds: [1, 1]; accepted: a list of different whole numbers"),
    (change("seeds", to=[-1]), "seeds: [-1]"), (change("seeds", to=3), "seeds: 3"),
    (lambda tree: tree.pop("tasks"), "tasks: missing"), (change("variants", to={}), "variants: {}"),
    (change("volumes", "chest", "modality", to="PET"), "volumes.chest.modality: 'PET'; accepted: CT or MR"),
    (change("volumes", "chest", "slices", to=[1]),
     "volumes.chest.slices: [1]; accepted: [begin, end], whole numbers with begin below end"),
    (change("volumes", "chest", "path", to="no.nii.gz"), "no.nii.gz: no such file"),
    (change("volumes", "chest", "path", to="${UNSET_DATA}/a.nii"), "the environment variable UNSET_DATA is not set"),
    (change("volumes", "chest", "path", to="$(x)"), "accepted are variables as ${NAME}"),
    (change("volumes", "head", to={"modality": "MR", "path": "a", "size": 3}), "volumes.head.size: it is for CT"),
    (change("volumes", "head", to={"modality": "MR", "path": "a"}), "volumes.head: nothing to run"),
    (change("volumes", 3, to={"modality": "MR", "path": "a"}), "volumes: the name 3; accepted: a text"),
    (change("tasks", "SVCT-20", "task", to="CT"), "tasks.SVCT-20.task: 'CT'; accepted: LACT or SVCT or ZSR"),
    (change("tasks", "SVCT-20", "volumes", to=["x"]), "tasks.SVCT-20.volumes: 'x'; accepted: chest"),
    (change("variants", "ISCS", "tasks", to=["SVCT-30"]), "variants.ISCS.tasks: 'SVCT-30'; the nearest is SVCT-20"),
    (change("variants", "ISCS", "flag", to={}), "variants.ISCS.flag: unknown key; the nearest is flags"),
    (change("variants", "ISCS", to=None), "variants.ISCS: None; accepted: a section"),
    (change("variants", "ISCS", "samples", to=0), "variants.ISCS.samples: 0; accepted: a whole number of 1 or more"),
    (change("variants", "ISCS", "baseline", to=True), "independent and ISCS are both baseline"),
    (change("variants", "ISCS", "against", to="x"), "variants.ISCS.against: 'x'; accepted: independent, ISCS"),
    (change("variants", "ISCS", "modality", to="MR"), "variants.ISCS: nothing to run"),
    (change("variants", "ISCS", "sweep", to={"NFE": 3}),
     "variants.ISCS.sweep.NFE: 3; accepted: a list of different values"),
    (change("variants", "ISCS", "flags", to={"--NFE": 3}),
     "variants.ISCS.flags.--NFE: unknown flag; the nearest is NFE"),
    (change("variants", "ISCS", "flags", to={"NFE": [3]}), "variants.ISCS.flags.NFE: [3]"),
    (change("variants", "ISCS", "flags", to={"series": "1.2"}),
     "variants.ISCS.flags.series: it changes the measurement"),
    (change("variants", "ISCS", "sweep", to={"i0": [1, 2]}),
     "variants.ISCS, i0 1.flags.i0: it changes the measurement"),
    (change("variants", "ISCS", "flags", to={"noise-control": None}),
     'variants.ISCS.flags.noise-control: null, which leaves the flag out, so that noise is SLERP; write "None"'),
    (change("variants", "ISCS", "sweep", to={"noise-control": [None, "GP"]}), "noise-control: null, which leaves the"),
    (change("flags", "resume", to="x"), "flags.resume: set by no grid"),
    (change("flags", "sleep", to="a\nb"), "flags.sleep: 'a\\nb'; accepted: a number, a text of one line"),
    (change("volumes", "a\nb", to={"modality": "CT", "path": "a"}),
     "volumes: the name 'a\\nb'; accepted: a text of one line"),
    (change("variants", "ISCS", "flags", to={"seed": 3}), "variants.ISCS.flags.seed: set by seeds"),
    (change("variants", "ISCS", "flags", to={"sino-noise": 3}),
     "variants.ISCS.flags.sino-noise: it changes the measurement"),
    (change("flags", "recon-size", to=3), "grid.yaml: flags.recon-size: set by a volume's size"),
    (change("flags", "config-path", to="none.yaml"), "none.yaml: no such file"),
    (change("keep", to="all"), "keep: 'all'"),
    (lambda tree: (tree["variants"]["ISCS"].update(samples=2), tree["flags"].update({"sino-noise": 1e5})),
     "variants.ISCS: 2 samples of measurements with --sino-noise: the seed draws that noise too"),
    (lambda tree: (tree["variants"]["ISCS"].update(samples=2), tree.update(keep=["IR.nii.gz"])), "keep: GT.nii.gz"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_grid_is_one_line_and_status_2(study, capsys, monkeypatch, spoil, reason):
    monkeypatch.delenv("UNSET_DATA", raising=False)
    spoil(study.tree)
    with pytest.raises(SystemExit) as stop:
        study.run()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert "grid.yaml: " in said.err and reason in said.err
    assert not study.output.exists() and not study.calls("begin")


@pytest.mark.parametrize("name, value, reason", [
    ("nfe", 5, "variants.ISCS.flags.nfe: unknown flag; the nearest is NFE"),
    ("noise-controll", "SLERP", "variants.ISCS.flags.noise-controll: unknown flag; the nearest is noise-control"),
    ("quiet", True, "variants.ISCS.flags.quiet: unknown flag"), ("help", True, "flags.help: unknown flag"),
    ("zzz", 1, "variants.ISCS.flags.zzz: unknown flag; accepted: "), ("NFE", 5, None)])
def test_flags_that_the_program_has_not_are_refused_before_any_run(study, name, value, reason):
    del study.tree["modalities"], study.tree["flags"]
    study.tree["variants"]["ISCS"]["flags"] = {name: value}
    if reason is None:
        assert len(read_grid(study.grid(), ROOT).cells) == 2
        return
    with pytest.raises(ValueError, match=reason):
        read_grid(study.grid(), ROOT)


def test_a_flag_of_ct_alone_is_refused_for_mr(study):
    del study.tree["modalities"]
    study.tree["flags"] = {"weights": "poisson"}
    del study.tree["variants"]["ISCS"]["flags"]["level"]
    assert len(read_grid(study.grid(), ROOT).cells) == 2
    study.tree["volumes"]["head"] = study.tree["volumes"]["chest"] | {"modality": "MR"}
    del study.tree["volumes"]["head"]["size"]
    study.tree["tasks"]["ZSR-4"] = {"task": "ZSR", "degree": 4}
    with pytest.raises(ValueError, match="grid.yaml: flags.weights: unknown flag"):
        read_grid(study.grid(), ROOT)


def test_numbers_in_a_grid_are_decimal(study):
    text = study.grid()
    tree = Path(text).read_text().replace("degree: 20", "degree: 020").replace("level: 20", "level: 1e1")
    Path(text).write_text(tree)
    assert {(cell.flags["degree"], cell.flags["level"]) for cell in read_grid(text, ROOT).cells} == {("20", "10.0"), (
        "20", "30.5")}
    for wrong in ("0x14", "0b11", "7:00", "1_0"):
        Path(text).write_text(yaml.safe_dump(study.tree).replace("degree: 20", f"degree: {wrong}"))
        with pytest.raises(ValueError, match=f"tasks.SVCT-20.degree: '{wrong}'; accepted: a whole number of 1 or more"):
            read_grid(text, ROOT)


@pytest.mark.parametrize("text, reason", [
    ("seeds: [1", "not a YAML file"), ("- a", "['a']; accepted: a section with the keys volumes"),
    ("", "None; accepted: a section with the keys volumes"),
    ("seeds: [1]\nseeds: [2]", "the key 'seeds' stands twice"), ("[1]: 2", "not a YAML file"),
    ("variants:\n  a: {flags: {b: 1, b: 2}}", "line 2: the key 'b' stands twice"),
])
def test_a_file_that_is_no_grid(tmp_path, capsys, text, reason):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(tmp_path / "grid.yaml")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and reason in said and said.count("\n") == 1


@pytest.mark.parametrize("name, baseline", [("demo", "independent"), ("evidence", "best, independent noise")])
def test_the_grids_of_the_repository(tmp_path, monkeypatch, name, baseline):
    for scan in ("ct/chest_LIDC-IDRI-0314", "ct/trunk_3mm", "ct/head_visible_man", "ct/hip_sts_044",
                 "mr/T1_stroke_brain", "mr/T1_head_fnndsc"):
        (tmp_path / scan).parent.mkdir(exist_ok=True)
        (tmp_path / f"{scan}.nii.gz").touch()
    monkeypatch.setenv("ISCS_DATA", str(tmp_path))
    grid = read_grid(ROOT / "configs" / "evaluation" / f"{name}.yaml", ROOT)
    assert grid.baseline == baseline
    assert all(cell.against or "independent" in cell.variant for cell in grid.cells)
    assert all(cell.flags["noise-control"] in ("None", "SLERP", "zero") for cell in grid.cells
               if cell.flags.get("method") != "ADMM-TV")
