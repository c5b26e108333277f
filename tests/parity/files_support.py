"""What the tests of files share: running store_files_tool, and what its exit must look like."""

import os
import subprocess
from pathlib import Path

TOOL = Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "store_files_tool"


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def refused(*arguments: object) -> str:
    """Exit code 2 and a message of one line that names the file."""
    result = run(*arguments)
    assert result.returncode == 2, (result.returncode, result.stderr)
    assert Path(arguments[1]).name in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr
