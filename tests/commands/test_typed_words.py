"""The command on record composes the same job again, wherever its configurations lie."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gauntlet.commands.run import typed_words
from gauntlet.config.shipped import CONF

MINE = "_target_: gauntlet.attacks.pgd.PGD\nsteps: 3\n"


def composed(words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", words, return_hydra_config=True)


def test_the_search_path_goes_along(tmp_path):
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "mine.yaml").write_text(MINE)
    words = [f"hydra.searchpath=[file://{tmp_path}]", "attack=mine", "hydra.verbose=false", "seed=4"]
    found = typed_words(composed(words).hydra)
    assert found == [words[0], "attack=mine", "seed=4"]
    assert composed(found).attack == composed(words).attack


def test_folder_and_file_of_the_configuration_go_along():
    node = OmegaConf.create(
        {
            "overrides": {"task": ["seed=1"], "hydra": ["hydra.mode=RUN"]},
            "runtime": {
                "config_sources": [
                    {"path": CONF, "schema": "file", "provider": "main"},
                    {"path": "/mine/conf", "schema": "file", "provider": "command-line"},
                ]
            },
            "job": {"config_name": "other"},
        }
    )
    assert typed_words(node) == ["--config-dir", "/mine/conf", "--config-name", "other", "seed=1"]
