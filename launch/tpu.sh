#!/usr/bin/env bash
# A TPU slice from creation to deletion; `launch/tpu.sh --help` lists commands and settings.
set -euo pipefail
((BASH_VERSINFO[0] >= 5)) || {
    echo "tpu.sh: bash 5 is needed, this is $BASH_VERSION; on a Mac: brew install bash" >&2
    exit 2
}

# What the files of lib share, beside the settings.
scratch=""             # a folder of this process alone
armed=""               # the step that, should it fail, costs the slice; "": nothing to lose
runtime="" mesh=""     # of the topology
hosts=0 devices=0      # of all slices together
flags=() create_flags=()
training=""            # what training_state last said
deadline=0             # second of the clock when the slice is given back; 0: never
at_hand=""             # what a dry run takes for there: a slice,
dry_training=absent    # and a training in this state

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$LAUNCH")
# shellcheck source=launch/lib/settings.sh
source "$LAUNCH/lib/settings.sh"
# shellcheck source=launch/lib/cloud.sh
source "$LAUNCH/lib/cloud.sh"
# shellcheck source=launch/lib/steps.sh
source "$LAUNCH/lib/steps.sh"
# shellcheck source=launch/lib/watch.sh
source "$LAUNCH/lib/watch.sh"

help() {
    cat << 'EOF'
launch/tpu.sh COMMAND: rents a TPU slice, trains on it, and gives it back.

  up          create, setup, train and watch, one after the other
  create      ask for the slice, and wait until it is ready
  setup       copy this repository to all workers, install it, check that all see each other
  train       start the training under tmux on all workers
  watch       restart after preemption and crashes; when finished, fetch results and delete
  status      state of the slice, and of the training on each worker
  logs [N]    follow the log of worker N (0)
  ssh [N] [COMMAND]
              a shell on worker N (0), or COMMAND there; N may be "all"
  stop        let the training save its state and end
  fetch       copy logs and results, without checkpoints
  delete      delete the slice, and its place in the queue
  topologies  what XLSR_ACCELERATOR may be

Settings are environment variables; docs/launching.md tells how they play together.

EOF
    list_settings
}

main() {
    local verb=${1:---help}
    shift || true
    case $verb in
        -h | --help | help) help && return ;;
        topologies) column -t "$LAUNCH/topologies.tsv" && return ;;
        up | watch | train) settle XLSR_ACCELERATOR XLSR_CONFIG XLSR_WORKDIR ;;
        create | setup) settle XLSR_ACCELERATOR ;;
        fetch) settle XLSR_WORKDIR ;;
        status | logs | ssh | stop | delete) settle ;;
        *) die 2 "no such command: $verb; launch/tpu.sh --help lists them" ;;
    esac
    [[ $DRY_RUN == 1 ]] || command -v gcloud > /dev/null \
        || die 2 "gcloud is not on PATH; install the Google Cloud CLI, then: gcloud auth login"
    exec 3>&1 4>&2
    scratch=$(mktemp -d)
    trap finish EXIT
    trap 'interrupted 129' HUP
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    [[ $verb == create || $verb == up ]] || at_hand=1
    case $verb in
        up) run_up ;;
        create) run_create ;;
        setup) run_setup ;;
        train) run_train ;;
        watch) run_watch ;;
        status) run_status ;;
        logs) far "${1:-0}" "tail -n 100 -F xlsr_jax/train.log" ;;
        ssh) run_ssh "$@" ;;
        stop) far all "$(worker stop)" ;;
        fetch) fetch_results ;;
        delete) delete_slice ;;
    esac
}

main "$@"
