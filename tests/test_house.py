"""The rules of the house: who imports whom, how long things are, hints, flags, links. CONTRIBUTING.md explains them."""
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("recon_CBCT.py", "recon_MRI_ZSR.py", "train.py", "evaluate.py", "utils/io/scanners/__main__.py",
            "models/prior/__main__.py", "models/convert/__main__.py")

# Rooms that the modules of a room may import from, beside their own. Entry points may import from all of them.
MAY_IMPORT = {
    "op": set(),
    "models": {"op"},
    "physics": {"op"},
    "algorithms": set(),
    "utils.cli": set(),
    "utils.io": {"physics"},
    "utils.run": {"utils.cli", "utils.io", "models", "physics", "algorithms", "op"},    # setup.py, scan.py read options
    "utils.train": {"utils.io", "models", "op"},
    "utils.evaluation": {"utils.io", "utils.run", "utils.cli", "models"},
}
KNOW_FLAGS = ("utils.cli", "utils.run", "utils.evaluation")     # run records and evaluation writes command lines
FOLDERS = sorted({room.split(".")[0] for room in MAY_IMPORT})

SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")) + sorted(ROOT.glob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
# of torchrun, dask, sbatch, tests.bench, pip, xcode-select
OTHER_PROGRAMS = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-conf", "--port",
                  "--nthreads", "--ntasks", "--gpus-per-task", "--published", "--cpu-time", "--index-url", "--install",
                  "--help"}


def room(module: str) -> str:
    """The room of a dotted module name: its first part, in utils its first two."""
    parts = module.split(".")
    return ".".join(parts[:2] if parts[0] == "utils" else parts[:1])


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and room of each import of the project's own in a file, wherever in the file it is."""
    package = name.removesuffix(".py").removesuffix("/__init__").split("/")
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package[:len(package) - node.level + name.endswith("__init__.py")] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            found = [f"{module}.{alias.name}" for alias in node.names] if module == "utils" else [module]
        else:
            continue
        for module in found:
            if module.split(".")[0] in (*FOLDERS, "tests", "recon_CBCT", "recon_MRI_ZSR", "train", "evaluate"):
                yield node.lineno, room(module)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Dotted name and node of all functions, those in classes and functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            if isinstance(node, FUNCTIONS):
                yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.stmt):
            yield from functions(node, prefix)


def public(tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods without a leading underscore at the top of a module or class, and `__init__`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS) and (node.name == "__init__" or not node.name.startswith("_")):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{name}", method) for name, method in public(node))


def without_hint(node: ast.FunctionDef) -> list[str]:
    """Names of the parameters that have no type hint, and "return" where that has none."""
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    missing = [argument.arg for argument in every if not argument.annotation and argument.arg not in ("self", "cls")]
    return missing + ["return"] * (node.returns is None and node.name != "__init__")


def docstrings(tree: ast.AST) -> set[ast.Constant]:
    """The string nodes that are docstrings."""
    return {node.body[0].value for node in ast.walk(tree)
            if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)) and node.body
            and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)}


def prose(page: Path) -> str:
    """The text of a Markdown file without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub puts after # in links to the headings of a Markdown file."""
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)}


def test_rooms_import_only_what_is_below_them():
    wrong = []
    for name in TREES:
        if name in PROGRAMS:
            continue
        home = room(name.removesuffix(".py").replace("/", "."))
        wrong += [f"{name}:{line} imports {other}" for line, other in imports(name)
                  if other != home and other not in MAY_IMPORT.get(home, ())]
    assert not wrong, "\n".join(["imports that CONTRIBUTING.md does not allow:", *wrong])


def test_every_module_is_in_a_room():
    homes = {room(name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")) for name in TREES
             if name not in PROGRAMS}
    assert homes - {"utils"} == MAY_IMPORT.keys()


def test_programs_are_programs_and_all_of_them():
    assert {name for name in TREES if "/" not in name or name.endswith("__main__.py")} == set(PROGRAMS)


def test_functions_are_short():
    wrong = [f"{name}:{node.lineno} {function}: {length} lines" for name, tree in TREES.items()
             for function, node in functions(tree)
             if (length := node.end_lineno - node.lineno + 1) > (60 if name.startswith("recon_") else 80)]
    assert not wrong, "\n".join(["functions above 80 lines, in recon_*.py 60:", *wrong])


@pytest.mark.parametrize(("name", "most"), [("recon_CBCT.py", 110), ("recon_MRI_ZSR.py", 70), ("README.md", 160)])
def test_what_is_read_first_is_short(name, most):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


def test_public_functions_have_type_hints():
    wrong = [f"{name}:{node.lineno} {function}: {', '.join(missing)}" for name, tree in TREES.items()
             for function, node in public(tree) if (missing := without_hint(node))]
    assert not wrong, "\n".join(["without a type hint:", *wrong])


def test_libraries_name_no_flag():
    wrong = []
    for name, tree in TREES.items():
        if name in PROGRAMS or room(name.removesuffix(".py").replace("/", ".")) in (*KNOW_FLAGS, "op"):
            continue                                            # op hands flags to compilers
        descriptions = docstrings(tree)
        wrong += [f"{name}:{node.lineno} {flag}" for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in descriptions
                  for flag in FLAG.findall(node.value)]
    assert not wrong, "\n".join(["flags in libraries, which name their arguments instead:", *wrong])


def test_readme_begins_with_its_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line.split("#")[0].strip() for line in text.split("```")[1].splitlines()[1:]]
    assert commands == ["pip install -r requirements.txt && bash recon_CBCT.sh",
                        "pip install -r requirements.txt && python -m pytest"]
    assert text.index("```") < 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, part = target.partition("#")
        file = page.parent / path if path else page
        if not re.match(r"\w+:", path) and (not file.exists() or (part and part not in anchors(file))):
            wrong.append(target)
    assert not wrong


def test_every_page_of_the_docs_is_reached_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in text] == []


def test_the_docs_name_no_flag_that_does_not_exist():
    helps = [subprocess.Popen([sys.executable, ROOT / name, "--help"] if "/" not in name else
                              [sys.executable, "-m", re.sub(r"(/__main__)?.py$", "", name).replace("/", "."), "--help"],
                              cwd=ROOT, text=True, stdout=subprocess.PIPE)
             for name in (*PROGRAMS, "utils/evaluation/intervals.py")]
    known = {flag for program in helps for flag in FLAG.findall(program.communicate()[0])} | OTHER_PROGRAMS
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    wrong = [f"{page.name}: {flag}" for page in pages for flag in FLAG.findall(page.read_text(encoding="utf-8"))
             if flag not in known]
    assert not wrong, "\n".join(["flags that no program has:", *wrong])
