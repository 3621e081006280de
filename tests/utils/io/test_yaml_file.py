"""YAML text: what is written comes back, numbers are decimal, and what blows up is one line."""
import pytest
import yaml

from utils.io.yaml_file import parse_yaml, read_yaml, yaml_text


def test_a_tree_comes_back_with_texts_that_look_like_numbers():
    texts = ["1e5", "0100", "7:00", "0x1F", "0b1", "1_000", "2000-01-01", "1.10", ".5", "no", "None", "null", "x: y",
             "é", ""]
    tree = {"texts": texts, "numbers": [1e5, 1e-5, 0.1, 1e16, float("inf"), 3, -2], "none": None, "yes": True,
            "a": {"b": []}}
    assert parse_yaml(yaml_text(tree)) == tree and list(parse_yaml(yaml_text(tree))) == list(tree)
    assert [yaml.safe_load(yaml_text(text)) for text in texts] == texts     # other readers do not take them for numbers


@pytest.mark.parametrize("text, value", [
    ("0100", 100), ("-007", -7), ("08", 8), ("1e-2", 0.01), ("-.5E+1", -5.0), ("7.", 7.0), ("!!float 1e3", 1000.0),
    *[(text, text) for text in ("0x1F", "0b111", "0o17", "7:00", "1_000", "1:30:00.5", "2000-01-01", "1.2.3", ".",
                                "-")],
    ("[000, 010, 020]", [0, 10, 20])])
def test_numbers_are_decimal_and_all_else_is_text(text, value):
    found = parse_yaml(f"- {text}" if text != "-" else "['-']")[0]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["!!int 0x1F", "!!int 7:00", "!!float 1_0", "!!int", "!!float x"])
def test_a_number_that_is_said_to_be_one_and_is_none_is_refused(text):
    with pytest.raises(ValueError, match="line 1: .* is no decimal number"):
        parse_yaml(f"a: {text}")


@pytest.mark.parametrize("content", [
    b"[" * 3000, b"{a: " * 3000, b"a: &a [x, x]\n" + b"".join(b"k%d: &k%d [*a, *a]\n" % (k, k) for k in range(2)) +
    b"".join(b"k%d: &k%d [*k%d, *k%d]\n" % (k, k, k - 1, k - 1) for k in range(2, 60)), b"\xff\xfe\x00", b"\x00",
    b"method: DDS\nmethod: DDNM\ndigests: {}", b"a: b: c", b"#" * 600_000])
def test_a_file_that_blows_up_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "file.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="file.yaml: ") as error:
        read_yaml(tmp_path / "file.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
