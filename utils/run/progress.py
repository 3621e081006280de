"""What a run says while it works: a bar on a terminal, elsewhere a line now and then."""
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from utils.cli.flags import speaks

log = logging.getLogger(__name__)

EVERY = 30.0     # s, after which a line is due where there is no terminal


def on_terminal() -> bool:
    """Whether standard error, where bars are drawn, is there and is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty() and speaks()


class Progress:
    """The steps of a loop: a bar on a terminal, else a line at a fifth of the steps, every `EVERY` s, and at the end.

    Args:
        steps: how many there are.
        label: what they are, in the plural.
        rarely: leave out the lines at fifths and at the end, for loops that are mostly short.
        bar: options of `tqdm` for the bar.
    """

    def __init__(self, steps: int, label: str, rarely: bool = False, **bar: Any):
        self.steps, self.label, self.rarely = steps, label, rarely
        self.done, self.begun = 0, time.perf_counter()
        self.first: int | None = None
        self.said = self.begun
        self.bar = tqdm(desc=label, total=steps, **bar) if on_terminal() else None

    def step(self, figures: dict[str, float] | None = None, done: int | None = None) -> None:
        """Count a step, or go to ``done``; ``figures`` are shown beside it."""
        self.done = self.done + 1 if done is None else done
        if self.first is None:
            self.first = self.done - 1
        words = {key: f"{value:.3g}" for key, value in (figures or {}).items()}
        if self.bar is not None:
            self.bar.set_postfix(words, refresh=False)
            self.bar.update(self.done - self.bar.n)
            if self.done >= self.steps:
                self.bar.close()
            return
        now = time.perf_counter()
        fifth = not self.rarely and (self.done % -(-self.steps // 5) == 0 or self.done == self.steps)
        if fifth or now - self.said >= EVERY:
            self.said, took = now, now - self.begun
            left = took * (self.steps - self.done) / (self.done - self.first)
            log.info("  %s: %d of %d, %s%.0f s%s", self.label, self.done, self.steps,
                     "".join(f"{key} {value}, " for key, value in words.items()), took,
                     f", about {left:.0f} s left" if self.done < self.steps else "")

    def close(self) -> None:
        """End the bar of a loop that ended early."""
        if self.bar is not None:
            self.bar.close()


def progress_bar(items: Collection, label: str, **bar: Any) -> Iterator:
    """The items, with a bar on a terminal and elsewhere a line every `EVERY` s."""
    progress = Progress(len(items), label, rarely=True, **bar)
    try:
        for item in items:
            yield item
            progress.step()
    finally:
        progress.close()


def print_line(text: str) -> None:
    """Print a line whatever standard output is: gone, a pipe that nobody reads, or one that lacks its letters."""
    if sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except (OSError, ValueError):       # closed; what is still in its buffer would fail again at the end of the program
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
