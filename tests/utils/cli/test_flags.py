"""Flags: types, defaults, and one line with status 2 for what is wrong."""
import os
import subprocess
import sys

import pytest
import yaml

from utils.cli import settings
from utils.cli.flags import build_parser
from utils.cli.messages import input_errors
from utils.io.yaml_file import read_yaml


def parse_args(modality, argv):
    return settings.parse_args(modality, argv, read_yaml)


@pytest.fixture
def files(tmp_path):
    for name in ("scan.nii.gz", "prior.pth", "prior.yaml"):
        (tmp_path / name).write_bytes(b"")
    return ["--data", str(tmp_path / "scan.nii.gz"), "--checkpoint-path", str(tmp_path / "prior.pth"),
            "--config-path", str(tmp_path / "prior.yaml"), "--output-dir", str(tmp_path / "results")]


def test_published_defaults(files):
    args = parse_args("ct", files)
    assert (args.task, args.degree, args.method, args.recon_size) == ("LACT", 90, "DDS", 256)
    assert (args.slice_begin, args.slice_end, args.sino_noise, args.use_init) == (0, 0, 0, False)
    assert (args.NFE, args.num_cg, args.w_tik, args.w_dz, args.w_dps) == (1000, 5, 0, 0, 0)
    assert (args.sigma_max, args.sigma_min) == (None, 0.01)     # that of the prior's config
    assert (args.noise_control, args.renoise_method, args.gpu, args.device) == ("SLERP", "DDPM", 0, "auto")
    args = parse_args("mr", files)
    assert (args.task, args.degree, args.method) == ("ZSR", 4, "DDS")


@pytest.mark.parametrize("flags, expected", [
    (["--use-init"], True), (["--use-init", "false"], False), (["--use-init", "False"], False),
    (["--use-init", "true"], True), ([], False), (["--use-init", "0"], False),
])
def test_use_init_means_what_it_says(files, flags, expected):
    assert parse_args("ct", files + flags).use_init is expected


@pytest.mark.parametrize("word, expected", [("none", "None"), ("NONE", "None"), ("slerp", "SLERP"), ("Slerp", "SLERP")])
def test_noise_control_is_case_blind(files, word, expected):
    assert parse_args("ct", files + ["--noise-control", word]).noise_control == expected


def test_a_pixel_size_replaces_the_size_of_a_preset(files):
    flags = ["--preset", "fast", "--task", "SVCT", *files]
    assert (parse_args("ct", flags).recon_size, parse_args("ct", flags).pixel_size) == (256, None)
    args = parse_args("ct", [*flags, "--pixel-size", "2.5"])
    assert (args.recon_size, args.pixel_size) == (None, 2.5)
    assert parse_args("ct", [*flags, "--pixel-size", "Prior"]).pixel_size == "prior"


BAD = [
    (["--task", "MRI"], "--task: 'MRI'; accepted: LACT, SVCT"),
    (["--method", "FBP"], "--method: 'FBP'; accepted: DDS, DDNM, ADMM-TV, uncondition"),
    (["--degree", "0"], "--degree: '0'; accepted: a whole number of 1 or more and 1e+06 or less"),
    (["--degree", "2.5"], "--degree"),
    (["--pixel-size", "0"], "--pixel-size: '0'; accepted: prior, or a number above 0 and 1000 or less"),
    (["--pixel-size", "2", "--recon-size", "64"], "--pixel-size and --recon-size are both given"),
    (["--NFE", "0"], "--NFE: '0'; accepted: a whole number of 1 or more and 100000 or less"),
    (["--num-cg", "0"], "--num-cg"), (["--w-tik", "-1"], "--w-tik"), (["--w-tik", "nan"], "--w-tik"),
    (["--w-dz", "-1"], "--w-dz"),
    (["--w-dz", "0.1", "--method", "DDNM"], "--w-dz 0.1: not part of DDNM; accepted with --method DDS"),
    (["--w-dps", "1", "--method", "uncondition"],
     "--w-dps 1: not part of uncondition; accepted with --method DDS, DDNM"),
    (["--noise-length", "5"], "--noise-length 5: not part of SLERP; accepted with --noise-control GP"),
    (["--sigma-min", "2", "--sigma-max", "1"], "--sigma-min 2 --sigma-max 1: accepted is sigma-min below sigma-max"),
    (["--sigma-min", "0"], "--sigma-min"), (["--sigma-max", "inf"], "--sigma-max"),
    (["--slice-begin", "5", "--slice-end", "5"], "--slice-begin 5 --slice-end 5: an empty range"),
    (["--slice-begin", "5"], "an empty range"), (["--slice-begin", "-1"], "--slice-begin"),
    (["--noise-control", "perlin"], "--noise-control: 'perlin'; accepted: SLERP, None, shared, GP, zero"),
    (["--renoise-method", "x"], "accepted: DDPM, DDIM, DDS, DiffPIR"),
    (["--use-init", "maybe"], "--use-init: 'maybe'; accepted: true, false"),
    (["--data", "nowhere.nii"], "--data: nowhere.nii: no such file"),
    (["--sino-noise", "-3"], "--sino-noise"), (["--seed", str(2**63)], "--seed"), (["--NFE", "9" * 400], "--NFE"),
    (["--data", "x" * 300], "no such file"),
    (["--seed", "-1"], "--seed"), (["--batch-size", "0"], "--batch-size"),
    (["--flat", "scan.nii.gz"], "--flat: scan.nii.gz: no such file"),
    (["--i0", "0"], "--i0: '0'; accepted: a number above"),
    (["--i0", "5"], "--i0 is for measured counts; it needs --projections"),
    (["--weights", "l1"], "--weights: 'l1'; accepted: none, poisson"),
    (["--eta", "0.5"], "--eta 0.5: not part of DDPM; accepted with --renoise-method DDS, DiffPIR"),
    (["--eta", "1.1", "--renoise-method", "DDS"], "--eta: '1.1'"),
    (["--w-tv", "1", "--method", "DDNM"], "--w-tv 1: not part of DDNM; accepted with --method DDS, ADMM-TV"),
    (["--dual", "1"], "--dual: '1'"), (["--w-tv", "-1"], "--w-tv"),
    (["--weights", "poisson", "--method", "DDNM"], "--weights poisson: not part of DDNM; accepted with --method DDS"),
    (["--projector", "gpu"], "--projector: 'gpu'; accepted: auto, native, torch_radon, astra"),
    (["--geometry", "nowhere.yaml"], "--geometry: nowhere.yaml: no such file"),
    (["--NFE", "1000000000"], "--NFE: '1000000000'"),
    (["--w-tik", "1e300"], "--w-tik: '1e300'; accepted: noise, or a number of 0 or more and"),
    (["--sino-noise", "1e300"], "--sino-noise"), (["--seed", str(2**64)], "--seed"),
    (["--num-cg", "3", "--method", "DDNM"], "not part of DDNM"),
    (["--prior-2", __file__, "--method", "uncondition"], "not part of uncondition; accepted with --method DDS, DDNM"),
    (["--resum", "x"], "unrecognized arguments: --resum x; did you mean --resume?"),
    (["--noise-control", "slurp"], "did you mean SLERP?"),
    (["--preset", "fats"], "--preset: 'fats'; accepted: best, fast, published; did you mean fast?"),
    (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
]


@pytest.mark.parametrize("flags, reason", BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_a_bad_flag_is_one_line_and_status_2(files, capsys, flags, reason):
    with pytest.raises(SystemExit) as stop:
        parse_args("ct", files + flags)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and reason in message and message.count("\n") == 1


MEASURED = [
    (["--sino-noise", "1"], "--sino-noise 1: measured projections have their own noise; accepted: 0"),
    (["--method", "uncondition"], "--method uncondition uses no projections"),
    (["--flat", ".", "--i0", "9"], "--flat and --i0 are both given; accepted is one of them"),
    (["--dark", "."], "--dark needs --flat or --i0 beside it"),
]


@pytest.mark.parametrize("flags, reason", MEASURED, ids=[" ".join(flags) for flags, _ in MEASURED])
def test_flags_that_measured_projections_do_not_go_with(files, tmp_path, capsys, flags, reason):
    geometry = ["--geometry", files[-3]] if flags else []
    with pytest.raises(SystemExit) as stop:
        parse_args("ct", files[2:] + ["--projections", str(tmp_path), *geometry, *flags])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and reason in message and message.count("\n") == 1


def test_measured_projections_leave_views_and_size_to_the_geometry(files, tmp_path):
    args = parse_args("ct", files[2:] + ["--projections", str(tmp_path), "--geometry", files[-3]])
    assert args.data is None and args.degree is None and args.recon_size is None


def test_something_to_reconstruct_is_needed(files, capsys):
    with pytest.raises(SystemExit):
        parse_args("ct", files[2:])
    assert "--data or --projections is missing" in capsys.readouterr().err


def test_a_missing_prior_is_named_except_for_admm_tv(files, capsys):
    with pytest.raises(SystemExit):
        parse_args("ct", files[:2])
    assert "--checkpoint-path is missing; --method DDS needs a prior" in capsys.readouterr().err
    assert parse_args("ct", files[:2] + ["--method", "ADMM-TV"]).checkpoint_path is None
    with pytest.raises(SystemExit):
        parse_args("mr", files + ["--method", "ADMM-TV"])
    with pytest.raises(SystemExit):
        parse_args("mr", files + ["--degree", "1"])


def test_an_output_folder_that_cannot_be_written(files, tmp_path, capsys):
    for folder in (tmp_path / "scan.nii.gz", tmp_path / "scan.nii.gz" / "below"):
        with pytest.raises(SystemExit) as stop:
            parse_args("ct", files + ["--output-dir", str(folder)])
        assert stop.value.code == 2 and "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("error, line", [
    (ValueError("config.yaml: unknown key a"), "config.yaml: unknown key a"),
    (FileNotFoundError(2, "No such file or directory", "x.nii"), "x.nii: No such file or directory"),
    (OSError("x: cannot be written"), "x: cannot be written"),
])
def test_input_errors_become_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as stop, input_errors():
        raise error
    assert stop.value.code == 2 and capsys.readouterr().err.strip().endswith(line)


def test_programming_errors_pass_through():
    with pytest.raises(TypeError), input_errors():
        raise TypeError


@pytest.mark.parametrize("script", ["recon_CBCT.py", "recon_MRI_ZSR.py", "train.py"])
def test_help_and_wrong_flags_load_nothing_heavy(data_dir, script):
    root = data_dir.parents[1]
    command = [sys.executable, "-X", "importtime", str(root / script)]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "110"})
    assert shown.returncode == 0 and "default: " in shown.stdout
    refused = subprocess.run([*command, "--no-such-flag"], capture_output=True, text=True)
    assert refused.returncode == 2
    for run in (shown, refused):
        assert " torch\n" not in run.stderr and " numpy\n" not in run.stderr


def test_nobody_writes_to_options(files):
    options = parse_args("ct", files)
    with pytest.raises(AttributeError, match="options are not changed"):
        options.device = "cpu"
    with pytest.raises(AttributeError):
        del options.device
    assert options.device == "auto"


SCRIPTS = {     # what the shell scripts start with: task and method -> settings
    "SVCT DDS": dict(degree=20, recon_size=128, NFE=20, sigma_max=0.5, num_cg=10, w_tv=0, flips=True, use_init=True,
                     denoise_last=False),
    "LACT DDS": dict(degree=90, recon_size=128, NFE=15, sigma_max=5, num_cg=20, w_tv=0.3, dual=0.7, eta=None,
                      use_init=True, denoise_last=True),
    "SVCT uncondition": dict(NFE=100, sigma_max=50), "SVCT DDNM": dict(NFE=20, num_cg=None, denoise_last=None),
    "ZSR DDS": dict(degree=4, NFE=26, sigma_max=0.8, num_cg=1, use_init=True, noise_control="zero", prior_2="same"),
    "ZSR uncondition": dict(NFE=100, sigma_max=50, noise_control="SLERP")}


@pytest.mark.parametrize("what", SCRIPTS)
def test_the_fast_preset(what, tmp_path):
    task, method = what.split()
    options = parse_args("mr" if task == "ZSR" else "ct", ["--preset", "fast", "--task", task, "--method", method,
                                                           "--output-dir", str(tmp_path)])
    assert {name: getattr(options, name) for name in SCRIPTS[what]} == SCRIPTS[what]
    assert options.data.exists() and options.checkpoint_path.exists() and options.sigma_min == 0.01


def test_a_preset_makes_room_for_what_is_given(files, tmp_path):
    own = parse_args("ct", ["--preset", "fast", *files[:4], "--output-dir", str(tmp_path)])
    assert own.recon_size == 256 and own.data.name == "scan.nii.gz"
    assert own.config_path.name == "AAPM_256_ncsnpp_Chung.yaml"
    measured = parse_args("ct", ["--preset", "fast", "--projections", files[1], "--geometry", files[-3],
                                 "--output-dir", str(tmp_path)])
    assert (measured.data, measured.degree, measured.recon_size) == (None, None, None)
    noisy = parse_args("ct", ["--preset", "fast", "--sino-noise", "1e5", "--output-dir", str(tmp_path)])
    assert (own.w_tik, measured.w_tik, noisy.w_tik) == (0, "noise", "noise")
    assert (own.denoise_last, measured.denoise_last, noisy.denoise_last) == (False, True, True)
    fresh = parse_args("ct", ["--preset", "fast", "--use-init", "false", "--output-dir", str(tmp_path)])
    assert (fresh.NFE, fresh.sigma_max) == (100, 50)
    published = parse_args("ct", ["--preset", "published", "--task", "LACT", "--degree", "90", *files])
    assert (published.NFE, published.num_cg, published.sigma_max, published.renoise_method) == (30, 10, 5, "DDPM")
    assert published.denoise_last


def test_a_preset_may_be_like_another(tmp_path):
    def options(*flags):
        return parse_args("ct", ["--preset", "best", "--output-dir", str(tmp_path), *flags])

    assert (options().NFE, options().data.exists(), options().num_cg, options().w_tv) == (50, True, 10, 0)
    limited = options("--task", "LACT")
    assert (limited.samples, limited.dual, limited.NFE, limited.num_cg) == (3, 0.7, 30, 20)
    assert options("--task", "LACT", "--noise-control", "zero").samples == 1       # all would be the same
    assert options("--method", "ADMM-TV").w_tv == 3        # the weights are those of one method
    assert options("--num-cg", "4").num_cg == 4
    assert options("--use-init", "false").NFE == 100        # from noise, as `fast`
    several = parse_args("mr", ["--preset", "best", "--samples", "2", "--output-dir", str(tmp_path)])
    assert (several.samples, several.noise_control) == (2, "SLERP")     # in place of none
    assert options("--task", "LACT", "--method", "ADMM-TV").samples == 1
    drawn = parse_args("mr", ["--preset", "fast", "--method", "uncondition", "--output-dir", str(tmp_path)])
    assert (drawn.prior_2, drawn.noise_control) == (None, "SLERP")


@pytest.mark.parametrize("like", ["nothing", "loop"])
def test_a_preset_like_none_or_itself_is_refused(tmp_path, monkeypatch, capsys, like):
    (tmp_path / "loop.yaml").write_text(f"like: {like}\nct: {{}}\n")
    monkeypatch.setattr(settings, "PRESETS", tmp_path)
    with pytest.raises(SystemExit) as caught:
        parse_args("ct", ["--preset", "loop", "--output-dir", str(tmp_path)])
    assert caught.value.code == 2
    assert f"loop.yaml: like: {like}; accepted is the name of another preset" in capsys.readouterr().err


def test_settings_from_the_environment_come_before_the_preset_and_after_the_flags(monkeypatch, tmp_path):
    for name, value in {"TASK": "lact", "NOISE_CONTROL": "none", "NFE": "7", "SIGMA_MAX": "3", "USE_INIT": ""}.items():
        monkeypatch.setenv(name, value)
    command = ["--preset", "fast", "--output-dir", str(tmp_path), "--NFE", "9"]
    options = parse_args("ct", [*command, "--environment"])
    assert (options.task, options.noise_control, options.NFE, options.sigma_max) == ("LACT", "None", 9, 3)
    assert options.degree == 90 and options.use_init is True
    assert parse_args("ct", command).task == "SVCT"     # only where it is asked for


def test_a_file_in_the_environment_may_begin_with_a_dash(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x.nii.gz").write_bytes(b"")
    monkeypatch.setenv("DATA", "-x.nii.gz")
    assert str(parse_args("mr", ["--preset", "fast", "--environment"]).data) == "-x.nii.gz"


def recorded(tmp_path, **values):
    path = tmp_path / "args.yaml"
    path.write_text(yaml.safe_dump({"digests": {}, "task": "SVCT", **values}))
    return ["--from", str(path)]


def test_flags_come_before_those_of_an_earlier_run_with_what_belonged_to_them(files, tmp_path):
    gp = recorded(tmp_path, method="DDS", noise_control="GP", noise_length=5.0, renoise_method="DiffPIR", eta=0.3,
                  w_tik=2.0)
    same = parse_args("ct", files + gp)
    assert (same.noise_length, same.eta, same.w_tik) == (5, 0.3, 2)
    other = parse_args("ct", [*files, *gp, "--noise-control", "SLERP", "--renoise-method", "DDPM"])
    assert (other.noise_length, other.eta, other.w_tik) == (None, None, 2)
    assert parse_args("ct", [*files, *gp, "--method", "DDNM"]).w_tik is None
    silent = recorded(tmp_path, method="DDS", noise_control="zero", samples=1)
    assert parse_args("ct", [*files, *silent, "--samples", "2"]).noise_control == "SLERP"
    tv = recorded(tmp_path, method="ADMM-TV", w_tv=7.0)
    assert parse_args("ct", [*files, *tv, "--method", "DDS"]).w_tv == 0


@pytest.mark.parametrize("text", ["[" * 3000, "a: &a [*a]", "digests:", "3", "digests: null\nmethod: 3\ntask: SVCT"])
def test_a_broken_args_yaml_is_one_line(files, tmp_path, capsys, text):
    (tmp_path / "args.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        parse_args("ct", [*files, "--from", str(tmp_path / "args.yaml")])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and "args.yaml" in message and message.count("\n") == 1


def test_a_run_of_the_other_modality_names_the_script(files, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_args("mr", [*files, *recorded(tmp_path, method="DDS")])
    assert "a run of SVCT; accepted here: ZSR (recon_CBCT.py does the other)" in capsys.readouterr().err


def test_the_help_of_one_modality_does_not_speak_of_the_other():
    assert "ADMM" in build_parser("ct").format_help() and "photons" in build_parser("ct").format_help()
    text = build_parser("mr").format_help()
    assert not [word for word in ("ADMM", "photon", "views", "detector") if word in text]
