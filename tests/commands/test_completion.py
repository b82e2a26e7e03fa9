"""The completion script in a real bash, and a console command that answers --help without its heavy imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.commands.completion import main
from gauntlet.commands.subcommands import COMMANDS
from gauntlet.config.shipped import CONF

ROOT = Path(__file__).parent.parent.parent

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to complete in")


@pytest.fixture
def press_tab(tmp_path, capsys):
    """What bash offers after a line, in a shell that has taken the script in."""
    assert main(["bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    command = tmp_path / "bin" / "gauntlet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gauntlet "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def offered(*words):
        line = " ".join(words)
        code = (
            f'source "{tmp_path}/script"\n'
            'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
            '_gauntlet; printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", code, "bash", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return set(done.stdout.split())

    return offered


@needs_bash
def test_subcommands_are_completed(press_tab):
    assert press_tab("gauntlet", "") == {name.split()[0] for name in COMMANDS}
    assert press_tab("gauntlet", "ver") == {"verify"}


@needs_bash
@pytest.mark.parametrize("program", ["run", "train"])
def test_choices_and_options_are_completed(press_tab, program):
    recipes = {path.stem for path in Path(CONF, "recipe" if program == "train" else "attack").glob("f*.yaml")}
    key = "recipe" if program == "train" else "attack"
    assert recipes
    assert press_tab("gauntlet", program, f"{key}=f") == {f"{key}={name}" for name in recipes}
    assert "runtime.threads=" in press_tab("gauntlet", program, "seed=1", "runtime.thr")


def test_another_shell_is_refused(capsys):
    assert main(["fish"]) == 2
    assert "bash" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"], ["nosuch"]])
def test_what_needs_no_configuration_imports_neither_hydra_nor_torch(words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['gauntlet', *{words!r}]\n"
        "try:\n    runpy.run_module('gauntlet', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'hydra', 'omegaconf', 'torch', 'numpy', 'pyarrow'}\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
