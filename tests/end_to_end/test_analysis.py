"""The analysis package's own tests, that it can be installed, and that it needs no torch."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support import prepare
from sweeps import sweep, write_sweep

ANALYSIS = Path(os.environ["LDMTUNE_SOURCE"]) / "analysis"
sys.path.insert(0, str(ANALYSIS / "tests"))

import synthetic  # noqa: E402  (sweep folders without training)


def test_the_package_passes_its_tests():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ANALYSIS / "tests")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_importing_it_brings_no_torch():
    code = "import sys, ldmtune_analysis, ldmtune_analysis.__main__; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ANALYSIS)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_it_can_be_installed(tmp_path):
    """As `pip install ./analysis`, but offline; pip builds in the folder, so in a copy of it."""
    source = tmp_path / "analysis"
    shutil.copytree(ANALYSIS / "ldmtune_analysis", source / "ldmtune_analysis")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ANALYSIS / name, source)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    installed = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", installed, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(source)
    folder = synthetic.write_sweep(tmp_path / "sweep", [0.09, 0.07])
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import ldmtune_analysis; print(ldmtune_analysis.__file__)"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Path(found.stdout.strip()).parent == installed / "ldmtune_analysis"
    subprocess.run([installed / "bin/ldmtune-analysis", "report", folder], env=environment, check=True, cwd=tmp_path)
    page = (folder / "report.html").read_text()
    for name in ("style.css", "theme.js"):
        assert (ANALYSIS / "ldmtune_analysis" / name).read_text().strip()[:60] in page


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
