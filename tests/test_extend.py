"""docs/extend.md works as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_attack_of_the_documentation_runs(tmp_path):
    page = (ROOT / "docs" / "extend.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (yaml,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (line,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    mine = tmp_path / "mine"
    (mine / "conf" / "attack").mkdir(parents=True)
    (mine / "__init__.py").touch()
    (mine / "corner.py").write_text(code)
    (mine / "conf" / "attack" / "corner.yaml").write_text(yaml)
    setting, python, _, *arguments = shlex.split(line)
    assert (setting, python) == ("PYTHONPATH=.", "python")
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments, "runtime.progress=false", f"runs_dir={tmp_path}/runs"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": f".:{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "corner/true" in done.stdout
