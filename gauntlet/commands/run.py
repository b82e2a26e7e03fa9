"""`gauntlet run`, or `python run.py`: evaluate a defense by an attack or a certifier. Imports torch once it runs."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gauntlet.commands.entry import attempt, entry
from gauntlet.commands.terminal import write
from gauntlet.config.shipped import CONF
from gauntlet.system.output import steady_output


def job(cfg: DictConfig) -> None:
    """Evaluate one job and report it; see `gauntlet.commands.entry.attempt` for what becomes of mistakes."""
    from gauntlet.commands.attack_report import lines, next_lines
    from gauntlet.commands.certification_report import certificate_lines
    from gauntlet.commands.run_estimate import estimate_lines
    from gauntlet.jobs.attack_job import evaluate
    from gauntlet.jobs.bracket_job import attack_and_certify
    from gauntlet.jobs.certification_job import certify

    hydra = HydraConfig.get()
    choices = {
        group: name.removesuffix(".yaml")  # with its ending it is the same choice
        for group, name in hydra.runtime.choices.items()
        if name and "/" not in group and "@" not in group
    }

    def work() -> bool:
        command = shlex.join(["python", "run.py", *typed_words(hydra)])
        if cfg.get("estimate"):
            write("\n".join(estimate_lines(cfg, choices, command)))
            return True
        if cfg.get("certifier") is not None and cfg.get("attack") is not None:
            both = attack_and_certify(cfg, choices, typed_words(hydra))
            write("\n".join(lines(both.attacked)))
            if both.certified is not None:
                write("\n".join(certificate_lines(both.certified)))
            if both.judged is not None:
                write(f"adversarial examples that the certifier met: {both.judged.run.path}")
            if both.bracket is not None:
                low, high = both.bracket.interval
                write(f"\nrobust accuracy {both.bracket.words()}; 95 % of both ends {low:.2%} to {high:.2%}")
            ended = [both.attacked.manifest, *([both.certified.manifest] if both.certified else [])]
            return all(manifest["status"] != "failed" for manifest in ended)
        if cfg.get("certifier") is not None:
            certified = certify(cfg, choices, command)
            write("\n".join(certificate_lines(certified)))
            return certified.manifest["status"] != "failed"
        outcome = evaluate(cfg, choices, command)
        one = hydra.mode != RunMode.MULTIRUN  # a sweep sums up at its end
        write("\n".join([*lines(outcome), *(next_lines(outcome) if one else [])]))
        if outcome.manifest["status"] != "running":
            outcome.tracker.evaluation(outcome.run, outcome.manifest, outcome.summary)
        return outcome.manifest["status"] != "failed"

    attempt(work, "stopped; the same command goes on from here", bool(cfg.get("estimate")))


def typed_words(node: Any) -> list[str]:
    """Return the words that compose this job again, those that tell where configurations lie first.

    node: of Hydra itself.
    """
    typed: Any = OmegaConf.to_container(node.overrides.task, resolve=False)
    options: Any = OmegaConf.to_container(node.overrides.hydra, resolve=False)
    folders = [source.path for source in node.runtime.config_sources if source.provider == "command-line"]
    words = [word for folder in folders for word in ("--config-dir", str(folder))]
    if node.job.config_name != "run":
        words += ["--config-name", str(node.job.config_name)]
    return [*words, *(str(word) for word in options if str(word).startswith("hydra.searchpath=")), *map(str, typed)]


compose_and_run = hydra.main(version_base=None, config_path=CONF, config_name="run")(job)


def main(words: Sequence[str] | None = None) -> int:
    """Compose, run, report; return the exit status."""
    if words is not None:  # Hydra reads them from there
        sys.argv[:] = ["run.py", *words]
    with steady_output():
        return entry(compose_and_run)
