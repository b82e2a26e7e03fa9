"""The digest of the user's own code: what it covers, and that it does not depend on what else is loaded."""

import importlib
import os
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from gauntlet.config.shipped import CONF
from gauntlet.config.user_code import code_digest
from gauntlet.jobs.attack_setup import prepare

MODEL = {"_target_": "codenet.net.Net"}
FILES = {
    "codenet/__init__.py": "",
    "codenet/net.py": "from codehelp import SCALE\nfrom torch import nn\nfrom .blocks import deep\n\n\n"
    "class Net(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.scale = SCALE\n"
    "        self.head = nn.Linear(64, 10)\n"
    "        nn.init.eye_(self.head.weight)\n"
    "        nn.init.zeros_(self.head.bias)\n\n"
    "    def forward(self, x):\n"
    "        return self.head(x.flatten(1) * self.scale)\n",
    "codenet/blocks/__init__.py": "from codenet.blocks import deep\n",
    "codenet/blocks/deep.py": "DEEP = 1\n",
    "codenet/other.py": "OTHER = 1\n",
    "codehelp.py": "SCALE = 1.0\n",
    "unused.py": "UNUSED = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def forget():
    for name in [name for name in sys.modules if name.split(".")[0] in ("codenet", "codehelp")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize(("name", "covered"), [(name, name not in ("codenet/other.py", "unused.py")) for name in FILES])
def test_it_covers_what_is_imported_from_beside_the_package(package, name, covered):
    before = code_digest({"model": MODEL})
    (package / name).write_text(FILES[name] + "# changed\n")
    assert (code_digest({"model": MODEL}) != before) is covered


def test_it_is_the_same_whatever_is_loaded(package):
    before = code_digest([MODEL])
    importlib.import_module("codenet.other")
    assert code_digest([MODEL]) == before
    moved = package / "moved"
    moved.mkdir()
    for name in ("codenet", "codehelp.py"):
        (package / name).rename(moved / name)
    forget()
    sys.path.insert(0, str(moved))
    try:
        assert code_digest([MODEL]) == before  # places do not count
    finally:
        sys.path.remove(str(moved))


def test_of_installed_packages_every_file_is_covered(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    (folder / "codenet").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("__init__", "net", "other"):
        (folder / "codenet" / f"{name}.py").write_text("import torch\n")
    os.mkfifo(folder / "codenet" / "pipe.py")  # which nobody writes into
    before = code_digest(MODEL)
    (folder / "codenet" / "other.py").write_text("import torch  # changed\n")
    assert code_digest(MODEL) != before


def test_our_code_is_not_covered():
    assert code_digest({"_target_": "models.small_cnn.SmallCNN"}) == ""  # a name of version 0.1.0
    assert code_digest({"model": {"_target_": "gauntlet.models.small_cnn.SmallCNN"}, "list": [1, None]}) == ""


def test_numbers_and_words_of_the_users_networks_count_and_places_do_not(package):
    net = importlib.import_module("codenet.net").Net()
    digests = [code_digest(MODEL, [net])]
    for name, value in (("scale", 2.0), ("steps", 3), ("table", [1, 2]), ("mean", torch.ones(2)), ("on", True),
                        ("mode", "nearest"), ("mode", "bicubic"), ("order", ["a", "b"])):  # fmt: skip
        setattr(net, name, value)
        digests.append(code_digest(MODEL, [net]))
    assert len(set(digests)) == 9
    net.path = "/somewhere"
    net.sub = nn.Linear(2, 2)
    assert code_digest(MODEL, [net]) == digests[-1]


def test_a_constant_in_a_helper_module_makes_another_run(package, tmp_path):
    def hashed():
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            rest = ["~model", "+model._target_=codenet.net.Net", "trusted_packages=[codenet]", "checkpoint=included"]
            cfg = compose("run", ["attack=pgd", f"runs_dir={tmp_path}/runs", "dataset.limit=4", *rest])
        manifest = prepare(cfg, {"attack": "pgd", "defense": "none"}, "").manifest
        return manifest["config_hash"], manifest["weights"]

    first, weights = hashed()
    assert hashed() == (first, weights)
    (package / "codehelp.py").write_text("SCALE = 0.1\n")
    forget()
    second, same = hashed()
    assert second != first
    assert same == weights
