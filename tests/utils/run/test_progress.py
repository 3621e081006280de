"""What a run says while it works, and that its last line is said whatever standard output is."""
import io
import os
import subprocess
import sys

import pytest

from utils.io.files import ROOT
from utils.run import progress
from utils.run.progress import Progress, print_line, progress_bar


@pytest.fixture
def clock(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    caplog.set_level("INFO")
    return now


def test_a_line_at_every_fifth_and_at_the_end(clock, caplog):
    loop = Progress(10, "levels")
    for step in range(10):
        clock[0] += 1
        loop.step({"sigma": 1 / (step + 1)})
    assert [record.getMessage() for record in caplog.records] == [
        "  levels: 2 of 10, sigma 0.5, 2 s, about 8 s left", "  levels: 4 of 10, sigma 0.25, 4 s, about 6 s left",
        "  levels: 6 of 10, sigma 0.167, 6 s, about 4 s left", "  levels: 8 of 10, sigma 0.125, 8 s, about 2 s left",
        "  levels: 10 of 10, sigma 0.1, 10 s"]


def test_a_slow_loop_says_something_twice_a_minute(clock, caplog):
    loop = Progress(1000, "levels")
    for _ in range(60):
        clock[0] += 5
        loop.step()
    assert len(caplog.records) == 10 and "6 of 1000, 30 s, about 4970 s left" in caplog.records[0].getMessage()


def test_a_resumed_loop_knows_what_is_left(clock, caplog):
    loop = Progress(100, "levels")
    for done in range(51, 61):
        clock[0] += 2
        loop.step(done=done)
    assert "60 of 100, 20 s, about 80 s left" in caplog.text


def test_items_pass_and_only_slow_ones_are_said(clock, caplog):
    assert list(progress_bar([1, 2, 3], "batches")) == [1, 2, 3] and not caplog.records
    for _ in progress_bar(range(5), "SIRT", leave=False):
        clock[0] += 20
    assert [record.getMessage() for record in caplog.records] == ["  SIRT: 2 of 5, 40 s, about 60 s left",
                                                                  "  SIRT: 4 of 5, 80 s, about 20 s left"]


def test_a_terminal_gets_a_bar(monkeypatch, caplog):
    caplog.set_level("INFO")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    loop = Progress(2, "levels")
    loop.step({"sigma": 0.5})
    loop.step({"sigma": 0.25})
    assert "levels: 100%" in terminal.getvalue() and "sigma=0.25" in terminal.getvalue() and not caplog.records
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress_bar([1], "batches")) == [1]


LINE = "from utils.run.progress import print_line; print_line('R\\u00e9sultats/\\udce4')"


@pytest.mark.parametrize("shell, printed", [
    ("{}", "R\\xe9sultats/\\udce4"), ("{} >&-", ""), ("({} || echo failed) | true", ""), ("{} > /dev/full", "")])
def test_the_last_line_ends_well_whatever_standard_output_is(shell, printed):
    command = "set -o pipefail; " + shell.format('"$0" -c "$1"')
    done = subprocess.run(["bash", "-c", command, sys.executable, LINE], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")


def test_a_notebooks_output_will_do(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    print_line("Résultats")
    assert output.getvalue() == "Résultats\n"
