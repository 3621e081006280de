"""The parts of a training run: noise levels, learning rate, averaged weights, look-ahead, signals, reports."""
import math
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import EMA
from op.processes import Processes
from utils.train.monitor import Monitor, denoising_errors, validation_levels
from utils.train.processes import ahead, stop_signals
from utils.train.training import averaged_weights, check_same_run, learning_rate, noise_levels


def test_noise_levels_are_log_normal_within_the_config():
    u = (torch.arange(20_000) + 0.5) / 20_000
    wide = noise_levels(u, 1e-6, 1e5).log()
    assert wide.mean().item() == pytest.approx(math.log(0.15), abs=0.01)
    assert wide.std().item() == pytest.approx(2, rel=0.01)
    assert noise_levels(u, 1e-6, 1e5, 2).log().mean().item() == pytest.approx(math.log(0.3), abs=0.01)
    cut = noise_levels(u, 0.01, 5)
    assert cut.dtype == torch.float32 and 0.01 <= cut.min() < 0.0101 and 4.9 < cut.max() <= 5
    # Truncated, not clamped: the shares of two ranges are as without the limits.
    inside = wide.exp()[(wide.exp() >= 0.01) & (wide.exp() <= 5)]
    assert ((cut < 0.1).float().mean() - (inside < 0.1).float().mean()).abs() < 0.01
    ends = noise_levels(torch.tensor([0.0, 1.0]), 0.01, 378)
    torch.testing.assert_close(ends, torch.tensor([0.01, 378.0]))


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(step, 1000, 2.0) for step in range(1000)]
    assert rates[0] == 0.02 and max(rates) < 2 and rates[99] == pytest.approx(2, rel=0.03) and rates[-1] < 1e-4
    assert learning_rate(0, 1, 1.0) == 1


def test_averaged_weights_are_there_for_a_while():
    network = nn.Linear(2, 2)
    ema, kept = EMA(network, 0.9), network.weight.detach().clone()
    ema.shadow_params[0].fill_(7)
    with pytest.raises(KeyError), averaged_weights(network, ema):
        assert not network.training and (network.weight == 7).all()
        raise KeyError
    assert network.training and torch.equal(network.weight, kept) and network.weight.requires_grad


def test_ahead_keeps_the_order_and_works_before_it_is_asked():
    done = []
    values = ahead(lambda item: (done.append(item), item**2)[1], range(4))
    assert next(values) == 0
    limit = time.monotonic() + 10
    while len(done) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    assert done == [0, 1] and list(values) == [1, 4, 9] and list(ahead(str, [])) == []


def test_an_error_ahead_arrives():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, [1, 0]))


def test_the_first_signal_is_kept_the_second_is_as_ever():
    with pytest.raises(KeyboardInterrupt), stop_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_one_process_is_its_own_average(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    value = torch.tensor(3.0)
    Processes().average([value])
    assert value == 3


def test_the_setting_that_differs_is_named():
    check_same_run("a.pth", {"--lr": 1, "other": 2}, {"--lr": 1})
    with pytest.raises(ValueError, match="--lr 2: a.pth was made with 1; accepted, to go on: the same"):
        check_same_run("a.pth", {"--lr": 1}, {"--lr": 2})
    with pytest.raises(ValueError, match="cannot be continued"):
        check_same_run("a.pth", None, {"--lr": 2})


def test_validation_levels_are_those_of_the_prior():
    assert validation_levels(0.01, 50) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50]
    assert validation_levels(0.03, 3) == [0.05, 0.1, 0.2, 0.5, 1, 2, 3]


def test_denoising_errors_of_the_known_score():
    images = torch.randn(40, 1, 16, 16)     # unit variance: the error of the best denoiser is s^2 / (1 + s^2)

    def score(x, sigma):
        return -x / (1 + sigma[:, None, None, None]**2)

    errors = denoising_errors(score, images, [0.1, 1, 10], 7)
    assert errors == pytest.approx([0.01 / 1.01, 0.5, 100 / 101], rel=0.05)
    assert errors == pytest.approx(denoising_errors(score, images, [0.1, 1, 10], 40), rel=1e-5)


def test_tables_go_on_where_the_checkpoint_was(tmp_path):
    first = Monitor(tmp_path, 0, 100, 4, False)
    for step in (0, 5, 10):
        first.row("validation", step, {"0.1": f"{step}.5"}, header=True)
    Monitor(tmp_path, 5, 100, 4, False).row("validation", 9, {"0.1": "7"}, header=True)
    assert (tmp_path / "validation.csv").read_text() == "step,0.1\n0,0.5\n5,5.5\n9,7\n"
    Monitor(tmp_path, 0, 100, 4, False).row("validation", 0, {"0.1": "1"})
    assert (tmp_path / "validation.csv").read_text() == "0,1\n"


def test_the_grid_shows_the_images_in_reading_order(tmp_path):
    from matplotlib.image import imread

    images = torch.linspace(-0.2, 1.2, 8)[:, None, None, None].expand(8, 1, 3, 5)
    Monitor(tmp_path, 0, 100, 4, False).picture("samples", 500, images)
    picture = imread(tmp_path / "samples" / "step-000500.png")[..., 0]
    assert picture.shape == (6, 20)
    assert np.allclose(picture[::3, ::5].ravel(), images[:, 0, 0, 0].clamp(0, 1), atol=0.01)
