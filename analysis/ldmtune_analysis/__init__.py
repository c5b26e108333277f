"""Reports, comparisons and checks of ldmtune runs and sweeps."""

from .collection import collect, load_results
from .effects import analyse_effects
from .runs import Configuration, Run, Sweep, load_run, load_runs, load_sweep
from .statistics import Interval, paired_interval
from .torch_zip import read_torch_file

__all__ = [
    "Configuration",
    "Interval",
    "Run",
    "Sweep",
    "analyse_effects",
    "collect",
    "load_results",
    "load_run",
    "load_runs",
    "load_sweep",
    "paired_interval",
    "read_torch_file",
]
