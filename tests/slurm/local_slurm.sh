#!/usr/bin/env bash
# A real Slurm of its own on this machine (munged, slurmctld and a slurmd for each "node"), for tests:
#
#   tests/slurm/local_slurm.sh start [FOLDER]        prints its folder (a fresh temporary one if none is named)
#   . FOLDER/env.sh                                  what sbatch, squeue, srun and mpirun need
#   tests/slurm/local_slurm.sh kill_node FOLDER n2   as a power cut: slurmd and every process of a job there, SIGKILL
#   tests/slurm/local_slurm.sh cut_off FOLDER n2     as a lost network: Slurm's processes there stand still, ldmtune's run on
#   tests/slurm/local_slurm.sh start_node FOLDER n2
#   tests/slurm/local_slurm.sh status FOLDER
#   tests/slurm/local_slurm.sh stop FOLDER           cancels its jobs, ends its daemons; the folder stays
#
# It writes into FOLDER only, has a munge key of its own, and its daemons listen on 127.0.0.1. Only processes that
# it recorded, or that carry its slurm.conf in their environment, are ever ended. Partitions: main; low (its jobs are
# preempted by requeueing, after a grace time) and high (preempts low). Settings by environment:
#
#   LOCAL_SLURM_NODES=4  LOCAL_SLURM_CPUS=8 (claimed for each node)   LOCAL_SLURM_GRACE=15 (seconds before a preempted job is killed)
#   LOCAL_SLURM_KILL_WAIT=20 (seconds from SIGTERM to SIGKILL)         LOCAL_SLURM_NODE_TIMEOUT=300 (seconds until a silent node is down)
#   LOCAL_SLURM_REQUEUE_WAIT=5 (seconds before a requeued job may start again; Slurm's default is 120)
#   LOCAL_SLURM_OWNER=PID  stop and remove the folder when this process has ended, however it ended
set -euo pipefail
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
script="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/$(basename "${BASH_SOURCE[0]}")"

nodes="${LOCAL_SLURM_NODES:-4}"
cpus="${LOCAL_SLURM_CPUS:-8}"
kill_wait="${LOCAL_SLURM_KILL_WAIT:-20}"

die() {
  echo "local_slurm: $*" >&2
  exit 1
}

# ---- Processes: recorded as "name pid start-time", since a pid alone might be another process by now -----------------

start_time() {
  local stat
  stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1
  read -ra stat <<<"${stat##*) }"
  [ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

alive() { [ -n "${2:-}" ] && [ "$(start_time "$1")" = "$2" ]; }

# Runs COMMAND NAME PID STARTTIME for each recorded daemon that is alive.
each_daemon() {
  local name pid started
  [ -e "$folder/daemons" ] || return 0
  while read -r name pid started; do
    if alive "$pid" "$started"; then "$@" "$name" "$pid" "$started"; fi
  done <"$folder/daemons"
}

start_daemon() {  # start_daemon NAME COMMAND...
  local name=$1 pid
  shift
  # A job's processes are told by their node's name, slurmd's own by the same variable set here.
  env -i PATH="$PATH" HOME="${HOME:-/}" LANG=C SLURM_CONF="$folder/slurm.conf" SLURMD_NODENAME="${name#slurmd.}" \
    setsid "$@" </dev/null >>"$folder/log/$name.out" 2>&1 &
  pid=$!
  disown "$pid"
  echo "$name $pid $(start_time "$pid" || echo gone)" >>"$folder/daemons"
}

start_slurmd() { start_daemon "slurmd.$1" slurmd -D -N "$1"; }

# Pids of processes with these lines in their environment.
processes_with() {
  local file line found
  for file in /proc/[0-9]*/environ; do
    found=true
    for line in "$@"; do
      { tr '\0' '\n' <"$file"; } 2>/dev/null | grep -qx -- "$line" || { found=false; break; }
    done
    if $found; then basename "${file%/environ}"; fi
  done
}

# ---- Configuration ---------------------------------------------------------------------------------------------------

free_ports() {  # the first of $1 free ports in a row, below the range that outgoing connections use
  local first port
  for _ in {1..50}; do
    first=$((20000 + RANDOM % 1000 * 12))
    for ((port = first; port < first + $1; port++)); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
    done
    echo "$first"
    return
  done
  die "found no free ports"
}

write_configuration() {
  local host port last=$((nodes - 1))
  host="$(hostname -s)"
  port="$(free_ports $((nodes + 1)))"
  cat >"$folder/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credential of its last start has expired.
AuthInfo=socket=$folder/run/munge.sock,cred_expire=${LOCAL_SLURM_REQUEUE_WAIT:-5}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdSpoolDir=$folder/spool/%n
SlurmdPidFile=$folder/run/slurmd.%n.pid
SlurmdLogFile=$folder/log/slurmd.%n.log
# The pmix plugin makes a folder there for each step; nodes that share one would share it too.
TmpFS=$folder/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
PlugStackConfig=$folder/plugstack.conf
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=${LOCAL_SLURM_NODE_TIMEOUT:-300}
KillWait=$kill_wait
JobRequeue=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Without it a preempted job gets SIGTERM only, not the signal it asked for by --signal.
SlurmctldParameters=preempt_send_user_signal
NodeName=n[0-$last] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=100000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=${LOCAL_SLURM_GRACE:-15}
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF
CONF
  # Left to itself Slurm 22.05 may pick cgroup/v2, which wants systemd; v1 does nothing unless a plugin asks for it.
  echo 'CgroupPlugin=cgroup/v1' >"$folder/cgroup.conf"
  : >"$folder/plugstack.conf"
  # All nodes are one host: shared-memory segments, named by host and local rank, would collide between nodes.
  cat >"$folder/env.sh" <<CONF
export SLURM_CONF=$folder/slurm.conf
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_orte_tmpdir_base=$folder/tmp
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
CONF
}

# ---- Commands --------------------------------------------------------------------------------------------------------

idle_nodes() { timeout 10 sinfo --noheader --Node --partition main --format '%T' 2>/dev/null | grep -c '^idle$' || true; }

wait_for_nodes() {
  local deadline=$((SECONDS + 60))
  while [ "$(idle_nodes)" != "$nodes" ]; do
    if [ $SECONDS -ge $deadline ]; then
      tail -n 20 "$folder"/log/* >&2
      stop
      die "only $(idle_nodes) of $nodes nodes came up in a minute"
    fi
    sleep 0.2
  done
}

start() {
  local program i
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || die "$program is not installed: jobs/setup.sh --tests"
  done
  mkdir -p "$folder"
  folder="$(cd "$folder" && pwd -P)"
  [[ "$folder" =~ ^[A-Za-z0-9_./-]{1,70}$ ]] || die "$folder: expected up to 70 letters, digits and _./- (sockets lie in it)"
  [ -z "$(ls -A "$folder")" ] || die "$folder: expected an empty folder"
  trap 'stop; exit 130' INT TERM
  mkdir -p "$folder"/{run,state,spool,log,tmp,etc}
  chmod 755 "$folder" "$folder/run"
  chmod 700 "$folder/etc"
  for ((i = 0; i < nodes; i++)); do mkdir -p "$folder/spool/n$i" "$folder/tmp/n$i"; done
  (umask 077; head -c 128 /dev/urandom >"$folder/etc/munge.key")
  write_configuration
  export SLURM_CONF="$folder/slurm.conf"
  start_daemon munged munged --foreground --force --socket="$folder/run/munge.sock" --key-file="$folder/etc/munge.key" \
    --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed"
  for _ in {1..100}; do [ -S "$folder/run/munge.sock" ] && break; sleep 0.1; done
  [ -S "$folder/run/munge.sock" ] || { cat "$folder"/log/munged.* >&2; stop; die "munged did not start"; }
  start_daemon slurmctld slurmctld -D
  for ((i = 0; i < nodes; i++)); do start_slurmd "n$i"; done
  wait_for_nodes
  [ -z "${LOCAL_SLURM_OWNER:-}" ] || start_daemon watch "$script" watch "$folder" "$LOCAL_SLURM_OWNER"
  echo "$folder"
}

# Ends the cluster when its owner has ended without doing so.
watch() {
  local owner=$1 started
  started="$(start_time "$owner")" || started=""
  while alive "$owner" "$started"; do sleep 1; done
  setsid "$script" remove "$folder" </dev/null >/dev/null 2>&1 &
}

cancel_jobs() {
  local ids deadline=$((SECONDS + kill_wait + 10))
  mapfile -t ids < <(timeout 10 squeue --noheader --format %A 2>/dev/null | sort -u)
  [ ${#ids[@]} -gt 0 ] || return 0
  timeout 10 scancel --quiet "${ids[@]}" 2>/dev/null || true
  while [ $SECONDS -lt $deadline ] && timeout 5 squeue --noheader --format %t 2>/dev/null | grep -q .; do sleep 0.2; done
}

end_daemon() { kill -"$1" "$3" 2>/dev/null || true; }  # end_daemon SIGNAL NAME PID STARTTIME

stop() {
  local signal deadline pid
  export SLURM_CONF="$folder/slurm.conf"
  if each_daemon echo | grep -q '^slurmctld'; then cancel_jobs; fi
  for signal in TERM KILL; do
    each_daemon end_daemon "$signal"
    deadline=$((SECONDS + 10))
    while [ $SECONDS -lt $deadline ] && [ -n "$(each_daemon echo)" ]; do sleep 0.1; done
  done
  # Orphans of jobs that Slurm's process tracking lost carry this cluster's configuration and a job's id.
  for pid in $(processes_with "SLURM_CONF=$folder/slurm.conf" 'SLURM_JOB_ID=[0-9]*'); do kill -KILL "$pid" 2>/dev/null || true; done
}

processes_of_node() { processes_with "SLURM_CONF=$folder/slurm.conf" "SLURMD_NODENAME=$1"; }

kill_node() {
  local pids
  for _ in 1 2; do  # again for what was born meanwhile
    mapfile -t pids < <(processes_of_node "$1")
    [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
  done
}

cut_off() {
  local pid
  for pid in $(processes_of_node "$1"); do
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = ldmtune ] || kill -STOP "$pid" 2>/dev/null || true
  done
}

command="${1:-}"
folder="${2:-}"
case "$command" in
  start) folder="${folder:-$(mktemp -d -t local_slurm.XXXXXX)}" ;;
  stop | remove | status | kill_node | cut_off | start_node | watch)
    [ -e "$folder/slurm.conf" ] || die "$command: expected the folder of a local Slurm, found '$folder'"
    folder="$(cd "$folder" && pwd -P)"
    ;;
  *) sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$script"; exit 2 ;;
esac
case "$command" in
  start) start ;;
  stop) stop ;;
  remove) stop; rm -rf "$folder" ;;
  status) each_daemon echo; SLURM_CONF="$folder/slurm.conf" timeout 10 sinfo --Node --format '%N %P %T %C' ;;
  kill_node) kill_node "${3:?kill_node FOLDER NODE}" ;;
  cut_off) cut_off "${3:?cut_off FOLDER NODE}" ;;
  start_node) start_slurmd "${3:?start_node FOLDER NODE}" ;;
  watch) watch "${3:?watch FOLDER PID}" ;;
esac
