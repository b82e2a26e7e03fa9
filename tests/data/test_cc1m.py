"""Images without labels in the layout of CC1M; their labels are the predictions of the defense."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from gauntlet.commands.attack_report import lines
from gauntlet.config.shipped import CONF
from gauntlet.data.cc1m import CC1M
from gauntlet.data.validation import check_images
from gauntlet.errors import UserError
from gauntlet.jobs.attack_job import evaluate
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.verification.verify import verify

SMALL = {"classes": 4, "channels": 1, "size": 8, "resize": None}


@pytest.fixture
def folder(tmp_path, pictures, png):
    (tmp_path / "images" / "0").mkdir(parents=True)
    rows = []
    for number, image in enumerate(pictures(12, channels=1)):
        name = f"0/{number:03d}.png"
        (tmp_path / "images" / name).write_bytes(png(image))
        rows.append(f'{name},"a caption, with a comma",http://nowhere/{number}\n')
    (tmp_path / "data.csv").write_text("".join(reversed(rows)))
    return tmp_path


def test_the_id_of_an_image_is_its_row_in_the_list_and_it_has_no_label(folder, pictures):
    split = CC1M(path=str(folder), **SMALL).split("test")
    batch = split.read(slice(None))
    wanted = torch.from_numpy(pictures(12, channels=1).astype(np.float32) / np.float32(255)).squeeze(-1)
    assert torch.equal(batch.x[batch.ids.argsort()].squeeze(1), wanted.flip(0))
    with pytest.raises(UserError, match="label -1, outside"):
        check_images(batch.ids, batch.x, batch.y, 4)


def test_what_counts_is_whether_predictions_stay(folder):
    torch.manual_seed(0)
    network = SmallCNN(4, 1, 8).eval()
    torch.save(network.state_dict(), folder / "net.pt")
    words = [f"dataset.{name}={'null' if value is None else value}" for name, value in SMALL.items()]
    words += [
        f"dataset.path={folder}",
        f"checkpoint={folder / 'net.pt'}",
        f"runs_dir={folder / 'runs'}",
        "dataset=cc1m",
    ]
    words += ["attack=fgsm", "threat.eps=0.05", "runtime.progress=false", "runtime.chunk=5"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", words)
    done = evaluate(cfg, {"attack": "fgsm", "defense": "none", "model": "small_cnn"}, "")
    assert (done.summary.samples, done.summary.clean) == (12, 12)
    assert done.manifest["dataset"]["labels"] == "predicted"
    assert any(line.startswith("labels           predicted by the model itself") for line in lines(done))
    batch = CC1M(path=str(folder), **SMALL).split("test").read(slice(None))
    with torch.no_grad():
        label = dict(zip(batch.ids.tolist(), network(batch.x).argmax(1).tolist(), strict=True))
    for part in done.run.read_parts():
        assert part["label"].to_pylist() == [label[sample] for sample in part["sample"].to_pylist()]
    assert verify(done.run).problems == []


@pytest.mark.parametrize("row", ["", "../secret.png,text", "/etc/image.png,text"])
def test_a_row_that_names_no_file_of_the_set_is_refused(folder, row):
    (folder / "data.csv").write_text(f"0/000.png,text\n{row}\n")
    with pytest.raises(UserError, match=r"data\.csv, line 2: .* is no file below images"):
        CC1M(path=str(folder), **SMALL).split("test")


def test_mistakes_are_said_in_one_line(folder):
    (folder / "data.csv").write_text("0/gone.png,text\n")
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        CC1M(path=str(folder), **SMALL).split("test").read(slice(None))
    with pytest.raises(UserError, match="has test images alone, no validation part"):
        CC1M(path=str(folder), **SMALL).split("validation")
    with pytest.raises(UserError, match=r"lacks data\.csv or the folder images"):
        CC1M(path=str(folder / "images"), **SMALL).split("test")
