"""Cards of priors: where they are found, what they may leave out, mistakes in one line."""
import json

import pytest
import yaml

from utils.io.files import file_digest
from utils.io.prior_file import NoCard, card_text, check_digest, parse_card, prior_digest, read_prior
from utils.io.yaml_file import parse_yaml

ADM = {"network": "adm", "architecture": {"image_size": 64, "num_channels": 32, "in_channels": 1}}


def write(path, tree):
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("given", ["folder", "card", "weights", "named like the weights", "config"])
def test_a_prior_is_found_by_its_folder_its_card_or_its_weights(tmp_path, given):
    weights = tmp_path / "mine.pt"
    weights.write_bytes(b"1")
    path, config = {"folder": (tmp_path, None), "card": (tmp_path / "prior.yaml", None)}.get(given, (weights, None))
    if given == "config":
        config = write(tmp_path / "elsewhere.yml", ADM)
    elif given == "named like the weights":
        write(tmp_path / "prior.yaml", ADM | {"intensities": [0, 1]})
        write(tmp_path / "mine.yaml", ADM)
    else:
        write(tmp_path / "prior.yaml", ADM)
    card, found = read_prior(path, config)
    assert found == weights and (card.network, card.image_size, card.prediction) == ("adm", 64, "epsilon")
    assert (card.intensities, card.schedule) == ((-1, 1), {"kind": "linear"})


def test_a_config_of_the_published_layout_is_a_card(data_dir):
    card, _ = read_prior("w.pth", data_dir / "ncsnpp_tiny.yaml")
    assert (card.network, card.prediction, card.intensities) == ("ncsnpp", "score", (0, 1))
    assert card.schedule == {"kind": "sigmas", "sigma_min": 0.01, "sigma_max": 378}
    assert parse_card(parse_yaml(card_text(card))) == card


def test_a_vp_config_says_so(data_dir):
    tree = yaml.safe_load((data_dir / "ncsnpp_tiny.yaml").read_text())
    tree["training"]["sde"], tree["data"]["centered"] = "vpsde", True
    card = parse_card({"network": "ncsnpp", "architecture": tree})
    assert (card.prediction, card.schedule) == ("epsilon", {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0})
    assert card.intensities == (-1, 1)


def test_a_folder_of_diffusers_with_and_without_a_card(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 96}))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500,
                 "prediction_type": "v_prediction"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    card, weights = read_prior(tmp_path)
    assert weights.parent.name == "unet" and (card.image_size, card.prediction) == (96, "v")
    assert card.schedule == {"kind": "cosine", "steps": 500, "zero_terminal_snr": False}
    write(tmp_path / "prior.yaml", {"intensities": [0, 1], "modality": "mr"})
    card, _ = read_prior(tmp_path)
    assert (card.intensities, card.modality, card.prediction) == ((0, 1), "mr", "v")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler | {"beta_schedule": "other"}))
    with pytest.raises(ValueError, match="scheduler_config.json: 'DDPMScheduler', beta_schedule 'other'; accepted"):
        read_prior(tmp_path)


@pytest.mark.parametrize("changes, named", [
    ({"prediction": "noise"}, "prediction: 'noise'; accepted: score or epsilon"),
    ({"intensities": [1, 0]}, "intensities: .1, 0.; accepted: two numbers that rise"),
    ({"modalty": "ct"}, "modalty: unknown key; the nearest is modality"),
    ({"schedule": {"steps": 3}}, "schedule.kind: None"), ({"architecture": 3}, "accepted: a card"),
    ({"pixel_size": -1}, "pixel_size: -1"), ({"weights": "../../etc/passwd"}, "accepted: the name of a file"),
    ({"weights": "gone.pt"}, "gone.pt: no such file"), ({"network": None}, "network: None"),
    ({"plane": "oblique"}, "plane: 'oblique'; accepted: axial or coronal or sagittal")])
def test_a_mistake_in_a_card_is_one_line(tmp_path, changes, named):
    (tmp_path / "w.pt").write_bytes(b"")
    write(tmp_path / "prior.yaml", ADM | changes)
    with pytest.raises((ValueError, OSError), match=named) as error:
        read_prior(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_weights_alone_a_pickle_and_several_weights_are_refused(tmp_path):
    for name in ("a.pt", "b.pt", "c.pkl"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(NoCard, match="no prior.yaml beside it"):
        read_prior(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"c.pkl: a pickle.*python -m models.convert"):
        read_prior(tmp_path / "c.pkl")
    with pytest.raises(ValueError, match=r"holds no prior.yaml"):
        read_prior(tmp_path)
    write(tmp_path / "prior.yaml", ADM)
    with pytest.raises(ValueError, match=r"2 files of weights \(a.pt, b.pt\)"):
        read_prior(tmp_path)


def test_the_digest_is_that_of_the_weights_that_the_card_names(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(name.encode())
    write(tmp_path / "prior.yaml", ADM | {"weights": "a.pt", "sha256": file_digest(tmp_path / "a.pt")})
    card, weights = read_prior(tmp_path)
    check_digest(card, weights)
    before = prior_digest(card, weights)
    other, path = read_prior(tmp_path / "b.pt")     # the same card, of other weights
    check_digest(other, path)
    assert other.sha256 is None and path.name == "b.pt"
    weights.write_bytes(b"other")
    assert prior_digest(card, weights) != before
    with pytest.raises(ValueError, match="a.pt: another file than its card describes"):
        check_digest(card, weights)
