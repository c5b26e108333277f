"""The analysis package's own tests, and that it needs no torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support import prepare
from sweeps import sweep, write_sweep

ANALYSIS = Path(os.environ["LDMTUNE_SOURCE"]) / "analysis"


def test_the_package_passes_its_tests():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ANALYSIS / "tests")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_importing_it_brings_no_torch():
    code = "import sys, ldmtune_analysis, ldmtune_analysis.__main__; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ANALYSIS)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_help_names_the_commands():
    environment = {**os.environ, "PYTHONPATH": str(ANALYSIS)}
    command = [sys.executable, "-m", "ldmtune_analysis", "--help"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert all(name in said for name in ("report", "compare", "check"))


def test_its_readme_lists_the_columns_of_results_csv(tmp_path):
    options = {"optim.learning_rate": "1e-3 | 5e-4", "hypernetwork.widths": 160}
    sweep(write_sweep(tmp_path, prepare(tmp_path / "data", 4), **options), "collect")
    columns = (tmp_path / "sweep/results.csv").read_text().splitlines()[0].split(",")
    rows = re.findall(r"^\| (`.*`) \| x \| x \|", (ANALYSIS / "README.md").read_text(), re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted([*documented, "optim.learning_rate"]) == sorted(columns)
