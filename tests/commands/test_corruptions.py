"""`gauntlet corruptions` prints the errors that a network makes, and its mCE against another."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from gauntlet.commands.corruptions import main
from gauntlet.config.shipped import CONF
from gauntlet.jobs.attack_job import evaluate
from gauntlet.models.small_cnn import SmallCNN

SMALL = ["dataset=corrupted", "dataset.classes=2", "dataset.channels=1", "dataset.size=8", "dataset.corruption=fog",
         "attack=fgsm", "threat.eps=0.01", "runtime.progress=false", "runtime.fold=false"]  # fmt: skip
LABELS = np.arange(10) % 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random images of five severities, and two networks, of which the second is only run at four."""
    place = tmp_path_factory.mktemp("corrupted")
    np.save(place / "fog.npy", np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8))
    np.save(place / "labels.npy", LABELS)
    for seed, defense in enumerate(("one", "two")):
        torch.manual_seed(seed)
        torch.save(SmallCNN(2, 1, 8).state_dict(), place / f"{defense}.pt")
        for severity in range(1, 6):
            words = [f"dataset.path={place}", f"dataset.severity={severity}", f"checkpoint={place / f'{defense}.pt'}"]
            with initialize_config_dir(CONF, version_base=None):
                cfg = compose("run", [*SMALL, *words, f"runs_dir={place / 'runs'}"])
            if (defense, severity) != ("two", 5):
                evaluate(cfg, {"attack": "fgsm", "defense": defense, "model": "small_cnn"}, "")
    return place


def errors(folder, defense):
    """Severity -> error, by the network itself."""
    network = SmallCNN(2, 1, 8).eval()
    network.load_state_dict(torch.load(folder / f"{defense}.pt", weights_only=True))
    x = torch.from_numpy(np.load(folder / "fog.npy").transpose(0, 3, 1, 2).copy()).float() / 255
    with torch.no_grad():
        wrong = network(x).argmax(1).numpy() != np.tile(LABELS, 5)
    return wrong.reshape(5, 10).mean(1)


def test_each_severity_is_printed_with_its_mean(folder, capsys):
    assert main([str(folder / "runs")]) == 0
    said = capsys.readouterr().out
    one, two = (said[said.index(f"{name} · small_cnn") :].splitlines() for name in ("one", "two"))
    cells = [*errors(folder, "one"), errors(folder, "one").mean()]
    assert one[3].split() == ["fog", *(f"{100 * cell:.1f}" for cell in cells)]
    assert one[5] == f"mean error {100 * cells[-1]:.1f} % over 1 of 1 corruptions"
    assert two[3].split() == ["fog", *(f"{100 * cell:.1f}" for cell in errors(folder, "two")[:4]), "–", "–"]
    assert two[5] == "mean error – % over 0 of 1 corruptions"


def test_a_network_is_its_own_reference(folder, capsys):
    assert main([str(folder / "runs"), "--reference", "one"]) == 0
    assert "mCE 100.0 % of one · small_cnn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", "--reference", "three"], "--reference three is the name of 0 of these; there are"),
        (["runs", "--reference", "small_cnn"], "the name of 2 of these"),
        (["nowhere"], "there is no finished run of dataset=corrupted; make some"),
    ],
)
def test_what_is_not_there_is_one_line(folder, capsys, words, said):
    assert main([str(folder / words[0]), *words[1:]]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
