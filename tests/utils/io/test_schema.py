"""Trees against dataclasses: what fits is kept as it is, and what does not is one line with the path of its key."""
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from utils.io.schema import Check, nearest, read


@dataclass(frozen=True)
class Item:
    count: Annotated[int, Check("a whole number above 0", lambda count: count > 0)]
    note: str | None = None


@dataclass(frozen=True)
class File:
    items: dict[str, Item]
    kind: Literal["one", "two", True]
    scale: float = 1.0
    sizes: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    yes: bool = False
    blocks: dict[str, dict] = field(default_factory=dict)


TREE = {"items": {"a": {"count": 3}, "b": {"count": 1, "note": "x"}}, "kind": "two", "scale": 2, "sizes": [1, 2],
        "names": ["x"]}


def test_what_fits_is_read():
    file = read(File, TREE)
    assert file == File({"a": Item(3), "b": Item(1, "x")}, "two", 2, (1, 2), ["x"])
    assert type(file.scale) is int      # as it was written
    assert read(File, {"items": {}, "kind": True}) == File({}, True)


@pytest.mark.parametrize("change, message", [
    ({"items": None}, "items: None; accepted: a section with keys"), ({"items": {"a": 3}},
                                                                      "items.a: 3; accepted: a section"),
    ({"items": {"a": {"count": 0}}}, "items.a.count: 0; accepted: a whole number above 0$"),
    ({"items": {"a": {"count": "3"}}}, "items.a.count: '3'; accepted: a whole number above 0$"),
    ({"items": {"a": {"count": True}}}, "items.a.count: True"), ({"items": {"a": {"count": 3.0}}},
                                                                 "items.a.count: 3.0"),
    ({"items": {"a": {}}}, "items.a.count: missing$"), ({"items": {"a": {"count": 3, "note": 3}}},
                                                        "note: 3; accepted: a text$"),
    ({"items": {"a": {"cuont": 3}}}, "items.a.cuont: unknown key; the nearest is count$"),
    ({"items": {3: {"count": 3}}}, "items: the name 3; accepted: a text of one line"),
    ({"items": {"a\nb": {"count": 3}}}, "items: the name 'a.nb'"), ({"items": {"": {"count": 3}}},
                                                                    "items: the name ''"),
    ({"kind": "three"}, "kind: 'three'; accepted: one or two or true$"), ({"kind": 1}, "kind: 1"),
    ({"scale": float("nan")}, "scale: nan; accepted: a number$"), ({"scale": 10**400}, "scale: 1000"),
    ({"scale": False}, "scale"),
    ({"scale": float("inf")}, "scale: inf"), ({"sizes": 3}, "sizes: 3; accepted: a list of whole numbers$"),
    ({"sizes": [1, 2.5]}, "sizes: "), ({"names": [1]}, "names: .1.; accepted: a list of texts$"), ({"yes": 1},
                                                                                                   "yes: 1"),
    ({"blocks": {"a": 3}}, "blocks.a: 3; accepted: a section with keys$"), ({3: 4},
                                                                            "3: unknown key; accepted: items, kind"),
    ({"KIND": 4}, "KIND: unknown key; the nearest is kind$"), ({None: 4}, "None: unknown key")])
def test_what_does_not_fit_is_named_by_its_path(change, message):
    with pytest.raises(ValueError, match=f"^(file.)?{message}" if not message.startswith("note") else message) as error:
        read(File, TREE | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tree", [None, 3, [], "x"])
def test_a_tree_that_is_no_section(tree):
    with pytest.raises(ValueError, match="; accepted: a section with the keys items, kind, "):
        read(File, tree)


def test_the_nearest_name_is_blind_to_case():
    assert nearest("nfe", ["NFE", "seed"]) == "the nearest is NFE" and nearest("zzz", ["NFE",
                                                                                       "seed"]) == "accepted: NFE, seed"
