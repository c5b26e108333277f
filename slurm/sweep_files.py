"""What the folders of a sweep and of its submissions say, for sweep_jobs.py. Only the standard library of Python 3.6."""

import json
import re
import sys
import time
from pathlib import Path

STALE_SECONDS = 120  # as src/train/run_folder.cpp takes over a run's lock


class Trial:
    def __init__(self, number, id_):
        self.number, self.id = number, id_


# ---- Files -----------------------------------------------------------------------------------------------------------


def option_value(text):
    """A value of a sweep file without quotes or comment."""
    text = text.strip()
    if text[:1] in ("'", '"') and text.find(text[0], 1) > 0:
        return text[1:text.find(text[0], 1)]
    return re.split(r"\s#|^#", text)[0].strip()


def sweep_output(file, options):
    """The folder sweep.output; the command line wins over the file. Exits with 2 where neither names one."""
    output, section = "", ""
    for line in Path(file).read_text().splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line[1:].split("]")[0].strip() + "."
        elif "=" in line and section + line.split("=")[0].strip() == "sweep.output":
            output = option_value(line.split("=", 1)[1])
    for word, following in zip(options, options[1:] + [""]):
        if word == "--sweep.output":
            output = following
        elif word.startswith("--sweep.output="):
            output = word.split("=", 1)[1]
    if not output:
        sys.exit("error: %s: expected sweep.output, the folder of the sweep, found none" % file)
    return output


def read_plan(file):
    """Trials of the table that `ldmtune sweep plan` prints: number and id stand first in each row."""
    rows = re.findall(r"^\s*(\d+)\s+([0-9a-f]{8})\b", file.read_text(), re.MULTILINE)
    return [Trial(int(number), id_) for number, id_ in rows]


def list_elements(submission):
    """Lines of elements.tsv: the packs of packs.txt (what `ldmtune sweep plan --pack K` printed) or, without it, an element
    for each trial. Exits with 1 if the plan has none."""
    trials = {trial.number: trial for trial in read_plan(submission / "plan.txt")}
    if not trials:
        sys.exit("error: the plan names no trials: %s" % (submission / "plan.txt"))
    members = {number: [trial] for number, trial in trials.items()}
    if (submission / "packs.txt").exists():
        rows = re.findall(r"^(\d+) +(\d+(?: \d+)*)$", (submission / "packs.txt").read_text(), re.MULTILINE)
        members = {int(pack): [trials[int(number)] for number in numbers.split()] for pack, numbers in rows}
    for element, pack in sorted(members.items()):
        print("\t".join([str(element), ",".join(str(trial.number) for trial in pack), ",".join(trial.id for trial in pack)]))


def submissions(folder):
    """Submitted ones, oldest first."""
    return sorted(path.parent for path in (folder / "slurm").glob("*/jobs"))


def arrays_of(submission):
    """(rung or None, id of the array, numbers of its elements) of each array."""
    if not (submission / "rungs").exists():
        return [(None,) + jobs_of(submission)[:2]]
    rows = [line.split() for line in (submission / "rungs").read_text().splitlines()]
    return [(int(rung), array, numbers_in(elements)) for rung, array, elements in rows]


def numbers_in(text):
    """{0, 1, 2, 5} of "0-2,5"."""
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def jobs_of(submission):
    """(id of the array, numbers of its elements, id of the report job or "")"""
    array, elements, report = ((submission / "jobs").read_text() + "\n\n").split("\n")[:3]
    return array, numbers_in(elements), report


def read_json(file):
    try:
        value = json.loads(file.read_text())
        return value if isinstance(value, dict) else {}
    except (OSError, ValueError):
        return {}


def last_lines(file, size=65536):
    try:
        with open(str(file), "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


# ---- What the trials' folders say ------------------------------------------------------------------------------------


def trial_folder(folder, trial):
    """A folder of its id, whatever its number was when it began; None before it began."""
    found = sorted(path for path in (folder / "trials").glob("*-" + trial.id) if path.is_dir())
    return found[0] if found else None


def modified(file):
    try:
        return file.stat().st_mtime
    except OSError:  # removed since it was listed
        return 0.0


def failure(folder, trial, since=0.0):
    """Why `sweep` recorded it as failed; empty if it did not, or if that was before `since` (seconds since 1970)."""
    files = sorted(file for file in (folder / "trials").glob("*-%s.failed.json" % trial.id) if modified(file) >= since)
    return str(read_json(files[0]).get("reason", "no reason given")) if files else ""


def step_of(run):
    """(updates so far, updates in all) as far as the run's files tell; 0 where they do not."""
    rows = [row.split(",")[0] for row in last_lines(run / "metrics.csv", 4096)]
    steps = [int(row) for row in rows if row.isdigit()]
    saved = [int(path.name[5:]) for path in run.glob("checkpoints/step-*") if path.name[5:].isdigit()]
    total = 0
    for line in last_lines(run / "config.cfg"):
        if re.match(r"\s*max_train_steps\s*=", line):
            total = int(re.sub(r"[^0-9]", "", option_value(line.split("=", 1)[1])) or 0)
    return max(steps[-1:] + saved + [0]), total


def own_state(folder, trial, since=0.0):
    """(state, step text or reason): pending, running, interrupted, done or failed, by the trial's own files. A failure of
    before `since` no longer counts."""
    run = trial_folder(folder, trial)
    if run is not None:
        result = read_json(run / "result.json")
        loss = result.get("heldout_loss")
        loss = "held-out loss %.4g" % loss if isinstance(loss, (int, float)) else ""
        if result.get("status") == "done":
            return "done", loss
        if result.get("status") == "stopped":
            return "stopped", str(result.get("reason", ""))
        if result.get("status") == "paused":
            return "paused", ", ".join(part for part in ("at step %s" % result.get("steps", "?"), loss) if part)
    reason = failure(folder, trial, since)
    if reason:
        return "failed", reason
    if run is None:
        return "pending", ""
    step, total = step_of(run)
    text = "at step %d%s" % (step, " of %d" % total if total else "")
    heartbeat = read_json(run / "lock.json").get("heartbeat", 0)
    return ("running" if time.time() - heartbeat < STALE_SECONDS else "interrupted"), text
