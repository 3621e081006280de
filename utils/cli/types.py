"""Types of flags for argparse: each turns a text into a value, or says what is accepted."""
import argparse
import difflib
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def nearest(text: str, names: Iterable[str]) -> str:
    """``; did you mean NAME?`` where one of ``names`` is close to a text, else nothing."""
    known = {name.lower(): name for name in names}
    found = difflib.get_close_matches(text.lower(), known, 1)
    return f"; did you mean {known[found[0]]}?" if found else ""


def one_of(*choices: str) -> Callable[[str], str]:
    """One of ``choices``, upper and lower case alike."""
    def convert(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: {', '.join(choices)}{nearest(text, choices)}")
    return convert


def number(kind: type, least: float = -math.inf, most: float = math.inf, above: float | None = None) -> Callable:
    """A finite ``kind`` (int or float) in [least, most], or larger than ``above``."""
    word = "whole number" if kind is int else "number"
    limits = [f"of {least:g} or more"] * (least > -math.inf) + ([] if above is None else [f"above {above:g}"])
    limits += [f"{'of ' if not limits else ''}{most:g} or less"] * (most < math.inf)
    accepted = " ".join([f"a {word}", " and ".join(limits)]).strip()

    def convert(text: str) -> Any:
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            finite = False
        if not (finite and least <= value <= most and (above is None or value > above)):
            raise argparse.ArgumentTypeError(f"{text!r}; accepted: {accepted}")
        return value
    return convert


def truth(text: str) -> bool:
    """true/false, yes/no, 1/0."""
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: true, false") from None


def polynomial(text: str) -> str:
    """``fit``, or 1 to 6 numbers between commas, as a text."""
    if text.lower() == "fit":
        return "fit"
    convert = number(float, -1e6, 1e6)
    try:
        count = len([convert(word) for word in text.split(",")])
    except argparse.ArgumentTypeError:
        count = 0
    if not 1 <= count <= 6:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: fit, or 1 to 6 numbers between commas")
    return text


def word_or(word: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """``word``, or what ``convert`` accepts."""
    def either(text: str) -> Any:
        if text.lower() == word:
            return word
        try:
            return convert(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(str(error).replace("accepted: ", f"accepted: {word}, or ", 1)) from None
    return either


def existing_file(text: str) -> Path:
    """A file that exists and can be opened."""
    path = Path(text)
    if not os.path.isfile(path):    # unlike Path.is_file, False for a path that can't be looked at
        what = "no such file" if not os.path.exists(path) else f"not a file but a {_kind(path)}"
        raise argparse.ArgumentTypeError(f"{text}: {what}")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be read (permissions)")
    return path


def existing_path(text: str) -> Path:
    """A file that exists and can be opened, or a folder."""
    return Path(text) if os.path.isdir(text) else existing_file(text)


def same_or_path(text: str) -> str | Path:
    """``same``, or a file or folder that exists."""
    return "same" if text.lower() == "same" else existing_path(text)


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "pipe" if path.is_fifo() else "device"
