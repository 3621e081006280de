"""Training: the loss falls, checkpoints load as priors, a run that was stopped goes on as if it had not been."""
import csv
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib.image import imread

import train
import utils.train.monitor
import utils.train.slices
import utils.train.training
from models.checkpoint import load_weights, read_checkpoint
from models.ncsnpp import NCSNpp
from models.prior import score_settings
from utils.io.config import load_config
from utils.io.prior_file import check_digest, read_prior
from utils.train.slices import SliceSampler

ROOT = Path(train.__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def one_thread():
    """The images are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def any_precision(monkeypatch):
    """The images are so small that half precision takes no time on any processor."""
    monkeypatch.setattr("models.precision.cpu_computes_in", lambda name: True)


@pytest.fixture(scope="module")
def config_path(data_dir, tmp_path_factory):
    text = (data_dir / "ncsnpp_tiny.yaml").read_text()
    for old, new in [("image_size: 32", "image_size: 16"), ("nf: 16", "nf: 8"), ("sigma_max: 378", "sigma_max: 5"),
                     ("- 1\n  - 2\n  - 2", "- 1\n  - 2"), ("resolutions:\n  - 16", "resolutions: []")]:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, 20),) * 3, indexing="ij")
    image = sitk.GetImageFromArray(np.where(x**2 + y**2 + 0.3 * z < 0.6, 40, -1000).astype(np.int16))
    path = tmp_path_factory.mktemp("scan") / "scan.nii"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def held_out(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("held_out") / "other.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(scan)) + 30, str(path))
    return path.parent


@pytest.fixture
def flags(config_path, scan, tmp_path):
    def call(name, *more, modality="ct"):
        return ["--config-path", str(config_path), "--modality", modality, "--data", str(scan), "--device", "cpu",
                "--output", str(tmp_path / name), "--batch-size", "4", "--sample-every", "0", *map(str, more)]
    return call


@pytest.fixture
def run(flags, tmp_path):
    def call(name, *more, modality="ct"):
        train.main(flags(name, *more, modality=modality))
        return tmp_path / name
    return call


def weights(folder, config_path, name="checkpoint.pth"):
    network = NCSNpp(load_config(config_path))
    load_weights(network, folder / name)
    return network.state_dict()


def assert_same(weights, others, rtol=1e-6, atol=1e-7):
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=rtol, atol=atol)


def refused(capsys, call, *arguments, status=2):
    """The one line that the call ends with."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    message = capsys.readouterr().err
    assert stop.value.code == status
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_the_loss_falls_and_the_checkpoints_load(run, config_path, modality):
    folder = run("out", "--steps", 60, "--lr", 5e-3, modality=modality)
    rows = [(int(step), float(loss)) for step, loss, _ in csv.reader((folder / "loss.csv").open())]
    assert [step for step, _ in rows] == [50, 60] and rows[-1][1] < 0.8 * rows[0][1]
    checkpoint, (card, path) = read_checkpoint(folder / "checkpoint.pth"), read_prior(folder)
    assert set(checkpoint) == {"optimizer", "model", "ema", "step", "scaler", "run", "prior"}
    assert checkpoint["step"] == 60 and set(checkpoint["ema"]) == {"decay", "num_updates", "shadow_params"}
    window = [-1000, 1600] if modality == "ct" else "percentile"
    assert (card.modality, card.window) == (modality, tuple(window) if modality == "ct" else window)
    assert checkpoint["prior"] == {"modality": modality, "window": window} | score_settings(load_config(config_path))
    assert card.architecture == load_config(config_path) and path.name == card.weights == "prior.safetensors"
    check_digest(card, path)
    full, small = weights(folder, config_path), weights(folder, config_path, "prior.safetensors")
    assert_same(small, full, rtol=1e-3, atol=1e-4)
    assert torch.equal(full["all_modules.0.W"], small["all_modules.0.W"])    # too large for half precision
    assert (folder / "prior.safetensors").stat().st_size < 0.3 * (folder / "checkpoint.pth").stat().st_size


def test_a_centred_prior_is_trained_on_the_intensities_that_its_card_says(run, config_path, tmp_path, monkeypatch):
    draw, drawn = utils.train.training.draw_batch, []

    def noting(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(utils.train.training, "draw_batch", noting)
    centred = tmp_path / "centred.yaml"
    centred.write_text(config_path.read_text().replace("centered: false", "centered: true"))
    folders = run("plain", "--steps", 1), run("centred", "--steps", 1, "--config-path", centred)
    assert [read_prior(folder)[0].intensities for folder in folders] == [(0, 1), (-1, 1)]
    torch.testing.assert_close(drawn[1][0], 2 * drawn[0][0] - 1)
    assert (drawn[1][2] > drawn[0][2]).all()        # levels of images of twice the range


def test_a_diffusion_that_is_not_trained_here_is_refused(flags, config_path, tmp_path, capsys):
    other = tmp_path / "vp.yaml"
    other.write_text(config_path.read_text().replace("sde: vesde", "sde: vpsde"))
    message = refused(capsys, train.main, flags("out", "--config-path", other))
    assert "vp.yaml: training.sde: 'vpsde'; accepted, to train: 'vesde'" in message


def test_a_resumed_run_equals_an_uninterrupted_one(run, config_path, monkeypatch):
    whole = weights(run("whole", "--steps", 12, "--precision", "bf16"), config_path)
    batch, calls, stop_at = SliceSampler.batch, [], int(np.random.default_rng().integers(6, 12))

    def interrupt(self, *arguments):
        calls.append(arguments)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return batch(self, *arguments)

    with monkeypatch.context() as patch:    # as killed: there is the checkpoint of step 5, and nothing of the stop
        patch.setattr(SliceSampler, "batch", interrupt)
        with pytest.raises(SystemExit):
            run("cut", "--steps", 12, "--precision", "bf16", "--save-every", 5)
    resumed = run("cut", "--steps", 12, "--precision", "bf16", "--resume")
    assert_same(weights(resumed, config_path), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_run_goes_on(run, config_path, monkeypatch, capsys, number):
    whole = weights(run("whole", "--steps", 9), config_path)
    draw = utils.train.training.draw_batch

    def interrupt(*arguments):
        if arguments[4] == 3:
            os.kill(os.getpid(), number)
        return draw(*arguments)

    capsys.readouterr()
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(utils.train.training, "draw_batch", interrupt)
        run("cut", "--steps", 9)
    assert stop.value.code == 128 + number
    assert capsys.readouterr().out == "stopped after step 4 of 9; the same command with --resume goes on\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same(weights(run("cut", "--steps", 9, "--resume"), config_path), whole)


def test_ctrl_c_in_a_process_of_its_own(flags, tmp_path):
    process = subprocess.Popen([sys.executable, "train.py", *flags("out", "--steps", 100_000, "--save-every", 1)],
                               cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while not (tmp_path / "out" / "checkpoint.pth").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and out.count("\n") == 1 and "--resume goes on" in out and not error
    assert read_checkpoint(tmp_path / "out" / "checkpoint.pth")["step"] == int(out.split()[3])


def test_the_cache_spares_the_volumes(run, tmp_path, monkeypatch):
    run("out", "--steps", 1)
    assert len(list((tmp_path / "out" / "cache").glob("ct-*.npy"))) == 1

    def fail(*arguments):
        raise AssertionError("read again")

    monkeypatch.setattr(utils.train.slices, "read_volume", fail)
    first = run("again", "--steps", 1, "--cache", tmp_path / "out" / "cache")
    assert (first / "loss.csv").read_text().split(",")[1] == (tmp_path / "out" / "loss.csv").read_text().split(",")[1]


def test_validation_falls_and_samples_are_drawn(run, config_path, held_out):
    folder = run("out", "--steps", 40, "--validation", held_out, "--validate-every", 15, "--lr", 5e-3)
    rows = list(csv.DictReader((folder / "validation.csv").open()))
    assert [row["step"] for row in rows] == ["0", "15", "30", "40"]
    assert list(rows[0])[1:] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]
    assert float(rows[0]["1"]) == pytest.approx(1, rel=0.1)    # the network starts as the identity: error sigma^2
    assert all(float(rows[-1][level]) < 0.7 * float(rows[0][level]) for level in ("0.5", "1", "2", "5"))


def test_looking_does_not_change_the_training(run, config_path, held_out, capsys):
    folder = run("out", "--steps", 5, "--validation", held_out, "--validate-every", 2, "--sample-every", 3)
    assert capsys.readouterr().out.count("validation, step") == 4      # 0, 2, 4, 5
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["step-000003.png", "step-000005.png"]
    assert imread(folder / "samples" / "step-000005.png").shape[:2] == (32, 64)
    assert_same(weights(folder, config_path), weights(run("without", "--steps", 5), config_path))


def test_rows_after_the_checkpoint_are_dropped_on_resume(run, held_out, tmp_path, monkeypatch):
    def interrupt(*arguments, draw=utils.train.training.draw_batch):
        if arguments[4] == 5:
            raise KeyboardInterrupt
        return draw(*arguments)

    more = ["--steps", 6, "--validation", held_out, "--validate-every", 2, "--save-every", 3]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(utils.train.training, "draw_batch", interrupt)
        run("out", *more)
    before = (tmp_path / "out" / "validation.csv").read_text()
    after = (run("out", *more, "--resume") / "validation.csv").read_text()
    assert [line.split(",")[0] for line in before.splitlines()] == ["step", "0", "2", "4"]
    assert [line.split(",")[0] for line in after.splitlines()] == ["step", "0", "2", "4", "6"]


def test_tensorboard(run):
    pytest.importorskip("tensorboard")
    folder = run("out", "--steps", 1, "--tensorboard")
    assert list((folder / "tensorboard").glob("events*"))


def test_tensorboard_is_optional(flags, capsys, monkeypatch):
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorboard" in refused(capsys, train.main, flags("out", "--tensorboard"))


def test_fine_tuning_starts_from_the_weights(run, config_path):
    first = run("first", "--steps", 20)
    second = run("second", "--steps", 1, "--init", first / "prior.safetensors", "--lr", 1e-9, "--seed", 7)
    assert_same(weights(second, config_path), weights(first, config_path, "prior.safetensors"), atol=1e-6)


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16),
                                              ("auto", torch.float32)])
def test_precision(run, precision, dtype):
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype) if isinstance(module, torch.nn.Conv2d) else None)
    folder = run("out", "--steps", 2, "--precision", precision)
    hook.remove()
    checkpoint = read_checkpoint(folder / "checkpoint.pth")
    assert dtype in seen and seen[-1] == torch.float32 and bool(checkpoint["scaler"]) == (precision == "fp16")
    assert all(value.dtype == torch.float32 for value in checkpoint["ema"]["shadow_params"])


def test_a_loss_that_is_no_number_stops_the_run(run, config_path, tmp_path, monkeypatch, capsys):
    draw = utils.train.training.draw_batch

    def spoil(*arguments):
        x0, *others = draw(*arguments)
        return x0 * (float("nan") if arguments[4] == 7 else 1), *others

    monkeypatch.setattr(utils.train.training, "draw_batch", spoil)
    message = refused(capsys, lambda: run("out", "--steps", 12, "--save-every", 5), status=1)
    assert "step 8" in message and "not finite" in message
    assert read_checkpoint(tmp_path / "out" / "checkpoint.pth")["step"] == 5
    weights(tmp_path / "out", config_path)     # finite


WORKER = """
import sys, torch, train
from utils.train.training import Training
made = []
init = Training.__init__
Training.__init__ = lambda self, *a: (made.append(self), init(self, *a))[1]
folder, *flags = sys.argv[1:]
train.main(flags)
torch.save(made[0].network.state_dict(), f"{folder}/rank{__import__('os').environ['RANK']}.pth")
"""


def test_two_processes_train_as_one_with_both_batches(run, flags, config_path, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), *flags("two", "--steps", 3)],
                                env=ENVIRONMENT | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=ROOT)
               for rank in range(2)]
    draw = utils.train.training.draw_batch

    def both(*arguments):
        one, two = (draw(*arguments[:5], rank) for rank in (0, 1))
        return *(torch.cat(pair) for pair in zip(one[:3], two[:3])), one[3]

    with monkeypatch.context() as patch:
        patch.setattr(utils.train.training, "draw_batch", both)
        one = run("one", "--steps", 3)
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert_same(weights(tmp_path / "two", config_path), weights(one, config_path), rtol=1e-4, atol=1e-5)
    assert len((tmp_path / "two" / "loss.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("more, reason", [
    (["--steps", "0"], "--steps: '0'; accepted"),
    (["--lr", "0"], "--lr: '0'; accepted: a number above 0"), (["--lr", "1e38"], "--lr: '1e38'"),
    (["--seed", str(2**64)], "--seed: "), (["--steps", "1e9"], "--steps"),
    (["--data"], "--data: expected at least one argument"),
    (["--data", "nowhere.nii"], "nowhere.nii: no such file"), (["--config-path", "nowhere.yaml"], "nowhere.yaml"),
    (["--data", "utils"], "utils: holds not a NIfTI file"), (["--data", "train.py"], "train.py: not a NIfTI file"),
    (["--validation", "{scan}"], "given twice"), (["--precision", "half"], "invalid choice: 'half'"),
    (["--resume"], "checkpoint.pth"), (["--device", "cuda:77"], "--device: device 'cuda:77'"),
    (["--init", "nowhere.pth"], "nowhere.pth: no such file"),
    (["--resume", "--init", "train.py"], "--init and --resume are both given"),
])
def test_bad_flags_are_one_line_and_status_2(flags, scan, capsys, monkeypatch, more, reason):
    monkeypatch.chdir(ROOT)
    assert reason in refused(capsys, train.main, flags("out", *(text.format(scan=scan) for text in more)))


def test_resume_refuses_another_run(run, flags, config_path, tmp_path, capsys):
    run("out", "--steps", 2)
    other = tmp_path / "other.yaml"
    other.write_text(config_path.read_text().replace("ema_rate: 0.999", "ema_rate: 0.99"))
    capsys.readouterr()
    for more, reason in [(["--steps", 3], "--steps 3: "), (["--steps", 2, "--seed", 1], "--seed 1: "),
                         (["--steps", 2, "--lr", 0.5], "--lr 0.5: "), (["--steps", 2, "--precision", "bf16"], "bf16: "),
                         (["--steps", 2, "--config-path", other], "--config-path, content ")]:
        message = refused(capsys, train.main, flags("out", "--resume", *more))
        assert reason in message and "was made with" in message and "accepted, to go on: the same" in message
    assert "--resume, or another folder" in refused(capsys, train.main, flags("out", "--steps", 2))
    torch.save({"model": read_checkpoint(tmp_path / "out" / "checkpoint.pth")["model"]},
               tmp_path / "out" / "checkpoint.pth")
    assert "cannot be continued" in refused(capsys, train.main, flags("out", "--steps", 2, "--resume"))


def test_what_a_killed_run_left_is_cleared_on_resume(run, tmp_path):
    folder = run("out", "--steps", 2, "--sample-every", 1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [folder / name / f".partial-{pid}-x" for name in ("", "samples", "cache") for pid in (dead.pid, os.getpid())]
    other = folder / "cache" / f".partial-{os.getppid()}-of-a-run-that-goes-on"
    for path in (*left, other):
        path.write_text("x")
    run("out", "--steps", 2, "--resume")
    assert not any(path.exists() for path in left) and other.exists()


def test_a_copy_of_a_scan_under_another_name_is_no_validation(flags, scan, tmp_path, capsys):
    copy = tmp_path / "case_A.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(copy))      # other bytes too
    message = refused(capsys, train.main, flags("out", "--steps", 1, "--validation", copy))
    assert f"case_A.nii.gz: the same content as {scan}; accepted: every volume once" in message


def test_a_mostly_empty_mr_volume_is_left_out_with_a_warning(run, flags, tmp_path, capsys):
    sparse = np.zeros((20, 30, 30), np.int16)
    sparse[8, 15, 10:14] = 100, 200, 300, 800
    sitk.WriteImage(sitk.GetImageFromArray(sparse), str(tmp_path / "angio.nii"))
    folder = run("out", "--steps", 1, "--data", tmp_path / "angio.nii", flags("")[5], modality="mr")
    said = capsys.readouterr().err
    assert (folder / "prior.safetensors").exists() and said.count("\n") == 1
    assert "angio.nii: all voxels have one value, 0, up to the 99.9th percentile; the largest is 800; left out" in said
    alone = flags("no", "--steps", 1, "--data", tmp_path / "angio.nii", modality="mr")
    message = refused_after(capsys, train.main, alone)
    assert "no training data" in message


def refused_after(capsys, call, *arguments):
    """The last line of the call, which said more before."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("change, status, reason", [
    (lambda hu: hu + 1024, 0, "HU with 1024 added"), (lambda hu: (hu + 1000) / 2600, 2, "are no HU .scaled to 0..1")])
def test_volumes_that_are_no_hu_are_named(flags, scan, tmp_path, capsys, change, status, reason):
    values = change(sitk.GetArrayFromImage(sitk.ReadImage(str(scan))).astype(np.float32))
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "other.nii"))
    call = flags("out", "--steps", 1, "--data", tmp_path / "other.nii")
    if status:
        message = refused(capsys, train.main, call)
    else:
        train.main(call)
        message = capsys.readouterr().err
    assert re.search(f"other.nii: .*{reason}", message) and message.count("\n") == 1


def test_a_checkpoint_that_lacks_something_is_one_line(run, flags, tmp_path, capsys):
    path = run("out", "--steps", 2) / "checkpoint.pth"
    whole = read_checkpoint(path)
    capsys.readouterr()
    for change, reason in (({"optimizer": None}, "it has no optimizer"), ({"step": None}, "it has no step"),
                           ({"step": -1}, "damaged"), ({"step": "x"}, "damaged"),
                           ({"optimizer": {"state": {}}}, "damaged"), ({"ema": {"decay": 1}}, "damaged"),
                           ({"run": None}, "not a checkpoint of this program")):
        torch.save({name: value for name, value in (whole | change).items() if value is not None}, path)
        message = refused(capsys, train.main, flags("out", "--steps", 2, "--resume"))
        assert f"{path}: cannot be continued" in message and reason in message


@pytest.mark.parametrize("name, value, reason", [
    ("WORLD_SIZE", "", "WORLD_SIZE: ''; accepted: a whole number of 1 or more"), ("RANK", "x", "RANK: 'x'"),
    ("WORLD_SIZE", "0", "WORLD_SIZE: '0'"), ("RANK", "3", "RANK: 3; accepted: below WORLD_SIZE, 1"),
    ("LOCAL_RANK", "-1", "LOCAL_RANK: '-1'")])
def test_variables_that_torchrun_does_not_set_so_are_named(flags, capsys, monkeypatch, name, value, reason):
    monkeypatch.setenv(name, value)
    assert f"environment variable {reason}" in refused(capsys, train.main, flags("out"))


def test_a_full_disk_is_one_line_and_status_1(flags, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.pth")

    monkeypatch.setattr(utils.train.training, "save_tensors", full)
    message = refused(capsys, train.main, flags("out", "--steps", 1), status=1)
    assert "error: checkpoint.pth: no space left on the disk" in message


@pytest.mark.parametrize("optimized", [False, True])
def test_a_reader_that_has_gone_does_not_end_the_training(flags, tmp_path, optimized):
    options = ["-OO"] if optimized else []      # without docstrings too
    line = ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "-", sys.executable, *options, "train.py",
            *flags("out", "--steps", 1)]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "out" / "prior.safetensors").exists()


def test_ctrl_c_before_the_training_is_one_line_and_status_130(flags, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(utils.train.slices, "volume_slices", interrupt)
    assert "interrupted" in refused(capsys, train.main, flags("out"), status=130)


def test_a_line_now_and_then_says_how_far_it_is(run, capsys, monkeypatch):
    monkeypatch.setattr(utils.train.monitor, "LINE_EVERY", 0.0)
    run("out", "--steps", 3)
    said = capsys.readouterr().out
    assert "reading volumes: 1 of 1\n" in said
    for step in (1, 2, 3):
        assert re.search(rf"^step {step} of 3: loss \d\.\d+, [\d.]+ images/s, 0 h 0 min left$", said, re.MULTILINE)
