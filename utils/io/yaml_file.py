"""YAML files, without what YAML passes over in silence or can be made to blow up with."""
import re
from pathlib import Path
from typing import Any

import yaml

LONGEST = 500_000           # characters; they take some 5 s
MOST = 100_000              # values that a text with aliases may stand for
DEEPEST = 50                # sections and lists within each other; the parser takes the square of it in time

# Numbers are decimal. YAML 1.1 has 0100 for 64, 7:00 for 420 and 1e-2 for a text; 0b111, 0x1F, 1_000, 7:00 and dates
# are texts here, which no number is expected to be.
WHOLE = re.compile(r"[-+]?[0-9]+")
REAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last, and nesting below `DEEPEST`."""

    depth = 0
    yaml_implicit_resolvers = {         # noqa: RUF012, of the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("bool", "merge", "null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        names = set()
        for key, _ in node.value:
            name = None if key.tag.endswith(":merge") else self.construct_object(key, deep=True)
            if name is not None and name in names:
                raise ValueError(f"line {key.start_mark.line + 1}: the key {name!r} stands twice")
            names.add(name)
        return super().construct_mapping(node, deep)

    def construct_number(self, node):
        text = self.construct_scalar(node)
        if WHOLE.fullmatch(text):
            return int(text)
        if not REAL.fullmatch(text):
            raise ValueError(f"line {node.start_mark.line + 1}: {short(text)} is no decimal number")
        return float(re.sub(r"\.(?=[a-zA-Z])", "", text))       # .inf and .nan


class _Dumper(yaml.SafeDumper):
    """Puts a text in quotes where `_Loader`, or another reader of YAML, would take it for a number."""


for _kind, _pattern in (("int", WHOLE), ("float", REAL)):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"({_pattern.pattern})$"),
                                     list("-+.0123456789"))
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def parse_yaml(text: str) -> Any:
    """The tree that a YAML text stands for.

    Raises:
        ValueError: In one line, for anything that is no such text. Refused are also keys that stand twice, aliases
            (*name) that stand for themselves or for more than `MOST` values in all, nesting below `DEEPEST`, and texts
            of more than `LONGEST` characters.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters of YAML; accepted: {LONGEST} or fewer")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > max(MOST, len(text)):    # without aliases a value takes a character or more
            raise ValueError(f"aliases for more than {MOST} values; accepted: fewer, or none")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ValueError(f"not a YAML file ({_line(reason)}{where})") from None
    except (LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        # Of a tag that a value does not fit, or a number that is none.
        raise ValueError(f"not a YAML file (a value cannot be read: {_line(str(error))})") from None
    except ValueError as error:
        raise ValueError(f"not a YAML file ({_line(str(error))})") from None


def read_yaml(path: str | Path) -> Any:
    """`parse_yaml` of a file; its ValueError names the file. OSError when the file cannot be read."""
    with open(path, encoding="utf-8") as stream:
        try:
            return parse_yaml(stream.read(LONGEST + 1))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a YAML file ({_line(str(error))})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def yaml_text(tree: Any, **layout: Any) -> str:
    """The text that `parse_yaml` reads back to an equal tree; ``layout`` is for `yaml.dump`."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, **layout)


def short(value: Any) -> str:
    """One line that shows a value, or its beginning."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def key_name(key: Any) -> str:
    """One line that names a key: a text without quotes, or what stands for one."""
    return short(key)[1:-1] if isinstance(key, str) else short(key)


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def _count(node: yaml.Node, known: dict) -> int:
    """How many values a node has with its aliases written out; each node is counted once."""
    if id(node) in known:
        if known[id(node)] is None:
            raise ValueError("an alias stands for itself; accepted: for something else")
        return known[id(node)]
    known[id(node)] = None
    children = node.value if isinstance(node, yaml.CollectionNode) else ()
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in children for child in pair]
    known[id(node)] = total = 1 + sum(_count(child, known) for child in children)
    return total
