"""Live view: follows metrics.csv and validation.csv of running trainings into TensorBoard event files (tensorboardX
writes them). Reads only; training knows nothing of it."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

_TAGS = {
    "metrics.csv": {
        "loss": "train/loss",
        "lr": "train/learning_rate",
        "grad_norm": "train/grad_norm",
        "samples_per_s": "train/samples_per_s",
    },
    "validation.csv": {
        "concept_heldout": "validation/heldout",
        "concept_train": "validation/train",
        "adjacent": "validation/adjacent",
        "adjacent_drift": "validation/adjacent_drift",
        "adjacent_trigger": "validation/adjacent_trigger",
        "adjacent_trigger_drift": "validation/adjacent_trigger_drift",
        **{f"heldout_q{i}": f"heldout_by_timestep/quarter_{i}" for i in range(1, 5)},
    },
}


def event_writer(folder: Path, purge_step: int | None):
    """A tensorboardX writer. Errors: ImportError saying what to install."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError("following into TensorBoard needs tensorboardX: pip install tensorboardX") from None
    return SummaryWriter(str(folder), purge_step=purge_step)


class _Tail:
    """Complete lines of a growing CSV file; a resumed run cuts it back, which is noticed."""

    def __init__(self, file: Path):
        self.file = file
        self.read = b""

    def new_rows(self) -> tuple:
        """(rows since the last call, whether the file was cut back and these are all of its rows)."""
        try:
            content = self.file.read_bytes()
        except OSError:
            return [], False
        content = content[: content.rfind(b"\n") + 1]
        cut = not content.startswith(self.read)
        known = 0 if cut else len(self.read)
        self.read = content
        lines = content.decode("utf-8", "replace").splitlines()
        skipped = content[:known].count(b"\n")
        rows = list(csv.DictReader(lines))
        return rows[max(0, skipped - 1) :], cut


class _FollowedRun:
    def __init__(self, folder: Path, events: Path, open_writer):
        self.events, self.open_writer = events, open_writer
        self.tails = {name: _Tail(folder / name) for name in _TAGS}
        self.writer = None

    def poll(self) -> int:
        """Writes what is new; returns how many numbers."""
        found = {name: tail.new_rows() for name, tail in self.tails.items()}
        if any(cut for _, cut in found.values()):  # a resumed run: hide what was written, and write all again
            for name, tail in self.tails.items():
                tail.read = b""
                found[name] = tail.new_rows()
            self.close()
            self.writer = self.open_writer(self.events, 0)
        written = 0
        for name, (rows, _) in found.items():
            for row in rows:
                written += self._write(_TAGS[name], row)
        if written:
            self.writer.flush()
        return written

    def _write(self, tags: dict, row: dict) -> int:
        written = 0
        for column, tag in tags.items():
            value = _number(row.get(column))
            if math.isfinite(value):
                if self.writer is None:
                    self.writer = self.open_writer(self.events, None)
                self.writer.add_scalar(tag, value, int(float(row["step"])))
                written += 1
        return written

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def _number(text) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


class Follower:
    """A run folder, or a sweep's folder with all trials that there are or come."""

    def __init__(self, folder, logdir=None, open_writer=event_writer):
        self.folder = Path(folder)
        self.logdir = Path(logdir) if logdir else self.folder / "tensorboard"
        self.open_writer = open_writer
        self.runs: dict = {}

    def poll(self) -> int:
        """Writes what is new since the last call; returns how many numbers."""
        trials = sorted((self.folder / "trials").glob("*/"))
        for folder in trials or [self.folder]:
            if folder not in self.runs:
                self.runs[folder] = _FollowedRun(folder, self.logdir / folder.name, self.open_writer)
        return sum(run.poll() for run in self.runs.values())

    def close(self) -> None:
        for run in self.runs.values():
            run.close()


def follow(folder, logdir=None, seconds: float = 5.0, once: bool = False) -> int:
    """Polls until interrupted, or once; returns how many numbers were written. Errors: FileNotFoundError."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    follower = Follower(folder, logdir)
    written = 0
    try:
        while True:
            written += follower.poll()
            if once:
                return written
            time.sleep(seconds)
    except KeyboardInterrupt:
        return written
    finally:
        follower.close()
