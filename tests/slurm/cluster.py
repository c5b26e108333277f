"""A local Slurm (local_slurm.sh) for tests: starts it, submits to it, waits for it, always ends it."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(os.environ.get("LDMTUNE_SOURCE", pathlib.Path(__file__).parents[2]))
sys.path.insert(0, str(SOURCE / "tests/end_to_end"))

import support  # noqa: E402  (how all end-to-end tests run the program)

SCRIPT = SOURCE / "tests/slurm/local_slurm.sh"
SITE = """
export SBATCH_TIMELIMIT=30
LDMTUNE_ELEMENT=(--nodes=1 --ntasks-per-node=1)
LDMTUNE_CONCURRENT=4
LDMTUNE_LAUNCHER=(srun --mpi=pmix --kill-on-bad-exit=1)
LDMTUNE_PROGRAM={program}
LDMTUNE_CONTAINER=()
"""


def wait_until(true, seconds, what):
    """Polls until true() is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


class Cluster:
    """One started local Slurm with a site file; `environment` reaches the jobs too."""

    def __init__(self, folder, scratch):
        self.folder, self.scratch = folder, scratch
        self.environment = dict(support.environment(), LDMTUNE_PYTHON=sys.executable, LDMTUNE_SITE=str(scratch / "site.sh"))
        lines = subprocess.run(["bash", "-c", f". {folder}/env.sh && env -0"], env=self.environment, check=True,
                               capture_output=True, text=True).stdout.split("\0")
        self.environment = dict(line.split("=", 1) for line in lines if "=" in line)
        self.site()

    def site(self, more="", program=support.BINARY):
        """Writes the site file anew, with more lines at its end."""
        (self.scratch / "site.sh").write_text(SITE.format(program=program) + more)

    def call(self, *words, code=0, cwd=None, **environment):
        done = subprocess.run([str(word) for word in words], env=dict(self.environment, **environment), capture_output=True,
                              text=True, timeout=120, cwd=cwd or self.scratch)
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, *words, code=0, **environment):
        return self.call(SOURCE / "slurm/submit.sh", *words, code=code, **environment)

    def status(self, config, code=0):
        return self.call(SOURCE / "slurm/status.sh", config, code=code)

    def elements(self):
        """Array element -> (state, node or reason, job id) of all jobs that are elements."""
        rows = self.call("squeue", "-h", "-r", "--states=all", "--format=%K|%T|%R|%A").splitlines()
        fields = [row.split("|") for row in rows]
        return {int(row[0]): tuple(row[1:]) for row in fields if row[0].isdigit()}

    def job_states(self):
        rows = self.call("squeue", "-h", "-r", "--states=all", "--format=%A|%T").splitlines()
        return dict(row.split("|") for row in rows)

    def ended(self):
        alive = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"}
        return not alive & set(self.job_states().values())

    def wait_for_all(self, seconds):
        wait_until(self.ended, seconds, f"all jobs to end:\n{self.call('squeue', '-r', '--states=all')}")

    def kill_node(self, node, tell_slurm=True):
        """As a power cut; tell_slurm: an administrator notices at once, instead of Slurm after its timeout."""
        subprocess.run([SCRIPT, "kill_node", self.folder, node], check=True)
        if tell_slurm:
            self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")

    def cut_off(self, node):
        """As a lost network: Slurm takes the node for down, what trains there trains on."""
        subprocess.run([SCRIPT, "cut_off", self.folder, node], check=True)
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=unreachable")

    def start_node(self, node):
        subprocess.run([SCRIPT, "start_node", self.folder, node], check=True)


@contextlib.contextmanager
def running_cluster(scratch, **settings):
    """A Cluster; settings as LOCAL_SLURM_<NAME>. Ended and removed in any case, also if this process is killed."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets lie below
    environment = dict(os.environ, LOCAL_SLURM_OWNER=str(os.getpid()),
                       **{f"LOCAL_SLURM_{name.upper()}": str(value) for name, value in settings.items()})
    try:
        subprocess.run([SCRIPT, "start", folder], env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
        yield Cluster(folder, scratch)
    finally:
        if (folder / "slurm.conf").exists():
            subprocess.run([SCRIPT, "stop", folder], timeout=120, check=False)
        shutil.rmtree(folder, ignore_errors=True)


# ---- What the trials' folders say --------------------------------------------------------------------------------------


def steps_in(run):
    """Step of the last row of metrics.csv; 0 before the first."""
    try:
        rows = (run / "metrics.csv").read_text().splitlines()[1:]
    except OSError:
        return 0
    numbers = [row.split(",")[0] for row in rows]
    return int(numbers[-1]) if numbers and numbers[-1].isdigit() else 0


def checkpoint_step(run):
    return max([int(path.name[5:]) for path in run.glob("checkpoints/step-????????")], default=0)
