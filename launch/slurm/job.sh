# The inside of a job, sourced by its batch script (launch/slurm/script.py renders one, launch/train.sbatch is one):
#
#   stage FOLDER       copies the environment to a disk of each node first (optional)
#   start COMMAND...   all ranks, with srun; leaves the exit code in $status
#   finish COMMAND...  asks launch.requeue whether to go on, does so, and ends the job
#
# They need CODE, PYTHON, RUN_DIR, CHECKPOINTS and MAX_STARTS; stage needs VENV too, and CHAINED=yes is for jobs of a
# chain.
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
    tar -cf "$folder.tar" -C "$VENV" . --transform 's,^\.,venv,' --exclude=__pycache__ &&
        tar -rf "$folder.tar" -C "$CODE" . --transform 's,^\.,code,' &&
        sbcast --force "$folder.tar" "$folder.copy.tar" &&
        one_a_node bash -c 'mkdir -p "$1" && exec 9>"$1.lock" && flock 9 && { [ -e "$1/complete" ] ||
            { tar -xf "$1.copy.tar" -C "$1" && touch "$1/complete"; }; } && rm -f "$1.copy.tar"' - "$folder" ||
        die "cluster.scratch: the environment could not be copied to $folder"
    rm -f "$folder.tar"
    staged=$folder
    VENV=$folder/venv
    PYTHON=$VENV/bin/python
    export CODE=$folder/code PYTHONPATH="$folder/code:$PYTHONPATH"
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
    local decision
    [ -z "$staged" ] || one_a_node rm -rf "$staged" "$staged.lock"
    decision=$("$@" "$RUN_DIR" --checkpoints "$CHECKPOINTS" --exit-code "$status" --max-starts "$MAX_STARTS" \
        ${CHAINED:+--chained}) || die "launch.requeue failed: not requeued. Exit code of the ranks: $status"
    case $decision in
        requeue) scontrol requeue "$SLURM_JOB_ID" || echo "error: SLURM does not requeue this job" >&2 ;;
        cancel*) # shellcheck disable=SC2086 # numbers of jobs
            scancel ${decision#cancel} ;;
    esac
    exit "$status"
}
