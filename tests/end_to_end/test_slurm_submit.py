"""slurm/submit.sh with stand-ins for Slurm and the program: what it hands to sbatch, and what it leaves behind."""

import os
import shutil
import subprocess
import sys

import pytest

from support import SOURCE

PLAN = "trial  id        seed\\n-----  --------  ----\\n" + "".join(f"{n}      {str(n) * 8}  {n}\\n" for n in range(6))
PACKS = "pack  trials\\n----  ------\\n0     0 1 2 3\\n1     4 5\\n"
COMMANDS = {
    # Prints the packs where it is asked for them, else the plan; then the rungs of successive halving, if any.
    "ldmtune": f'case "$*" in *"$REFUSED"*) echo "no such ranks" >&2; exit 2;; *--bad*) echo "no such option" >&2; exit 2;; *--pack*) printf "{PACKS}";; *) printf "{PLAN}";; esac; [ -z "$RUNGS" ] || printf "$RUNGS"',
    "sbatch": 'printf "%s\\n" "$*" >>"$RECORD"; wc -l <"$RECORD"',
    "squeue": 'case "$*" in *--jobs*) [ -z "$QUEUED" ] || echo "$QUEUED" ;; *) printf "%s" "$QUEUED" ;; esac',
    "scontrol": 'echo "MaxArraySize            = ${MOST:-1001}"',
    "scancel": 'printf "scancel %s\\n" "$*" >>"$RECORD.cancelled"',
    "sacct": "exit 1",
}
SITE = """
export SBATCH_GPUS_PER_NODE=4
LDMTUNE_ELEMENT=(--nodes=2 --ntasks-per-node=4)
LDMTUNE_CONCURRENT=16
LDMTUNE_LAUNCHER=(srun)
LDMTUNE_CONTAINER=()
LDMTUNE_PROGRAM={program}
"""


class Desk:
    """A folder with a sweep file, from which things are submitted by the scripts of a repository without .venv, whose
    analysis is a stand-in too."""

    def __init__(self, folder):
        self.folder, self.output, self.record, self.root = folder, folder / "out", folder / "record", folder / "repository"
        (folder / "bin").mkdir()
        for name, body in COMMANDS.items():
            self.command(name, body)
        shutil.copytree(SOURCE / "slurm", self.root / "slurm")
        (self.root / "jobs").mkdir()
        shutil.copy(SOURCE / "jobs/environment.sh", self.root / "jobs")
        self.analysis("import sys; print('analysis', *sys.argv[1:])")
        (folder / "site.sh").write_text(SITE.format(program=folder / "bin/ldmtune"))
        (folder / "x.sweep.cfg").write_text("[sweep]\noutput = out\n")

    def command(self, name, body):
        (self.folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def analysis(self, body):
        package = self.root / "analysis/ldmtune_analysis"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__main__.py").write_text(body + "\n")

    def script(self, name, *words, code=0, **environment):
        settings = dict(os.environ, PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}", LDMTUNE_SITE=str(self.folder / "site.sh"),
                        LDMTUNE_PYTHON=sys.executable, RECORD=str(self.record), QUEUED="", REFUSED="nothing")
        settings.update(environment)
        done = subprocess.run([self.root / "slurm" / name, *words], env=settings, cwd=self.folder, capture_output=True, text=True,
                              check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *words, code=0, **environment):
        return self.script("submit.sh", *words, code=code, **environment)

    def submitted(self):
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture()
def desk(tmp_path):
    return Desk(tmp_path)


def test_an_array_and_a_report_after_it(desk):
    said = desk.submit("x.sweep.cfg", "--train.seed", "a b", "--", "--partition=low", "--time=2:00:00")
    array, report = desk.submitted()
    folder = desk.output / "slurm/001"
    assert array == (f"--parsable --array=0-5%16 --output={folder}/element-%a.log --nodes=2 --ntasks-per-node=4 --partition=low "
                     f"--time=2:00:00 {desk.root}/slurm/element.sbatch {desk.root} {folder}")
    assert report == (f"--parsable --dependency=afterany:1 --output={folder}/report.log --gpus-per-node=1 --partition=low "
                      f"{desk.root}/slurm/report.sbatch {desk.root} {folder}")
    assert (folder / "options").read_text() == "--train.seed\na b\n"
    assert (folder / "sweep.cfg").read_text() == (desk.folder / "x.sweep.cfg").read_text()
    assert (folder / "jobs").read_text() == "1\n0-5\n2\n"
    assert "array 1, elements 0-5, report job 2" in said


def test_packs_are_elements(desk):
    desk.submit("--pack", "4", "--concurrent", "3", "--no-report", "x.sweep.cfg")
    (array,) = desk.submitted()
    assert "--array=0-1%3" in array
    folder = desk.output / "slurm/001"
    assert (folder / "elements.tsv").read_text().splitlines()[1] == "1\t4,5\t44444444,55555555"
    assert (folder / "pack").read_text() == "4"
    assert (folder / "options").read_text() == ""
    assert (folder / "jobs").read_text() == "1\n0-1\n\n"


def test_automatic_packs_are_a_number_for_all_elements(desk):
    said = desk.submit("--pack", "auto", "--no-report", "x.sweep.cfg")
    assert "packs of 4" in said
    assert (desk.output / "slurm/001/pack").read_text() == "4"  # the larger of the plan's two packs
    # Submitted again they are as wide, whatever the memory is by now: bits depend on the width.
    (desk.folder / "bin/ldmtune").write_text("#!/bin/sh\n" + COMMANDS["ldmtune"].replace("0 1 2 3", "0 1"))
    desk.submit("--pack", "auto", "--no-report", "x.sweep.cfg")
    assert (desk.output / "slurm/002/pack").read_text() == "4"
    assert "auto or a number above 0, found 'many'" in desk.submit("--pack", "many", "x.sweep.cfg", code=2)


def test_submitted_again_it_waits_for_the_old_ones_too(desk):
    desk.submit("x.sweep.cfg")
    queued = "\n".join(f"1|{n}|{'RUNNING|n1' if n < 2 else 'FAILED|n1'}" for n in range(6)) + "\n"
    said = desk.submit("x.sweep.cfg", QUEUED=queued)
    assert "element 0 is in the queue already (1_0)" in said and "elements 2-5," in said
    array, report = desk.submitted()[2:]
    assert "--array=2-5%16" in array and "--dependency=afterany:3:1" in report
    assert (desk.folder / "record.cancelled").read_text() == "scancel --quiet --state=PENDING 2\n"


def test_named_elements(desk):
    desk.submit("--elements", "1,3-4", "--no-report", "x.sweep.cfg")
    assert "--array=1,3-4%16" in desk.submitted()[0]


def test_a_dry_run_leaves_nothing(desk):
    said = desk.submit("--dry-run", "x.sweep.cfg")
    assert "sbatch --array=0-5%16" in said and "afterany:" in said
    assert not desk.submitted() and not desk.output.exists()


def test_more_elements_than_slurm_takes(desk):
    assert "--pack" in desk.submit("x.sweep.cfg", MOST="5", code=2)
    assert not desk.submitted() and not desk.output.exists()
    desk.submit("--pack", "4", "x.sweep.cfg", MOST="5")


def test_a_plan_that_fails_submits_nothing(desk):
    said = desk.submit("x.sweep.cfg", "--bad", code=2)
    assert "no such option" in said and "nothing was submitted" in said
    assert not desk.submitted() and not desk.output.exists()


@pytest.mark.parametrize("options, ranks", [
    ([], 8),
    (["--ntasks=2"], 2),
    (["-n2", "--partition=low"], 2),
    (["-N", "1"], 4),
    (["--nodes=4-8", "--ntasks-per-node", "2"], 8),
])
def test_ranks_that_a_trial_cannot_use_submit_nothing(desk, options, ranks):
    said = desk.submit("x.sweep.cfg", "--", *options, code=2, REFUSED=f"plan --ranks {ranks}")
    assert f"each element gets {ranks} rank(s)" in said and "no such ranks" in said and "nothing was submitted" in said
    assert not desk.submitted() and not desk.output.exists()


def test_ranks_that_the_options_do_not_tell_are_not_checked(desk):
    assert "each element gets" not in desk.submit("x.sweep.cfg", "--", "--ntasks-per-gpu=1", REFUSED="--ranks")
    assert len(desk.submitted()) == 2


def test_without_what_the_report_needs_nothing_is_submitted(desk):
    desk.analysis("import no_such_package")
    said = desk.submit("x.sweep.cfg", code=2)
    assert "No module named 'no_such_package'; nothing was submitted" in said and "jobs/setup.sh --analysis" in said
    assert not desk.submitted() and not desk.output.exists()
    desk.submit("--no-report", "x.sweep.cfg")
    assert len(desk.submitted()) == 1


def test_in_an_image_its_analysis_is_asked(desk):
    """Where the image does not start here, on a compute node."""
    desk.command("apptainer", '[ -n "$ON_A_NODE" ] || exit 127; shift 2; echo "$*" >>"$RECORD.image"; case "$*" in *ldmtune_analysis*) exit 1;; esac; exec "$@"')
    desk.command("srun", 'while [ "${1#--}" != "$1" ]; do shift; done; ON_A_NODE=1 exec "$@"')
    with open(desk.folder / "site.sh", "a") as site:
        site.write("LDMTUNE_CONTAINER=(apptainer exec x.sif)\nLDMTUNE_PROGRAM=/opt/ldmtune/build/ldmtune\n")
    said = desk.submit("x.sweep.cfg", code=2)
    assert "the report could not be made" in said and "slurm/ldmtune.def" in said
    asked = (desk.folder / "record.image").read_text()
    assert asked == "/opt/ldmtune/.venv/bin/python -m ldmtune_analysis --help\n"


def test_a_program_that_is_not_built(desk):
    (desk.folder / "bin/ldmtune").unlink()
    assert "jobs/build.sh" in desk.submit("x.sweep.cfg", code=2)


def test_everything_finished(desk):
    for number in range(6):
        run = desk.output / f"trials/{number:03d}-{str(number) * 8}"
        run.mkdir(parents=True)
        (run / "result.json").write_text('{"status": "done"}')
    assert "nothing to submit" in desk.submit("x.sweep.cfg")
    assert not desk.submitted() and not (desk.output / "slurm").exists()
