"""Every command of README and docs/ does what it says there, on a few images: none can rot unseen."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.commands.attack_report import lines
from gauntlet.commands.certification_report import certificate_lines
from gauntlet.commands.command_line import by_file
from gauntlet.commands.subcommands import COMMANDS
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import checked
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.bracket_job import _without, attack_and_certify
from gauntlet.jobs.certification_job import certify
from gauntlet.jobs.setup import KEYS
from gauntlet.jobs.training_job import KEYS as TRAINING_KEYS
from gauntlet.transfer.surrogates import owned

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
YOURS = (
    "networks.load",
    "mine.networks",
    "model=linear",
    "attack=corner",
    "defense=rounding",
    "mine.data",
    "mine/data.py",
    "efficientnet_lite_pytorch",
)
"""Commands that need files which the page tells the reader to write, which tests of their own run, or to fetch."""

FEW = ["dataset.limit=2", "runtime.chunk=2", "runtime.progress=false"]
MANY = ("threat=l2 defense=gaussian_smoothing", "attack=sga", "attack=uap", "defense=bat")
LONG = (
    "attack=autoattack",
    "gauntlet_deep",
    "crossmax_self",
    "arc_plus",
    "attack.rounds=30",
    "attack=pgd,autoattack",
    *MANY,
)
"""Marks of commands that take long on two images too: those are composed and checked, not run."""

TRAINS = (
    "recipe@",
    "checkpoint=",
    "dataset=",
    "dataset.indices",
    "dual_smoothing",
    "defense.members=[pgd_at,mart]",
    "defense=partitioned",
)
"""Marks of commands that would train a network or read files: those are composed and checked, not run."""


def commands(page):
    """The commands of a page, as words: those in its blocks of shell, and its indented lines."""
    shell, kept = False, []
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            shell = not shell and line.strip() == "```bash"
        elif shell or line.startswith("    "):
            kept.append(line.strip())
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        if re.match(r"(PYTHONPATH=\S+ )?(gauntlet |python \S*(run|train)\.py|torchrun )", line):
            words = shlex.split(line, comments=True)
            yield words[1:] if "=" in words[0] else words


ALL = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in commands(page)]


def overrides(words):
    """Which configuration a command composes, run or train, and its overrides, of a sweep those of the first job."""
    program = next(word for word in words if re.search(r"(^|/)(run|train)(\.py)?$", word))
    kept = [word for word in words[words.index(program) + 1 :] if not word.startswith(("-m", "hydra", "--"))]
    kind = "train" if "train" in program else "run"
    parsed = OverridesParser.create().parse_overrides(kept)
    first = [
        f"{one.input_line.partition('=')[0]}={next(iter(one.sweep_string_iterator()))}"
        if one.is_sweep_override()
        else word
        for one, word in zip(parsed, kept, strict=True)
    ]
    return kind, by_file(first)


def composed(kind, words):
    with initialize_config_dir(CONF, version_base=None):
        return compose(kind, words)


EVALUATIONS = [
    pytest.param(words, id=f"{page}: {' '.join(words)}")
    for page, words in ALL
    if re.search(r"(^| )(\S*run\.py|gauntlet run|train\.py|\S*/train\.py) |gauntlet train", " ".join(words) + " ")
    and not any(mark in " ".join(words) for mark in YOURS)
]


def test_the_pages_have_commands():
    assert len(ALL) > 80
    assert len(EVALUATIONS) > 70


@pytest.mark.parametrize("words", EVALUATIONS)
def test_it_composes_and_every_option_exists(words):
    kind, given = overrides(words)
    if kind == "train":
        checked(composed(kind, given), TRAINING_KEYS)
        return
    cfg = owned(composed(kind, given))
    both = cfg.get("attack") is not None and cfg.get("certifier") is not None
    for half in ("certifier", "attack") if both else (None,):  # an attack and a certifier are two runs of one job
        checked(_without(cfg, half) if half else cfg, KEYS)


def _is_quick(words):
    text = " ".join(words)
    return overrides(words)[0] == "run" and not any(mark in text for mark in (*TRAINS, *LONG))


def _run_once(params):
    """Of the quick commands one for each run: another order of the words, or another program, is the same run."""
    return list({tuple(sorted(overrides(p.values[0])[1])): p for p in params if _is_quick(p.values[0])}.values())


BRIEF = {"steps": 10, "rounds": 2, "round_steps": 10}
"""What an attack spends at most where the command does not say."""


def shortened(attack, budget):
    """The node of an attack that spends no more than that."""
    fewer = {key: min(most, attack[key]) for key, most in budget.items() if isinstance(attack.get(key), int)}
    return OmegaConf.merge(attack, fewer)


@pytest.mark.parametrize("words", _run_once(EVALUATIONS))
def test_it_runs_on_a_few_images(words, tmp_path, monkeypatch):
    monkeypatch.setattr(Gauntlet, "RELAXED", replace(Gauntlet.RELAXED, cycles=2, restarts=0))  # of no knob
    _, given = overrides(words)
    given = [word for word in given if not word.startswith(("runtime.shard", "dataset.limit", "logger="))]
    queries = ["attack.queries=50"] if any(f"attack={name}" in given for name in ("rays", "hop_skip_jump")) else []
    queries += ["defense.parts.model.recipe.epochs=1"] if "parts.model.recipe" in " ".join(given) else []  # it trains
    if "attack=gauntlet" in given and not any(word.startswith("attack.queries=") for word in given):
        queries += ["attack.trial=20", "attack.queries=50"]
    cfg = composed("run", [*given, *FEW, *queries, f"runs_dir={tmp_path}"])
    for key, value in {"samples": 2000, "selection": 20}.items():
        if cfg.get("certifier") is not None and key in cfg.certifier:
            cfg.certifier[key] = value
    if cfg.get("attack") is not None and not any(word.startswith("attack.") for word in given):
        cfg.attack = shortened(cfg.attack, BRIEF)
    for name, stage in (cfg.get("attack") or {}).get("stages", {}).items():
        cfg.attack.stages[name] = shortened(stage, BRIEF | {"queries": 20})
    choices = {
        word.partition("=")[0]: word.partition("=")[2]
        for word in given
        if re.match(r"(attack|defense|certifier)=", word)
    }
    if cfg.get("certifier") is not None and cfg.get("attack") is not None:
        done = attack_and_certify(cfg, choices, given)
        outcome, said = done.attacked, [done.bracket.words(), *lines(done.attacked)]
    elif cfg.get("certifier") is not None:
        outcome = certify(cfg, choices, "")
        said = certificate_lines(outcome)
    else:
        outcome = evaluate(cfg, choices, "")
        said = lines(outcome)
    assert outcome.manifest["status"] == "done"
    assert any("accuracy" in line or "certified" in line for line in said)


def test_every_other_command_exists():
    for page, words in ALL:
        if words[0] == "gauntlet":
            assert any(" ".join(words[1 : 1 + count]) in COMMANDS for count in (1, 2)), f"{page}: {' '.join(words)}"
