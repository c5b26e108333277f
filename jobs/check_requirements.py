"""Prints the requirements of pip requirement files that this Python does not meet, one a line.

Usage: python check_requirements.py FILE ... Exits with 1 where something is missing. Starts in a tenth of a second, so
that set-up costs nothing where all is there.
"""

import importlib.metadata
import pathlib
import sys

from pip._vendor.packaging.requirements import Requirement


def requirements(file):
    for line in file.read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from requirements(file.parent / line[3:].strip())
        elif line:
            yield Requirement(line)


def is_met(requirement):
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


missing = [str(r) for file in sys.argv[1:] for r in requirements(pathlib.Path(file)) if not is_met(r)]
print("\n".join(missing))
sys.exit(1 if missing else 0)
