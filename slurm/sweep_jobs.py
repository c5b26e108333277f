"""What submit.sh and status.sh know of a sweep: its trials' folders joined with Slurm's view of the elements that train them.

Only the standard library of Python 3.6, so that a login node's own Python will do.

    sweep_jobs.py output FILE [OPTION ...]        the folder that sweep.output names, from the file and options like --sweep.output X
    sweep_jobs.py list SUBMISSION                 elements.tsv of its plan.txt and, if there is one, packs.txt
    sweep_jobs.py elements FOLDER SUBMISSION      the elements to submit, as sbatch --array takes them: unfinished and in no queue
    sweep_jobs.py rungs FOLDER SUBMISSION         "RUNG ELEMENTS" of the rungs to submit, one a line
    sweep_jobs.py status FOLDER                   the table

FOLDER is sweep.output; FOLDER/slurm/NNN/ are its submissions, each with plan.txt (what `ldmtune sweep plan` printed),
elements.tsv (element, numbers and ids of its trials) and, once submitted, jobs (id of the array, its elements, id of the report job).
With successive halving there is an array for each rung: rungs (rung, array, elements; jobs names the last of them) lists them,
elements.tsv are the packs of rung 0, and FOLDER/halving/rung-R.json, once the rung is judged, says who trains in the next.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

from sweep_files import (Trial, arrays_of, jobs_of, last_lines, list_elements, modified, own_state, read_json, read_plan,
                         submissions, sweep_output)

ALIVE = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
         "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD"}


class Element:
    """One element of a submitted array, and what Slurm says of it. Who trains in a rung may not be known yet: no trials."""

    def __init__(self, submission, number, trials):
        self.submission, self.number, self.trials = submission, number, trials
        self.array = self.job = self.state = self.detail = ""
        self.rung = None

    def alive(self):
        return self.state in ALIVE

    def begins(self):
        """When it was written, just before it was submitted: what it trains cannot have failed in it before."""
        return modified(self.submission / "elements.tsv")


def read_elements(submission):
    elements = []
    with open(str(submission / "elements.tsv"), newline="") as stream:
        for element, numbers, ids in csv.reader(stream, delimiter="\t"):
            trials = [Trial(int(number), id_) for number, id_ in zip(numbers.split(","), ids.split(","))]
            elements.append(Element(submission, int(element), trials))
    return elements


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
        for rung, array, numbers in arrays_of(submission):
            own = read_elements(submission) if not rung else rung_elements(folder, submission, rung, numbers)
            for element in own:
                element.array, element.rung = array, rung
            elements += [element for element in own if element.number in numbers]
    if not elements:
        return []
    user, _ = output_of("id", "-un")
    known = accounted(sorted({element.array for element in elements}))
    known.update(queued((user or "").strip()))
    for element in elements:
        element.job = "%s_%d" % (element.array, element.number)
        element.state, element.detail = known.get((element.array, str(element.number)), ("", ""))
    return elements


# ---- Together --------------------------------------------------------------------------------------------------------


def last_error(element):
    """The last line of an element's log that speaks of an error."""
    name = "element-%d.log" % element.number if element.rung is None else "rung-%d-%d.log" % (element.rung, element.number)
    lines = last_lines(element.submission / name)
    errors = [line.strip() for line in lines if re.search(r"\berror\b|killed|cannot", line, re.IGNORECASE)]
    return errors[-1][:200] if errors else ""


def joined_state(own, element, rungs_to_come=False):
    """(state, text) from a trial's own (state, text) and the newest element that has it, or None. rungs_to_come: elements
    are in the queue of which nobody knows yet whom they train."""
    state, text = own
    if state in ("done", "failed", "stopped"):
        return own
    if state == "paused" and (rungs_to_come or (element is not None and element.alive())):
        return "pending", text + ", waits for its rung"
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


# ---- Successive halving ----------------------------------------------------------------------------------------------


def planned_rungs(submission):
    """Numbers of packs of the rungs, as `ldmtune sweep plan --pack K` printed them; empty without halving."""
    file = submission / "packs.txt"
    rows = re.findall(r"^rung +\d+ .* (\d+) *$", file.read_text(), re.MULTILINE) if file.exists() else []
    return [int(packs) for packs in rows]


def judgement(folder, rung):
    """(ids that were judged, ids that go on in groups that may share a pack); None where the rung is not judged."""
    text = read_json(folder / "halving" / ("rung-%d.json" % rung))
    if "go_on" not in text:
        return None
    return {entry["id"] for entry in text["candidates"]}, text["go_on"]


def rung_elements(folder, submission, rung, numbers):
    """The packs of a rung after the first; without trials until the rung before is judged."""
    before = judgement(folder, rung - 1)
    width, packs = int((submission / "pack").read_text()), []
    known = {trial.id: trial for trial in read_plan(submission / "plan.txt")}
    for group in before[1] if before else []:
        packs += [group[begin:begin + width] for begin in range(0, len(group), width)]
    members = {number: [known[id_] for id_ in pack if id_ in known] for number, pack in enumerate(packs)}
    return [Element(submission, number, members.get(number, [])) for number in sorted(numbers)]


def choose_rungs(folder, submission):
    """[(rung, elements)] of a new submission: from the first rung on that is not judged; notes. Nothing while an array of the
    sweep is in the queue, as its rungs may not meet others of the same sweep."""
    alive = sorted({element.array for element in know_elements(folder) if element.alive()})
    if alive:
        return [], ["the sweep is in the queue already (%s); submit it again when that has ended" % ", ".join(alive)]
    rungs, candidates = [], {trial.id: trial for trial in read_plan(submission / "plan.txt")}
    planned = planned_rungs(submission)
    for rung, packs in enumerate(planned):
        judged = judgement(folder, rung)
        if not rungs and judged and judged[0] == set(candidates):
            candidates = {id_: candidates[id_] for group in judged[1] for id_ in group}
            continue
        states = {id_: own_state(folder, trial)[0] for id_, trial in candidates.items()}
        chosen = list(range(packs))
        if rung == 0:
            chosen = [element.number for element in read_elements(submission)
                      if any(states[trial.id] not in ("paused", "stopped", "done") for trial in element.trials)]
        elif not rungs and rung + 1 == len(planned) and all(state == "done" for state in states.values()):
            chosen = []
        if chosen:
            rungs.append((rung, chosen))
    return rungs, []


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
    elements = know_elements(folder)
    owners = newest_elements(elements)
    rungs_to_come = any(element.alive() and not element.trials for element in elements)
    rows, counts = [("trial", "id", "job", "Slurm", "trial's state", "")], {}
    for trial in read_plan(latest[-1] / "plan.txt"):
        element = owners.get(trial.id)
        since = element.begins() if element is not None and element.alive() else 0.0
        state, text = joined_state(own_state(folder, trial, since), element, rungs_to_come)
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
    elif command == "rungs" and len(rest) == 2:
        rungs, notes = choose_rungs(Path(rest[0]), Path(rest[1]))
        for note in notes:
            print(note, file=sys.stderr)
        for rung, elements in rungs:
            print(rung, array_text(elements))
    elif command == "status" and len(rest) == 1:
        return status(Path(rest[0]))
    else:
        sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
