#!/bin/bash
# A real SLURM of two nodes on this machine, for the tests: cluster.sh start|stop|kill-node NODE|start-node NODE
#
# Each node is a network namespace on a bridge, with a host name and an address of its own, so that a MASTER_ADDR that
# isn't the first node's fails as on a real cluster. As root; everything lies under $CLUSTER, and clients need nothing
# but SLURM_CONF=$CLUSTER/slurm.conf. Two partitions share the nodes: debug, and scavenge, which urgent preempts.
set -euo pipefail
ulimit -c 0 # a step of a killed node leaves no core file

: "${CLUSTER:?a folder with a short name}" # socket paths under it must stay below 100 characters
port=${CLUSTER_PORT:-26900} # another for a second cluster: they'd take each other's network
net=10.77.$((port % 250))
nodes=(node0 node1)
host=$(hostname -s)
export SLURM_CONF=$CLUSTER/slurm.conf

say() { echo "cluster: $*" >&2; }

wait_for() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    while [ $SECONDS -le $until ]; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    say "$what: waited too long"
    return 1
}

configure() {
    umask 022
    mkdir -p "$CLUSTER"/{state,spool,log,pid,munge}
    chmod 755 "$CLUSTER"
    (umask 077; head -c 128 /dev/urandom >"$CLUSTER/munge/key")
    for gpu in 0 1; do ln -sfn /dev/null "$CLUSTER/gpu$gpu"; done
    # Killed nodes must leave nothing behind: the freezer cgroup sees to it where there is one.
    local track=pgid
    [ -w /sys/fs/cgroup/freezer/cgroup.procs ] && track=cgroup
    {
        echo "127.0.0.1 localhost"
        echo "$net.1 $host"
        for n in "${!nodes[@]}"; do echo "$net.$((10 + n)) ${nodes[n]}"; done
    } >"$CLUSTER/hosts"
    # A name server that refuses at once: torch looks up addresses, and would wait for ten seconds each time.
    printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >"$CLUSTER/resolv.conf"
    # cred_expire is also for how long a requeued job waits, two minutes if it isn't set.
    cat >"$CLUSTER/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host($net.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$CLUSTER/munge/socket,cred_expire=5
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool/%n
SlurmctldPidFile=$CLUSTER/pid/slurmctld.pid
SlurmdPidFile=$CLUSTER/pid/slurmd.%n.pid
SlurmctldLogFile=$CLUSTER/log/slurmctld.log
SlurmdLogFile=$CLUSTER/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/$track
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
${CLUSTER_EXTRA:-}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
FirstJobId=$(($(date +%s) % 600000 * 100 + 1))
KillWait=${CLUSTER_KILL_WAIT:-15}
MinJobAge=600
InactiveLimit=0
Waittime=0
SlurmctldTimeout=30
SlurmdTimeout=9
MessageTimeout=10
BatchStartTimeout=10
CompleteWait=0
UnkillableStepTimeout=20
PropagateResourceLimits=NONE
GresTypes=gpu
NodeName=node0 NodeAddr=$net.10 Port=$((port + 10)) CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=node1 NodeAddr=$net.11 Port=$((port + 10)) CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=1 DefMemPerCPU=100 State=UP
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=${CLUSTER_GRACE:-20} DefMemPerCPU=100 State=UP
PartitionName=impatient Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 DefMemPerCPU=100 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=100 PreemptMode=OFF DefMemPerCPU=100 State=UP
CONF
    echo "NodeName=node[0-1] Name=gpu File=$CLUSTER/gpu[0-1]" >"$CLUSTER/gres.conf"
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n' \
        >"$CLUSTER/cgroup.conf"
}

spawn() { # NAME COMMAND...: in the background, its pid in a file
    local name=$1
    shift
    setsid "$@" </dev/null >>"$CLUSTER/log/$name.out" 2>&1 &
    echo $! >"$CLUSTER/pid/$name.run"
}

running() { # PID; a zombie isn't
    local status
    status=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 1
    [ "${status%% *}" != Z ]
}

reap() { # NAME SECONDS: ends what was spawned under this name
    local file=$CLUSTER/pid/$1.run pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < $2 * 20; i++)); do running "$pid" || break; sleep 0.05; done
    running "$pid" && kill -KILL "$pid" 2>/dev/null
    rm -f "$file"
}

network_up() {
    ip link add "cpbr$port" type bridge
    ip addr add "$net.1/24" dev "cpbr$port"
    ip link set "cpbr$port" up
    for n in "${!nodes[@]}"; do
        local space=cp$port-${nodes[n]}
        ip netns add "$space"
        ip link add "cpv$port-$n" type veth peer name eth0 netns "$space"
        ip link set "cpv$port-$n" master "cpbr$port" up
        ip -n "$space" addr add "$net.$((10 + n))/24" dev eth0
        ip -n "$space" link set lo up
        ip -n "$space" link set eth0 up
        ip -n "$space" route add default via "$net.1"
    done
}

network_down() {
    for space in /run/netns/"cp$port"-*; do [ -e "$space" ] && ip netns del "$(basename "$space")"; done
    ip link del "cpbr$port" 2>/dev/null || true
}

start_node() {
    mkdir -p "$CLUSTER/spool/$1"
    # nsenter, as `ip netns exec` would hide the cgroups.
    # shellcheck disable=SC2016
    spawn "slurmd.$1" nsenter "--net=/run/netns/cp$port-$1" unshare --mount --uts sh -c '
        hostname "$1"; mount --bind "$2/hosts" /etc/hosts; mount --bind "$2/resolv.conf" /etc/resolv.conf
        exec slurmd -D -N "$1"' sh "$1" "$CLUSTER"
}

tree() { # PID: it and all below it
    local child
    # shellcheck disable=SC2013
    for child in $(cat "/proc/$1/task"/*/children 2>/dev/null); do tree "$child"; done
    echo "$1"
}

steps_of() { # NODE: the processes that hold the sockets of its job steps
    local inode
    # shellcheck disable=SC2013
    for inode in $(awk -v folder="$CLUSTER/spool/$1/" 'index($8, folder) == 1 {print $7}' \
        "/proc/$(cat "$CLUSTER/pid/slurmd.$1.run")/net/unix"); do
        find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null | cut -d/ -f3
    done | sort -u
}

kill_node() { # as a power cut does: the node's daemon, its steps and all their processes at once
    local process each
    for process in "$(cat "$CLUSTER/pid/slurmd.$1.run")" $(steps_of "$1"); do
        for each in $(tree "$process"); do kill -KILL "$each" 2>/dev/null || true; done
    done
    # A batch script that is left behind would keep the requeued one from this node.
    rm -rf "$CLUSTER/pid/slurmd.$1.run" "$CLUSTER/spool/$1/$1"_* "$CLUSTER/spool/$1"/job*
    scontrol update nodename="$1" state=down reason=killed # it would be seen by itself, after half a minute
}

nodes_ready() { [ "$(sinfo -h -N -p debug -t idle -o %N | sort -u | wc -l)" = ${#nodes[@]} ]; }
no_jobs() { [ -z "$(squeue -h)" ]; }

start() {
    configure
    network_down
    network_up
    spawn munged munged --foreground --force --num-threads=2 --key-file="$CLUSTER/munge/key" \
        --socket="$CLUSTER/munge/socket" --pid-file="$CLUSTER/munge/munged.pid" \
        --log-file="$CLUSTER/munge/munged.log" --seed-file="$CLUSTER/munge/seed"
    wait_for 5 munged munge -S "$CLUSTER/munge/socket" -n
    spawn slurmctld slurmctld -D
    wait_for 10 slurmctld scontrol ping
    for node in "${nodes[@]}"; do start_node "$node"; done
    wait_for 20 "idle nodes" nodes_ready || { sinfo -N -l; tail -5 "$CLUSTER"/log/*; return 1; }
}

stop() {
    scancel -Q --signal=KILL --full --state=RUNNING --user=root 2>/dev/null || true
    scancel -Q --user=root 2>/dev/null || true
    wait_for 20 "the jobs' end" no_jobs || squeue >&2 || true
    for node in "${nodes[@]}"; do reap "slurmd.$node" 5; done
    reap slurmctld 10
    reap munged 5
    network_down
    for process in /proc/[0-9]*; do # what is left of this cluster's steps
        [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] || continue
        tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF" || continue
        kill -KILL "${process#/proc/}" || true
    done
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    kill-node) kill_node "$2" ;;
    start-node) start_node "$2" ;;
    *) sed -n '2,6p' "$0"; exit 2 ;;
esac
