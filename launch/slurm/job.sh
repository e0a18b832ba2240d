# The inside of a job, sourced by its batch script (launch/slurm/script.py renders one, launch/train.sbatch is one):
#
#   stage FOLDER       copies the environment to a disk of each node first (optional)
#   start COMMAND...   all ranks, with srun; leaves the exit code in $status
#   finish COMMAND...  asks launch.requeue whether to go on, does so, and ends the job
#
# They need CODE, PYTHON, RUN_DIR, CHECKPOINTS, MAX_STARTS and EXCLUDE_AFTER; stage needs VENV too, and CHAINED=yes is
# for jobs of a chain.
#
# Which signal reaches whom: `--signal=B:USR1` and `scancel --batch --signal=USR1` the batch shell alone, which hands it on
# to srun, and srun to every rank; `scancel --signal` the ranks; `scancel` and the time limit all, with SIGTERM: this shell
# ends at once, the ranks save, and nothing is requeued. CONT comes along with TERM and must not be trapped: bash 5.2 then
# loses the trap of USR1.

set -u
step=
status=0
asked=

die() { # a job that cannot work: launch.requeue's exit code for "never again"
    echo "error: $*" >&2
    exit 3
}

on_usr1() {
    asked=yes
    [ -z "$step" ] || kill -USR1 "$step"
}
trap on_usr1 USR1

# shellcheck source=launch/environment.sh
source "$CODE/launch/environment.sh"
default OMP_NUM_THREADS "${SLURM_CPUS_PER_TASK:-1}" # else each rank takes all cores of its node, and they wait for each other
export PYTHONPATH="$CODE${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # not the working directory: it may hold the code of another day

# Since SLURM 22.05 srun does not take this from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

# Where ranks meet: at the first node of the job, under the address by which SLURM itself reaches it.
rendezvous() {
    local nodes first address
    nodes=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?is set by SLURM: this is a script for sbatch}") ||
        die "scontrol does not say which nodes $SLURM_JOB_NODELIST are"
    first=${nodes%%$'\n'*}
    address=$(scontrol show node --oneliner "$first" | grep -o ' NodeAddr=[^ ]*')
    export MASTER_ADDR="${address#*=}"
    [ -n "$MASTER_ADDR" ] || die "scontrol does not say the address of the first node, $first"
    # Another port for each start: what is left of the one before may still hold its own.
    default MASTER_PORT $((20000 + (SLURM_JOB_ID + 97 * ${SLURM_RESTART_COUNT:-0}) % 10000))
    echo "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}: ${nodes//$'\n'/ }; ranks meet at $MASTER_ADDR:$MASTER_PORT"
}
rendezvous

# Every node gets one file, which SLURM passes on from node to node; unpacked it replaces VENV and CODE.
stage() {
    local folder=$1/trinity-$SLURM_JOB_ID
    mkdir -p "$folder" || die "cluster.scratch: cannot make $folder"
    tar -C "$VENV" --transform 'flags=rh;s,^\.,venv,' -cf "$folder.tar" . &&
        tar -C "$CODE" --transform 'flags=rh;s,^\.,code,' -rf "$folder.tar" . &&
        sbcast --force "$folder.tar" "$folder.copy.tar" &&
        one_a_node bash -c 'mkdir -p "$1" && exec 9>"$1.lock" && flock 9 && { [ -e "$1/complete" ] ||
            { tar -xf "$1.copy.tar" -C "$1" && touch "$1/complete"; }; } && rm -f "$1.copy.tar"' - "$folder" ||
        die "cluster.scratch: the environment could not be copied to $folder"
    rm -f "$folder.tar"
    staged=$folder
    VENV=$folder/venv
    export PYTHON=$VENV/bin/python CODE=$folder/code PYTHONPATH="$folder/code:$PYTHONPATH"
}
staged=

one_a_node() { srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"; }

start() {
    if [ -n "$asked" ]; then # before there was anything to ask
        status=10
        return
    fi
    "$@" &
    step=$!
    [ -z "$asked" ] || kill -USR1 "$step" # it came between the two lines
    while :; do # wait returns early, with 128 + n, when a signal comes
        wait "$step"
        status=$?
        if [ $status -gt 128 ] && kill -0 "$step" 2>/dev/null; then continue; fi
        break
    done
}

finish() {
    local verdict jobs nodes decision
    decision=$("$@" "$RUN_DIR" --checkpoints "$CHECKPOINTS" --exit-code "$status" --max-starts "$MAX_STARTS" \
        --exclude-after "$EXCLUDE_AFTER" ${CHAINED:+--chained}) ||
        die "launch.requeue failed: not requeued. Exit code of the ranks: $status"
    [ -z "$staged" ] || one_a_node rm -rf "$staged" "$staged.lock" # PYTHON too: not before
    read -r verdict jobs nodes <<<"$decision"
    case $verdict in
        requeue) requeue_without "$nodes" ;;
        cancel) # shellcheck disable=SC2086 # one word a job
            scancel ${jobs//,/ } ;;
        end) leave_out "$nodes" "$jobs" ;;
    esac
    exit "$status"
}

# Ends this script by the signal that it is answered with: an exit code could be taken for that of the next start.
requeue_without() { # NODES
    trap '' TERM # until the nodes are known: what a job leaves out can be changed only while it waits
    if scontrol requeue "$SLURM_JOB_ID"; then
        leave_out "$1" "$SLURM_JOB_ID"
        trap - TERM
        kill -TERM $$
        sleep 60
    fi
    echo "error: SLURM does not requeue it" >&2
}

leave_out() { # NODES JOBS, each separated by commas, or -: besides the nodes that the jobs leave out already
    local job nodes others left
    [ "$1" != - ] && [ "$2" != - ] || return 0
    for job in ${2//,/ }; do
        others=$(scontrol show job --oneliner "$job" | grep -o ' ExcNodeList=[^ ]*')
        others=${others#*=}
        nodes=$1${others:+,$others}
        nodes=${nodes%,(null)}
        left=$(sinfo --noheader --Node --partition="$SLURM_JOB_PARTITION" --format=%N | sort -u |
            grep -vxcF -f <(scontrol show hostnames "$nodes"))
        if [ "$left" -lt "$SLURM_JOB_NUM_NODES" ]; then
            echo "job $job: $nodes would be left out, but the partition has no others: add nodes, or mend these" >&2
        elif scontrol update "JobId=$job" "ExcNodeList=$nodes"; then
            echo "job $job: leaves out $nodes" >&2
        fi
    done
}
