"""The analysis package's own tests, and that it needs no torch."""

import os
import subprocess
import sys
from pathlib import Path

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
