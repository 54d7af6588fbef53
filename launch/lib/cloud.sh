# shellcheck shell=bash
# What is asked of the cloud: slices and requests, commands and files on their workers.

# Errors that may pass by themselves; a missing quota or right does not.
BUSY='UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|HTTP(Error)? ?50[0-9]|RATE_LIMIT'
BUSY+='|Connection (reset|refused|aborted)|timed out|Max retries exceeded'

# Every command that has an effect passes here. A dry run prints it to descriptor 3, stdout of old.
run() {
    local word line=+
    if [[ $DRY_RUN == 1 ]]; then
        for word in "$@"; do
            [[ $word =~ ^[-A-Za-z0-9_.,:/=@+]+$ ]] || word=${word@Q}
            line+=" $word"
        done
        printf '%s\n' "$line" >&3
    else
        # No bare `return` here or below: in a trap it would give the status from before the trap.
        "$@"
    fi
}

pause() { run sleep "$1"; }

tpus() { # GROUP VERB ARGUMENTS: gcloud compute tpus GROUP VERB ...
    run gcloud compute tpus "$@" --project="$XLSR_PROJECT" --zone="$XLSR_ZONE"
}

# A command, again while the cloud is busy; leaves its words on stderr in $scratch/errors, and the
# number of tries in `tries`.
patient() {
    for ((tries = 1; ; tries++)); do
        if "$@" 2> "$scratch/errors"; then
            cat "$scratch/errors" >&2
            return 0
        fi
        if ((tries >= XLSR_RETRIES)) || ! grep -Eq "$BUSY" "$scratch/errors"; then
            return 1
        fi
        say "busy, again in $((tries * 10)) s: $(tail -n 1 "$scratch/errors")"
        pause $((tries * 10))
    done
}

# A step on the workers, again whatever it failed of: keys, packages and networks need time.
again() {
    local try
    for ((try = 1; ; try++)); do
        "$@" && return 0
        ((try < XLSR_RETRIES)) || return 1
        say "try $try of $XLSR_RETRIES failed, again in $((try * 10)) s"
        pause $((try * 10))
    done
}

# State of $2 in group $1 (queued-resources or tpu-vm): NOT_FOUND where it is not, UNKNOWN where
# nobody answers.
state_of() {
    local group=$1 name=$2 key=state state
    [[ $group == tpu-vm ]] || key=state.state
    state=$(patient tpus "$group" describe "$name" --format="value($key)") || {
        if grep -Eq 'NOT_FOUND|not found' "$scratch/errors"; then
            echo NOT_FOUND
        else
            say "no answer: $(tail -n 1 "$scratch/errors")"
            echo UNKNOWN
        fi
        return 0
    }
    if [[ $DRY_RUN == 1 ]]; then
        case ${at_hand:+$XLSR_HOW} in
            "") state=NOT_FOUND ;;
            queued) [[ $group == tpu-vm ]] && state=READY || state=ACTIVE ;;
            direct) [[ $group == tpu-vm ]] && state=READY || state=NOT_FOUND ;;
        esac
    fi
    echo "${state:-UNKNOWN}"
}

# One word for the whole: READY where all slices are, else what keeps it from being so.
slice_state() {
    local state node
    if [[ $XLSR_HOW == direct ]]; then
        state_of tpu-vm "$XLSR_NAME"
        return 0
    fi
    state=$(state_of queued-resources "$XLSR_NAME")
    if [[ $state != ACTIVE ]]; then
        echo "$state"
        return 0
    fi
    for node in $(nodes); do
        state=$(state_of tpu-vm "$node")
        [[ $state == READY ]] || break
    done
    # A node may vanish before its request is called suspended.
    [[ $state != NOT_FOUND ]] || state=PREEMPTED
    echo "$state"
}

nodes() {
    local number
    if ((XLSR_SLICES == 1)); then
        echo "$XLSR_NAME"
    else
        for ((number = 0; number < XLSR_SLICES; number++)); do echo "$XLSR_NAME-$number"; done
    fi
}

# Asks for the slice. Returns 1, with the reason said, where the cloud refuses.
create_slice() {
    local -a request=("--accelerator-type=$XLSR_ACCELERATOR")
    if [[ $XLSR_HOW == direct ]]; then
        request=(tpu-vm create "$XLSR_NAME" "${request[@]}" "--version=$runtime")
    else
        request=(queued-resources create "$XLSR_NAME" "${request[@]}"
            "--runtime-version=$runtime" "--valid-until-duration=${XLSR_QUEUE_HOURS}h")
        if ((XLSR_SLICES == 1)); then
            request+=("--node-id=$XLSR_NAME")
        else
            request+=("--node-count=$XLSR_SLICES" "--node-prefix=$XLSR_NAME")
        fi
    fi
    [[ $XLSR_SPOT == 0 ]] || request+=(--spot)
    if patient tpus "${request[@]}" "${create_flags[@]}"; then
        at_hand=1
        return 0
    fi
    # A try that was cut off may have reached the cloud all the same.
    if ((tries > 1)) && grep -q ALREADY_EXISTS "$scratch/errors"; then return 0; fi
    cat "$scratch/errors" >&2
    if grep -iq quota "$scratch/errors"; then
        say "no quota left for $XLSR_ACCELERATOR in $XLSR_ZONE: ask for more under IAM & Admin, \
Quotas, or set XLSR_ZONE, XLSR_SPOT or XLSR_ACCELERATOR to what you have"
    elif grep -Eiq 'capacity|RESOURCE_EXHAUSTED' "$scratch/errors"; then
        say "no room for $XLSR_ACCELERATOR in $XLSR_ZONE now$([[ $XLSR_HOW == queued ]] \
            || echo "; XLSR_HOW=queued waits for it")"
    fi
    return 1
}

# Deletes what there is under the name, request and slice, and looks whether it is gone.
delete_slice() {
    local group state try failed=0
    armed=delete
    for group in queued-resources tpu-vm; do
        state=$(state_of "$group" "$XLSR_NAME")
        for ((try = 1; try <= XLSR_RETRIES; try++)); do
            [[ $state != NOT_FOUND ]] || break
            if [[ $group == queued-resources ]]; then
                tpus "$group" delete "$XLSR_NAME" --force --quiet || true
            else
                tpus "$group" delete "$XLSR_NAME" --quiet || true
            fi
            [[ $DRY_RUN != 1 ]] || at_hand=""
            state=$(state_of "$group" "$XLSR_NAME")
            [[ $state == NOT_FOUND ]] || pause $((try * 10))
        done
        [[ $state == NOT_FOUND ]] || failed=1
    done
    armed=""
    if ((failed)); then
        say "COULD NOT DELETE $XLSR_NAME, it may be billed; look at: gcloud compute tpus tpu-vm \
list --project=$XLSR_PROJECT --zone=$XLSR_ZONE"
        return 1
    fi
    tell "nothing is left of $XLSR_NAME"
}

# Runs the one string $2 on worker $1 (a number, or "all"; of the first slice, or of all).
far() {
    local target=(tpu-vm ssh "$XLSR_NAME")
    if ((XLSR_SLICES > 1)); then
        target=(queued-resources ssh "$XLSR_NAME" "--node=$(node_of "$1")")
    fi
    [[ $1 != all ]] || target+=(--batch-size=all)
    tpus "${target[@]}" --worker="$1" --quiet ${2:+"--command=$2"}
}

node_of() { if [[ $1 == all ]]; then echo all; else echo 0; fi; }

# Copies between here and worker $1: far_copy WORKER SOURCE DESTINATION, with NAME: for there.
far_copy() {
    local -a command=(tpu-vm scp "$2" "$3")
    ((XLSR_SLICES == 1)) || command=(queued-resources scp "$2" "$3" "--node=$(node_of "$1")")
    [[ $1 != all ]] || command+=(--batch-size=all)
    tpus "${command[@]}" --worker="$1" --quiet
}

# The command line of worker.sh, quoted for the shell over there.
worker() {
    local word line="bash xlsr_jax/code/launch/worker.sh"
    for word in "$@"; do printf -v line '%s %q' "$line" "$word"; done
    echo "$line"
}

# A signal. Watching may end and leave the training; a half-made slice is of no use to anybody.
interrupted() {
    if [[ $armed == watch ]]; then
        armed=""
        exec 2>&4
        say "watching ended; $XLSR_NAME trains on and is billed: launch/tpu.sh watch or delete"
    fi
    exit "$1"
}

# The last thing that runs: a step that failed must not leave a slice behind.
finish() {
    local status=$?
    trap '' HUP INT TERM
    exec 2>&4 # a signal may have come where words were kept in a file
    if ((status != 0)) && [[ -n $armed ]]; then
        if [[ $armed == delete ]]; then
            say "deleting was cut short, $XLSR_NAME may be billed; again: launch/tpu.sh delete"
        elif [[ $XLSR_KEEP == 1 ]]; then
            say "$armed failed; XLSR_KEEP=1 keeps $XLSR_NAME, which is billed until you run: \
launch/tpu.sh delete"
        else
            say "$armed failed: deleting what there is of $XLSR_NAME, so that nothing is billed"
            # A request that a signal cut off may still be on its way.
            [[ $armed != create || $status -lt 128 ]] || pause 10
            delete_slice || true
        fi
    fi
    rm -rf "$scratch"
    exit "$status"
}
