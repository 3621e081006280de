"""The CUDA sources of op/, compiled with g++, so that their kernels run on the CPU; cuda_runtime.h says how.

Nothing in a .cu file changes: launches, the one thing that is not C++, are rewritten on the way to the compiler.
"""
import ctypes
import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from op import build

HERE = Path(__file__).resolve().parent
LAUNCH = re.compile(r"([A-Za-z_][\w:]*(?:<[^<>;()]*>)?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)
FLAGS = {
    "fused": ("-O2", "-mfma", "-ffp-contract=fast"),        # nvcc makes a * b + c one rounding
    "plain": ("-O2", "-ffp-contract=off"),
    "sanitized": ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined,float-cast-overflow",
                  "-fno-sanitize-recover=undefined,float-cast-overflow"),
}
SANITIZED = os.environ.get("CUDA_ON_CPU") == "sanitized"    # set by sanitized.sh, which loads what it needs


class Emulated:
    """Its functions take what the C++ ones do; the number of threads in the end becomes a stream."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def __getattr__(self, name):
        function = getattr(self.library, name)
        function.restype = ctypes.c_char_p
        return lambda *arguments: function(*arguments[:-1], ctypes.c_void_p(0))


@cache
def emulated(name: str, flags: str, folder: Path = build.FOLDER) -> Emulated:
    """The library of NAME.cu, compiled anew."""
    library = Path(tempfile.mkdtemp(prefix="cuda_on_cpu_")) / f"{name}.so"
    scratch = library.parent
    # Headers hold launches too; #line makes reports name the lines of the sources.
    for source in (*folder.glob("*.h"), folder / f"{name}.cu"):
        text = LAUNCH.sub(lambda m: f"CUDA_ON_CPU({m[1]}, {' '.join(m[2].split())})(" + "\n" * m[0].count("\n"),
                          source.read_text())
        (scratch / source.name).write_text(f'#line 1 "{source}"\n{text}')
    command = [os.environ.get("CXX", "g++"), "-x", "c++", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra",
               "-Werror", "-Wno-unknown-pragmas", *FLAGS["sanitized" if SANITIZED else flags], "-I", str(HERE),
               "-I", str(scratch), str(scratch / f"{name}.cu"), "-o", str(library)]
    subprocess.run(command, check=True)
    return Emulated(ctypes.CDLL(str(library)))


def in_place_of_cpp(monkeypatch, flags: str) -> None:
    """From here on the compiled code for tensors on the CPU is that of CUDA, where there is such."""
    original = build.load

    def load(name, sources):
        return emulated(name, flags) if (build.FOLDER / f"{name}.cu").exists() else original(name, sources)
    monkeypatch.setattr(build, "load", load)
