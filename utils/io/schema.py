"""Trees of YAML or JSON as frozen dataclasses: every mistake is one line that names the path of its key."""
import difflib
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from utils.io.yaml_file import key_name, short

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Check:
    """In Annotated[type, Check(...)]: what a value must be besides its type, and how an error calls all of that."""
    words: str
    test: Callable[[Any], bool]


def read(kind: Any, tree: Any, path: str = "") -> Any:
    """The tree as a ``kind``: a dataclass, whose fields with a default may be left out, or what its fields may be.

    These are bool, int, float (finite), str, None, list[X], tuple[X, ...], dict[str, X], Literal, unions, dataclasses,
    Annotated[X, Check(...)], and Any. No value is converted, except that lists become tuples.

    Args:
        kind: What to read.
        tree: What `parse_yaml` or `json.loads` gives.
        path: Names the tree in errors.

    Raises:
        ValueError: In one line: the key's path, what was found, what is accepted.
    """
    inner = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        known = {field.name: field.default is field.default_factory is MISSING for field in fields(kind)}
        check_keys(tree, known, [name for name, needed in known.items() if needed], path)
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{key: read(hints[key], value, f"{path}.{key}".lstrip(".")) for key, value in tree.items()})
    if get_origin(kind) is dict and isinstance(tree, dict):
        for key in tree:
            if not is_line(key):
                raise ValueError(f"{path}: the name {short(key)}; accepted: a text of one line (in quotes)")
        return {key: read(inner[1], value, f"{path}.{key}") for key, value in tree.items()}
    if not _fits(kind, tree):
        raise ValueError(f"{path}: {short(tree)}; accepted: {_words(kind)}")
    return tuple(tree) if isinstance(tree, list) and get_origin(kind) is not list and kind is not Any else tree


def check_keys(tree: Any, known: Iterable[str], needed: Iterable[str] = (), path: str = "") -> None:
    """Raise ValueError unless the tree is a section with keys among ``known`` and all those ``needed``."""
    prefix, known = f"{path}." if path else "", list(known)
    if not isinstance(tree, dict):
        raise ValueError(f"{path}{': ' * bool(path)}{short(tree)}; accepted: a section with the keys "
                         f"{', '.join(known)}")
    for key in tree:
        if key not in known:
            raise ValueError(f"{prefix}{key_name(key)}: unknown key; {nearest(key, known)}")
    for key in needed:
        if key not in tree:
            raise ValueError(f"{prefix}{key}: missing")


def nearest(name: Any, names: Iterable[str]) -> str:
    """What to say about a name that is none of ``names``: the one that is most like it, or all of them."""
    lower = {each.lower(): each for each in names}
    like = difflib.get_close_matches(str(name)[:100].lower(), lower, 1)
    return f"the nearest is {lower[like[0]]}" if like else f"accepted: {', '.join(lower.values())}"


def is_line(value: Any) -> bool:
    """Whether the value is a text of one line that can be printed."""
    return (isinstance(value, str) and 0 < len(value) == len(value.splitlines()[0])
            and not any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in value))


def _fits(kind: Any, value: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        return _fits(inner[0], value) and inner[1].test(value)
    if origin in (Union, UnionType):
        return any(_fits(each, value) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(inner[0], each) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(str, key) and _fits(inner[1], each) for key, each in value.items())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return type(value) is kind


def _words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return inner[1].words
    if origin in (Union, UnionType):
        return " or ".join(_words(each) for each in inner if each is not NoneType)
    if origin is Literal:
        return " or ".join(str(each).lower() if isinstance(each, bool) else str(each) for each in inner)
    if origin in (list, tuple):
        return f"a list of {_words(inner[0]).removeprefix('a ')}s"
    return WORDS.get(kind, "a section with keys")
