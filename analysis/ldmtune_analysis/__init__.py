"""Reports, comparisons and checks of ldmtune runs and sweeps."""

from .runs import Configuration, Run, Sweep, load_run, load_runs, load_sweep
from .statistics import Interval, paired_interval
from .torch_zip import read_torch_file

__all__ = [
    "Configuration",
    "Interval",
    "Run",
    "Sweep",
    "load_run",
    "load_runs",
    "load_sweep",
    "paired_interval",
    "read_torch_file",
]
