"""Configs: published keys, and one line for what is misspelt, missing or of a wrong type."""
from itertools import pairwise

import pytest
import yaml

from utils.io.config import load_config


@pytest.fixture
def tree(data_dir):
    return yaml.safe_load((data_dir / "ncsnpp_tiny.yaml").read_text())


def write(path, tree):
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("name", ["AAPM_256_ncsnpp_Chung", "BMR_ZSR_256", "demo_CT_128", "demo_MR_96"])
def test_shipped_configs_load(data_dir, name):
    config = load_config(data_dir.parents[1] / "configs" / "ve" / f"{name}.yaml")
    assert config.model.name == "ncsnpp" and config.sampling.snr == 0.16


def test_published_configs_are_the_published_architecture(data_dir):
    for name in ("AAPM_256_ncsnpp_Chung", "BMR_ZSR_256"):
        config = load_config(data_dir.parents[1] / "configs" / "ve" / f"{name}.yaml")
        assert (config.data.image_size, config.model.nf, config.model.num_res_blocks) == (256, 128, 4)
        assert list(config.model.ch_mult) == [1, 2, 2, 2] and list(config.model.attn_resolutions) == [16]
        assert (config.model.sigma_max, config.model.sigma_min, config.model.num_scales) == (378, 0.01, 2000)


@pytest.mark.parametrize("section, key, value, reason", [
    ("model", "nff", 16, "model.nff: unknown key; the nearest is nf$"),
    ("model", "nf", "16", "model.nf: '16'; accepted: a whole number"),
    ("model", "nf", True, "model.nf: True; accepted: a whole number"),
    ("model", "fir", 1, "model.fir: 1; accepted: true or false"),
    ("model", "sigma_max", float("nan"), "model.sigma_max"),
    ("model", "ch_mult", 3, "model.ch_mult: 3; accepted: a list of whole numbers"),
    ("model", "ch_mult", [1, 1.5], "model.ch_mult: .*accepted: a list of whole numbers"),
    ("sampling", "noise_removal", False, "sampling.noise_removal: False; accepted: true"),
    ("sampling", "predictor", "euler", "sampling.predictor: 'euler'; accepted: reverse_diffusion"),
])
def test_a_wrong_key_is_named(tmp_path, tree, section, key, value, reason):
    tree[section][key] = value
    with pytest.raises(ValueError, match=reason):
        load_config(write(tmp_path / "config.yaml", tree))


def test_a_missing_key_or_section_is_named(tmp_path, tree):
    del tree["model"]["nf"]
    with pytest.raises(ValueError, match="config.yaml: model.nf: missing"):
        load_config(write(tmp_path / "config.yaml", tree))
    del tree["model"]
    with pytest.raises(ValueError, match="config.yaml: model: missing"):
        load_config(write(tmp_path / "config.yaml", tree))


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "a: [1,\n", "model: 3\n", "\x00"])
def test_other_text_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(ValueError, match="config.yaml") as error:
        load_config(write(tmp_path / "config.yaml", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text, reason", [
    ("seed: 1\nseed: 2", "the key 'seed' stands twice"), ("a: {b: 1, b: 2}", "line 1: the key 'b' stands twice"),
    ("[" * 5000, "nested more than 50 deep"), ("a: &a [*a]", "an alias stands for itself"),
    ("a: &a [1, 1]\n" + "".join(f"{y}: &{y} [*{x}, *{x}]\n" for x, y in pairwise("abcdefghijklmnopqrstu")),
     "aliases for more than 100000 values"), ("a: !!int ''", "line 1: '' is no decimal number"),
    ("a: " + "9" * 5000, "digits"),
    ("a: !!python/object/apply:os.mkdir [ran]", "constructor"), ("# " + "x" * 500_000, "500001 characters")])
def test_yaml_that_is_refused_in_one_line(tmp_path, text, reason):
    with pytest.raises(ValueError, match=f"config.yaml: .*{reason}") as error:
        load_config(write(tmp_path / "config.yaml", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text, value", [
    ("016", 16), ("+7", 7), ("!!int 016", 16), ("0x10", None), ("0b11", None), ("0o20", None), ("1:30", None),
    ("1_6", None), ("16.0", None)])
def test_whole_numbers_are_decimal_or_refused_by_name(tmp_path, tree, text, value):
    path = write(tmp_path / "config.yaml", yaml.safe_dump(tree).replace("nf: 16", f"nf: {text}"))
    if value is not None:
        assert load_config(path).model.nf == value
        return
    with pytest.raises(ValueError, match=f"model.nf: '?{text}'?; accepted: a whole number"):
        load_config(path)


@pytest.mark.parametrize("text, value", [("1e-2", 0.01), ("01.5", 1.5), (".5", 0.5), ("2.E+1", 20), ("7:00.5", None),
                                         ("1_0.5", None), (".inf", None), ("1e999", None), (".nan", None)])
def test_numbers_are_decimal_and_finite_or_refused_by_name(tmp_path, tree, text, value):
    path = write(tmp_path / "config.yaml", yaml.safe_dump(tree).replace("snr: 0.16", f"snr: {text}"))
    if value is not None:
        assert load_config(path).sampling.snr == value
        return
    with pytest.raises(ValueError, match="sampling.snr: .*; accepted: a number"):
        load_config(path)


def test_aliases_and_merged_sections_are_accepted(tmp_path, tree):
    text = yaml.safe_dump(tree).replace("model:", "model: &all", 1) + "seed: &n 3\n"
    assert load_config(write(tmp_path / "config.yaml", text.replace("seed: 42\n", ""))).seed == 3


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a YAML file"):
        load_config(tmp_path / "config.yaml")


def test_preconditioning_may_be_left_out(tmp_path, tree):
    assert load_config(write(tmp_path / "config.yaml", tree)).training.preconditioning == "none"
    tree["training"]["preconditioning"] = "edm"
    assert load_config(write(tmp_path / "config.yaml", tree)).training.preconditioning == "edm"
