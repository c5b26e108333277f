# shellcheck shell=bash
# Settings of your site: the only file in this folder to edit. It is read by submit.sh (or by you before sbatch, which
# takes SBATCH_* as its options) and again by each job on its first node. What you give to sbatch itself wins.
# LDMTUNE_SITE names another file instead of this one.

# Where and for whom jobs run. `sinfo -s` lists partitions, `sacctmgr show associations user=$USER` accounts.
#export SBATCH_PARTITION=gpu
#export SBATCH_ACCOUNT=my-project
#export SBATCH_QOS=normal
export SBATCH_TIMELIMIT="${SBATCH_TIMELIMIT:-04:00:00}"

# GPUs per node, if the build uses CUDA (build-cuda/): then --ntasks-per-node should be the same number, a rank a GPU.
#export SBATCH_GPUS_PER_NODE=4

# What each element of a sweep's array gets. One task suits every sweep, and while trials wait for cores it is the best use
# of them. More tasks (ranks: nodes x tasks per node) make each trial faster, which helps where trials are few or long, as at
# 512 x 512 pixels; they must be a power of two, at most global_batch_size / micro_batch_size. submit.sh checks that first.
# shellcheck disable=SC2034  # used by submit.sh
LDMTUNE_ELEMENT=(--nodes=1 --ntasks-per-node=1 --cpus-per-task=1)
# Elements of a sweep that run at the same time, at most.
LDMTUNE_CONCURRENT="${LDMTUNE_CONCURRENT:-16}"

# How ranks start. srun --mpi=pmix fits an Open MPI that Slurm knows (`srun --mpi=list` must name pmix); otherwise mpirun.
# shellcheck disable=SC2034  # used by the jobs
LDMTUNE_LAUNCHER=(srun --mpi=pmix --kill-on-bad-exit=1)
#LDMTUNE_LAUNCHER=(mpirun --bind-to none); export OMPI_MCA_odls_base_sigkill_timeout=20   # mpirun kills 1 s after SIGTERM else

# The program, relative to the repository's root.
LDMTUNE_PROGRAM="${LDMTUNE_PROGRAM:-build/ldmtune}"

# Modules that the program was built with. The same line is needed before jobs/build.sh.
#module purge
#module load gcc/13 openmpi/4.1 hdf5/1.14 boost/1.83 cmake/3.27

# Or everything in an Apptainer image (slurm/ldmtune.def), and nothing built here. --nv brings the host's GPU driver in.
# shellcheck disable=SC2034
LDMTUNE_CONTAINER=()
#LDMTUNE_CONTAINER=(apptainer exec --nv ldmtune.sif); LDMTUNE_PROGRAM=/opt/ldmtune/build/ldmtune

# A folder on each node's own disk: datasets are copied there once (by content, checked) and read from there.
#export LDMTUNE_SCRATCH="${SLURM_TMPDIR:-/local/$USER}"

# HDF5's file locks. Left out, a job tries whether the file system has locks and sets FALSE where it has none.
#export HDF5_USE_FILE_LOCKING=FALSE

# A LibTorch of your own, for jobs/build.sh (else it looks for torch in .venv and python3).
#export Torch_DIR=/path/to/libtorch/share/cmake/Torch
