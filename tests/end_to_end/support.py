"""How the end-to-end tests run the program and read what it wrote."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

SOURCE = pathlib.Path(os.environ.get("LDMTUNE_SOURCE", pathlib.Path(__file__).parents[2]))
BINARY = pathlib.Path(os.environ.get("LDMTUNE_BUILD", SOURCE / "build")) / "ldmtune"
BASE = SOURCE / "datasets/emoji-base"
IMAGES = SOURCE / "datasets/emoji/pencil"


def command(arguments, ranks=1):
    """The command line of a run on so many ranks."""
    words = [str(BINARY), *map(str, arguments)]
    if ranks > 1:
        words = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *words]
    return words


def environment():
    """As jobs/environment.sh sets it: root allowed, one thread a rank."""
    return dict(
        os.environ,
        OMP_NUM_THREADS="1",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_mpi_yield_when_idle="1",
    )


def run(arguments, ranks=1, code=0, cwd=None):
    """Runs ldmtune, checks its exit code and returns what it printed."""
    done = subprocess.run(command(arguments, ranks), env=environment(), capture_output=True, text=True, timeout=600, cwd=cwd)
    output = done.stdout + done.stderr
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{output}"
    return output


def small_image_folder(folder, count, known=True):
    """A folder of `count` of the pencil drawings with their captions, splits left to the program."""
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in (IMAGES / "metadata.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["known"] or not known][:count]
    for row in rows:
        shutil.copy(IMAGES / row["file_name"], folder)
    lines = [json.dumps({"file_name": row["file_name"], "text": row["text"]}) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def prepare(folder, count, *options):
    """A dataset folder of `count` drawings."""
    images = small_image_folder(folder.with_name(folder.name + ".images"), count)
    run(["prepare", "--base", BASE, "--images", images, "--output", folder, *options])
    return folder


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def checkpoints(run_folder):
    """Hash of every checkpoint's parameters by step folder."""
    return {p.parent.name: sha256(p) for p in sorted(run_folder.glob("checkpoints/step-*/parameters.safetensors"))}
