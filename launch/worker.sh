#!/usr/bin/env bash
# What tpu.sh runs on every worker of a slice:
#   worker.sh install PYTHON | check HOSTS DEVICES | start FLAGS... | status | stop | pack FOLDER
# All of it lies in ~/xlsr_jax: code, venv, train.log, earlier.log, run.sh, pid, exit_status.
set -euo pipefail

base=$HOME/xlsr_jax
session=xlsr_jax

install() {
    export PATH=$HOME/.local/bin:$PATH
    # The images' Python is older than the one we need; uv brings its own.
    command -v uv > /dev/null || python3 -m pip install --user --quiet uv
    command -v tmux > /dev/null || sudo apt-get install -y -qq tmux
    rm -rf "$base/venv"
    uv venv --quiet --python "$1" "$base/venv"
    cd "$base/code"
    VIRTUAL_ENV=$base/venv uv pip install --quiet --constraint .ci/constraints.txt \
        --editable '.[gcs]' 'jax[tpu]'
}

check() {
    # A worker that is missing keeps the others waiting.
    timeout 900 "$base/venv/bin/python" "$base/code/launch/check_workers.py" \
        --hosts="$1" --devices="$2"
}

running() { tmux has-session -t "=$session" 2> /dev/null; }

start() {
    if running; then
        echo "a training is going on in the tmux session $session" >&2
        exit 1
    fi
    cd "$base"
    [[ ! -f train.log ]] || cat train.log >> earlier.log
    rm -f exit_status pid
    {
        printf 'cd %q\n' "$base/code"
        printf '%q ' "$base/venv/bin/python" -m xlsr_jax.train --distributed "$@"
        printf '> %q 2>&1 &\n' "$base/train.log"
        printf 'echo $! > %q\n' "$base/pid"
        printf 'wait $!\n'
        printf 'echo $? > %q\n' "$base/exit_status"
    } > run.sh
    tmux new-session -d -s "$session" "bash $(printf %q "$base/run.sh")"
}

status() {
    local code
    if running; then
        echo "xlsr_run running"
    elif [[ ! -f $base/exit_status ]]; then
        echo "xlsr_run absent"
    else
        code=$(< "$base/exit_status")
        if ((code != 0)); then
            echo "xlsr_run failed:$code"
        # The trainer ends with 0 where SIGTERM stopped it, and says so on the first host.
        elif grep -q 'update [0-9]*: stopping: ' "$base/train.log"; then
            echo "xlsr_run stopped"
        else
            echo "xlsr_run finished"
        fi
    fi
}

stop() {
    local waited
    running || return 0
    [[ ! -f $base/pid ]] || kill -TERM "$(< "$base/pid")" 2> /dev/null || true
    for ((waited = 0; waited < 300; waited += 5)); do
        running || return 0
        sleep 5
    done
    tmux kill-session -t "=$session"
}

pack() { tar -czf "$base/results.tgz" --exclude=checkpoints -C "$1" .; }

"$@"
