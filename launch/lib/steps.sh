# shellcheck shell=bash
# The steps of a run: a slice that is ready, workers that are set up, a training that has begun.

GONE='^(NOT_FOUND|PREEMPTED|TERMINATED|FAILED|SUSPENDING|SUSPENDED)$' # states without a way back

# Waits until the slice is ready; 1 where it will not be, or the seconds of `deadline` are past.
wait_until_ready() {
    local state last=""
    while true; do
        state=$(slice_state)
        [[ $state == "$last" ]] || tell "$XLSR_NAME is $state"
        last=$state
        [[ $state != READY ]] || return 0
        [[ ! $state =~ $GONE ]] || return 1
        ! over_time || return 1
        pause "$XLSR_POLL"
    done
}

# Copies the repository to all workers, installs it, and lets all of them add up one number.
setup_slice() {
    local unpack="rm -rf xlsr_jax/code && mkdir -p xlsr_jax/code"
    unpack+=" && tar -xzf xlsr_jax.tgz -C xlsr_jax/code"
    run git -C "$ROOT" archive --format=tar.gz --output="$scratch/code.tgz" "$XLSR_COMMIT" \
        || return 1
    [[ $DRY_RUN == 1 || $XLSR_COMMIT != HEAD ]] || git -C "$ROOT" diff --quiet HEAD -- \
        || tell "changes that are not committed stay here; the workers get HEAD"
    again far_copy all "$scratch/code.tgz" "$XLSR_NAME:xlsr_jax.tgz" || return 1
    again far all "$unpack && $(worker install "$XLSR_PYTHON")" || return 1
    again far all "$(worker check "$hosts" "$devices")" || return 1
    tell "$hosts worker(s) with $devices devices are set up"
}

# Starts the training under tmux on all workers; 1 where that did not work anywhere.
start_training() {
    local replica fsdp tensor try
    IFS=, read -r replica fsdp tensor <<< "$mesh"
    local -a arguments=("--config=$XLSR_CONFIG" "--workdir=$XLSR_WORKDIR"
        "--config.mesh.replica=$replica" "--config.mesh.fsdp=$fsdp"
        "--config.mesh.tensor=$tensor" "${flags[@]}")
    for ((try = 1; ; try++)); do
        far all "$(worker start "${arguments[@]}")" && return 0
        # Those that did start wait for the others: all end, and all start again.
        far all "$(worker stop)" || true
        ((try < XLSR_RETRIES)) || return 1
        tell "not all workers started, again in $((try * 10)) s"
        pause $((try * 10))
    done
}

# The training as a whole, in one word: running, finished, stopped (it saved its state and ended
# before its last update), crashed, absent, bare (no code on the workers yet), or unreachable.
training_state() {
    local answer count
    if [[ $DRY_RUN == 1 ]]; then
        far all "$(status_command)" >&2
        echo "$dry_training"
        return 0
    fi
    answer=$(far all "$(status_command)") || answer=""
    answer=$(grep -Eo 'xlsr_run [a-z]+' <<< "$answer" || true)
    count=$(grep -c . <<< "$answer" || true)
    # One that failed keeps the others waiting, so that it speaks for all.
    if [[ $answer == *failed* ]]; then
        echo crashed
    elif ((count < hosts)); then
        echo unreachable
    else
        case $answer in
            *running*) echo running ;;
            *bare*) echo bare ;;
            *absent*) echo absent ;;
            *stopped*) echo stopped ;;
            *) echo finished ;;
        esac
    fi
}

# Works on a worker that was never set up, too.
status_command() {
    echo "if test -e xlsr_jax/venv; then $(worker status); else echo xlsr_run bare; fi"
}

run_create() {
    local group state
    # What is there is somebody's: it must neither be taken for ours nor deleted.
    for group in queued-resources tpu-vm; do
        state=$(state_of "$group" "$XLSR_NAME")
        [[ $state == NOT_FOUND ]] || die 1 "$XLSR_NAME is there already ($state): go on with \
launch/tpu.sh setup, train or watch, delete it, or choose another XLSR_NAME"
    done
    armed=create
    create_slice || exit 1
    wait_until_ready || exit 1
}

run_setup() {
    refuse_while_training
    armed=setup
    setup_slice || exit 1
}

run_train() {
    refuse_while_training
    [[ $DRY_RUN == 1 || $training != bare ]] \
        || die 1 "$XLSR_NAME has no code yet: launch/tpu.sh setup comes first"
    armed=train
    start_training || exit 1
    tell "training; launch/tpu.sh watch looks after it, logs shows it"
}

run_up() {
    run_create
    armed=setup
    setup_slice || exit 1
    armed=train
    start_training || exit 1
    run_watch
}

# Leaves the state of the training in `training`. Nothing is lost yet if this ends the step.
refuse_while_training() {
    local state try
    state=$(slice_state)
    [[ $state == READY ]] || die 1 "$XLSR_NAME is $state: launch/tpu.sh create comes first"
    for ((try = 1; try <= XLSR_RETRIES; try++)); do
        training=$(training_state)
        [[ $training == unreachable ]] || break
        pause $((try * 10))
    done
    case $training in
        running) die 1 "$XLSR_NAME is training: launch/tpu.sh watch looks after it, stop ends it" ;;
        unreachable) die 1 "$XLSR_NAME does not answer: is it still training? Try again later" ;;
    esac
}

run_status() {
    local state
    state=$(slice_state)
    echo "$XLSR_NAME: $state"
    [[ $state != READY ]] || far all "$(status_command)"
}

run_ssh() {
    local to=0
    if [[ ${1:-} =~ ^([0-9]+|all)$ ]]; then
        to=$1
        shift
    fi
    far "$to" "$*"
}

# Copies the log of worker 0 and what the run wrote beside its checkpoints.
fetch_results() {
    local results=${XLSR_RESULTS:-runs/$XLSR_NAME}
    run mkdir -p "$results"
    again far_copy 0 "$XLSR_NAME:xlsr_jax/train.log" "$results/worker-0.log" || return 1
    if [[ $XLSR_WORKDIR == gs://* ]]; then
        again run gcloud storage rsync "$XLSR_WORKDIR" "$results" --recursive \
            --exclude='(^|.*/)checkpoints/.*' --project="$XLSR_PROJECT" || return 1
    else
        again far 0 "$(worker pack "$XLSR_WORKDIR")" || return 1
        again far_copy 0 "$XLSR_NAME:xlsr_jax/results.tgz" "$scratch/results.tgz" || return 1
        run tar -xzf "$scratch/results.tgz" -C "$results" || return 1
    fi
    tell "results are in $results"
}
