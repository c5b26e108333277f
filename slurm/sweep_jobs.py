"""What submit.sh and status.sh know of a sweep: its trials' folders joined with Slurm's view of the elements that train them.

Only the standard library of Python 3.6, so that a login node's own Python will do.

    sweep_jobs.py output FILE [OPTION ...]        the folder that sweep.output names, from the file and options like --sweep.output X
    sweep_jobs.py list SUBMISSION                 elements.tsv of its plan.txt and, if there is one, packs.txt
    sweep_jobs.py elements FOLDER SUBMISSION      the elements to submit, as sbatch --array takes them: unfinished and in no queue
    sweep_jobs.py status FOLDER                   the table

FOLDER is sweep.output; FOLDER/slurm/NNN/ are its submissions, each with plan.txt (what `ldmtune sweep plan` printed),
elements.tsv (element, numbers and ids of its trials) and, once submitted, jobs (id of the array, its elements, id of the report job).
"""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ALIVE = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
         "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD"}
STALE_SECONDS = 120  # as src/train/run_folder.cpp takes over a run's lock


class Trial:
    def __init__(self, number, id_):
        self.number, self.id = number, id_


class Element:
    """One element of a submitted array, and what Slurm says of it."""

    def __init__(self, submission, number, trials):
        self.submission, self.number, self.trials = submission, number, trials
        self.job = self.state = self.detail = ""

    def alive(self):
        return self.state in ALIVE


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


def read_elements(submission):
    elements = []
    with open(str(submission / "elements.tsv"), newline="") as stream:
        for element, numbers, ids in csv.reader(stream, delimiter="\t"):
            trials = [Trial(int(number), id_) for number, id_ in zip(numbers.split(","), ids.split(","))]
            elements.append(Element(submission, int(element), trials))
    return elements


def submissions(folder):
    """Submitted ones, oldest first."""
    return sorted(path.parent for path in (folder / "slurm").glob("*/jobs"))


def jobs_of(submission):
    """(id of the array, numbers of its elements, id of the report job or "")"""
    array, elements, report = ((submission / "jobs").read_text() + "\n\n").split("\n")[:3]
    numbers = set()
    for part in elements.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return array, numbers, report


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


def failure(folder, trial):
    """Why `sweep` recorded it as failed; empty if it did not."""
    files = sorted((folder / "trials").glob("*-%s.failed.json" % trial.id))
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


def own_state(folder, trial):
    """(state, step text or reason): pending, running, interrupted, done or failed, by the trial's own files."""
    run = trial_folder(folder, trial)
    if run is not None:
        result = read_json(run / "result.json")
        if result.get("status") == "done":
            loss = result.get("heldout_loss")
            return "done", "held-out loss %.4g" % loss if isinstance(loss, (int, float)) else ""
    reason = failure(folder, trial)
    if reason:
        return "failed", reason
    if run is None:
        return "pending", ""
    step, total = step_of(run)
    text = "at step %d%s" % (step, " of %d" % total if total else "")
    heartbeat = read_json(run / "lock.json").get("heartbeat", 0)
    return ("running" if time.time() - heartbeat < STALE_SECONDS else "interrupted"), text


# ---- What Slurm says -------------------------------------------------------------------------------------------------


def output_of(*command):
    """(what it printed, or None if it failed or is not there; its error)"""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        return None, str(error)
    return (done.stdout, "") if done.returncode == 0 else (None, done.stderr.strip())


def accounted(arrays):
    """(array, element) -> (state, exit code, node) of ended jobs too; empty where the site keeps no accounts."""
    said, _ = output_of("sacct", "--allocations", "--noheader", "--parsable2", "--jobs", ",".join(arrays),
                        "--format=JobID,State,ExitCode,NodeList")
    found = {}
    for line in (said or "").splitlines():
        fields = line.split("|")
        match = re.match(r"(\d+)_(\d+)$", fields[0])
        if match and len(fields) == 4:
            state = fields[1].split()[0]
            found[match.groups()] = (state, "" if state in ("COMPLETED", "PENDING") else "exit " + fields[2])
    return found


def queued(user):
    """(array, element) -> (state, node or reason of waiting), and (job, None) of what is no array."""
    said, error = output_of("squeue", "--noheader", "--array", "--states=all", "--user", user, "--format=%F|%K|%T|%R")
    if said is None:
        sys.exit("error: squeue failed, so nobody knows what is in the queue: " + error)
    found = {}
    for line in said.splitlines():
        job, element, state, detail = line.split("|", 3)
        found[job.strip(), element.strip() if element.strip().isdigit() else None] = (state.strip(), detail.strip())
    return found


def know_elements(folder):
    """All elements of all submissions, oldest first, with Slurm's view of them."""
    elements = []
    for submission in submissions(folder):
        numbers = jobs_of(submission)[1]
        elements += [element for element in read_elements(submission) if element.number in numbers]
    if not elements:
        return []
    user, _ = output_of("id", "-un")
    known = accounted(sorted({jobs_of(element.submission)[0] for element in elements}))
    known.update(queued((user or "").strip()))
    for element in elements:
        array = jobs_of(element.submission)[0]
        element.job = "%s_%d" % (array, element.number)
        element.state, element.detail = known.get((array, str(element.number)), ("", ""))
    return elements


# ---- Together --------------------------------------------------------------------------------------------------------


def last_error(element):
    """The last line of an element's log that speaks of an error."""
    lines = last_lines(element.submission / ("element-%d.log" % element.number))
    errors = [line.strip() for line in lines if re.search(r"\berror\b|killed|cannot", line, re.IGNORECASE)]
    return errors[-1][:200] if errors else ""


def joined_state(own, element):
    """(state, text) from a trial's own (state, text) and the newest element that has it, or None."""
    state, text = own
    if state in ("done", "failed"):
        return own
    if element is None:
        return state, text or "not submitted"
    if element.state == "PENDING":
        return "pending", (text + ", " if text else "") + element.detail.strip("()")
    if element.alive():
        return (state, text) if state == "running" else ("pending", (text + ", " if text else "") + "its element runs")
    if not element.state and state == "running":
        return own
    ended = "the job ended (%s)" % ", ".join(part for part in (element.state or "no longer known to Slurm", element.detail) if part)
    reason = ": ".join(part for part in (ended + (" " + text if text else ""), last_error(element)) if part)
    return "failed", reason


def newest_elements(elements):
    """Trial id -> the element that has it: one that is alive, else the newest."""
    newest = {}
    for element in elements:
        for trial in element.trials:
            if trial.id not in newest or element.alive() or not newest[trial.id].alive():
                newest[trial.id] = element
    return newest


def array_text(numbers):
    """0,1,2,5 as "0-2,5"."""
    parts = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join("%d" % first if first == last else "%d-%d" % (first, last) for first, last in parts)


def choose_elements(folder, submission):
    """Elements of a new submission to submit: unfinished, and none of their trials in the queue."""
    owners = newest_elements(know_elements(folder))
    chosen, notes = [], []
    for element in read_elements(submission):
        if all(own_state(folder, trial)[0] == "done" for trial in element.trials):
            continue
        waiting = sorted({owners[t.id].job for t in element.trials if t.id in owners and owners[t.id].alive()})
        if waiting:
            notes.append("element %d is in the queue already (%s)" % (element.number, ", ".join(waiting)))
        else:
            chosen.append(element.number)
    return chosen, notes


def report_state(folder):
    """The newest report job's line, empty if none was asked for."""
    for submission in reversed(submissions(folder)):
        report = jobs_of(submission)[2]
        if report:
            user, _ = output_of("id", "-un")
            state, detail = queued((user or "").strip()).get((report, None), ("no longer known to Slurm", ""))
            return "report job %s: %s%s" % (report, state, " " + detail if state == "PENDING" else "")
    return ""


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def status(folder):
    """Prints the table; returns 1 if a trial failed, else 0."""
    latest = submissions(folder)
    if not latest:
        sys.exit("error: %s: nothing was submitted; slurm/submit.sh does" % folder)
    owners = newest_elements(know_elements(folder))
    rows, counts = [("trial", "id", "job", "Slurm", "trial's state", "")], {}
    for trial in read_plan(latest[-1] / "plan.txt"):
        element = owners.get(trial.id)
        state, text = joined_state(own_state(folder, trial), element)
        counts[state] = counts.get(state, 0) + 1
        slurm = " ".join(part for part in (element.state, element.detail if element.state == "RUNNING" else "") if part) if element else ""
        rows.append((str(trial.number), trial.id, element.job if element else "", slurm, state, text))
    print(table(rows))
    print("\n%d trials: %s" % (len(rows) - 1, ", ".join("%d %s" % (count, state) for state, count in sorted(counts.items()))))
    report = report_state(folder)
    if report:
        print(report)
    return 1 if counts.get("failed") else 0


def main(arguments):
    command, rest = arguments[0] if arguments else "", arguments[1:]
    if command == "output" and rest:
        print(sweep_output(rest[0], rest[1:]))
    elif command == "list" and len(rest) == 1:
        list_elements(Path(rest[0]))
    elif command == "elements" and len(rest) == 2:
        chosen, notes = choose_elements(Path(rest[0]), Path(rest[1]))
        for note in notes:
            print(note, file=sys.stderr)
        print(array_text(chosen))
    elif command == "status" and len(rest) == 1:
        return status(Path(rest[0]))
    else:
        sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
