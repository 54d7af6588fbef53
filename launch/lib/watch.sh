# shellcheck shell=bash
# Looks after a training until it is finished, and gives the slice back.

LOST_AFTER=10 # looks without an answer from a slice that is called ready

over_time() {
    [[ $DRY_RUN != 1 ]] && ((deadline > 0 && $(date +%s) >= deadline))
}

# Ends with the training: 0 when it finished, 1 after too many crashes, after XLSR_MAX_HOURS, or
# where somebody else deleted the slice. Only a signal leaves the slice to itself.
run_watch() {
    local state last="" crashes=0 silent=0
    [[ $DRY_RUN == 1 ]] || deadline=$(($(date +%s) + XLSR_MAX_HOURS * 3600))
    while true; do
        armed=watch
        ! over_time || give_up "XLSR_MAX_HOURS=$XLSR_MAX_HOURS are over"
        state=$(slice_state)
        training=""
        if [[ $state == NOT_FOUND ]]; then
            armed=""
            die 1 "$XLSR_NAME is gone: somebody deleted it; launch/tpu.sh up starts it again"
        elif [[ $state =~ $GONE ]]; then
            tell "$XLSR_NAME is $state: creating it again, to go on from the newest checkpoint"
            bring_back || give_up "XLSR_MAX_HOURS=$XLSR_MAX_HOURS are over"
            silent=0
            continue
        elif [[ $state == READY ]]; then
            dry_training=finished
            training=$(training_state)
        fi
        [[ "$state $training" == "$last" ]] || tell "$XLSR_NAME is $state${training:+, $training}"
        last="$state $training"
        case $training in
            finished) finish_run && return 0 ;;
            crashed | stopped | absent | bare)
                silent=0
                # A slice that is about to be taken away stops the training first.
                pause "$XLSR_POLL"
                [[ $(slice_state) == READY ]] || continue
                crashes=$((crashes + 1))
                [[ $training != crashed ]] || show_last_lines
                ((crashes <= XLSR_RESTARTS)) || give_up "$crashes crashes"
                tell "restart $crashes of $XLSR_RESTARTS in $((crashes * XLSR_POLL)) s"
                pause $((crashes * XLSR_POLL))
                [[ $training == bare ]] && setup_slice || far all "$(worker stop)" || true
                start_training || tell "the training did not start"
                last=""
                ;;
            unreachable)
                silent=$((silent + 1))
                if ((silent >= LOST_AFTER)); then
                    tell "$XLSR_NAME is READY but does not answer: creating it again"
                    bring_back || give_up "XLSR_MAX_HOURS=$XLSR_MAX_HOURS are over"
                    silent=0 last=""
                fi
                ;;
            *) silent=0 ;;
        esac
        pause "$XLSR_POLL"
    done
}

# Deletes and creates the slice until it trains; 1 where the time is over.
bring_back() {
    local try
    for ((try = 1; ; try++)); do
        ! over_time || return 1
        delete_slice || true
        armed=create
        if create_slice && wait_until_ready && setup_slice && start_training; then
            armed=watch
            tell "$XLSR_NAME trains again"
            return 0
        fi
        # There may be no room for long: nothing is billed meanwhile.
        delete_slice || true
        tell "no slice yet, try $((try + 1)) in $((10 * XLSR_POLL)) s"
        pause $((10 * XLSR_POLL))
    done
}

finish_run() {
    tell "finished"
    fetch_results || tell "results could not be fetched; they are in $XLSR_WORKDIR"
    if [[ $XLSR_DELETE_AT_END == 0 ]]; then
        armed=""
        tell "$XLSR_NAME is kept and billed: launch/tpu.sh delete"
        return 0
    fi
    delete_slice || exit 1
}

show_last_lines() {
    tell "the training crashed; last lines of its log:"
    far all "tail -n 5 xlsr_jax/train.log" >&2 || true
}

give_up() { # REASON: saves what can be saved, deletes the slice and ends
    tell "giving up: $1"
    far all "$(worker stop)" || true
    fetch_results || true
    delete_slice || true
    exit 1
}
