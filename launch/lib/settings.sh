# shellcheck shell=bash
# Settings of tpu.sh: environment variables, checked before anything is asked of the cloud.

# name | example | meaning
REQUIRED=(
    "XLSR_PROJECT|my-project|Google Cloud project that has the quota and pays"
    "XLSR_ZONE|us-central2-b|zone of the quota"
    "XLSR_NAME|xlsr10|name of the slice, yours to choose"
    "XLSR_ACCELERATOR|v4-32|a row of launch/topologies.tsv (create, setup, train, watch, up)"
    "XLSR_CONFIG|configs/xlsr10_base.py|what to train (train, watch, up)"
    "XLSR_WORKDIR|gs://my-bucket/xlsr10|where the run lives: gs:// or a path that all workers mount"
)
# name | default | meaning
OPTIONAL=(
    "XLSR_FLAGS||further flags of xlsr_jax.train, quoted as in a shell; nothing is expanded"
    "XLSR_HOW|queued|queued (wait for room) or direct (at once or not at all)"
    "XLSR_SPOT|0|1: cheaper, and taken away at any time"
    "XLSR_SLICES|1|number of such slices, joined over the data centre's network"
    "XLSR_QUEUE_HOURS|24|a request that has waited so long is given up"
    "XLSR_CREATE_FLAGS||further flags of gcloud's create, e.g. --network=NAME --internal-ips"
    "XLSR_RUNTIME||runtime image in place of the table's"
    "XLSR_MESH||replica,fsdp,tensor in place of the table's"
    "XLSR_COMMIT|HEAD|commit of this repository that is trained"
    "XLSR_PYTHON|3.11|Python on the workers"
    "XLSR_RESULTS||where fetch puts results; runs/XLSR_NAME if not given"
    "XLSR_POLL|60|seconds between two looks"
    "XLSR_RETRIES|5|tries of a step that fails for a reason that may pass"
    "XLSR_RESTARTS|5|crashes that watch forgives"
    "XLSR_MAX_HOURS|168|watch stops the training and deletes the slice after that long"
    "XLSR_DELETE_AT_END|1|0: watch keeps the slice after a finished run; it is billed"
    "XLSR_KEEP|0|1: keep the slice when a step fails, to look at it; it is billed"
    "DRY_RUN|0|1: print every command, run none"
)

say() { printf 'tpu.sh: %s\n' "$*" >&2; }

# What a dry run has not done it does not tell.
tell() { [[ $DRY_RUN == 1 ]] || say "$@"; }

die() { # STATUS MESSAGE
    say "$2"
    exit "$1"
}

list_settings() {
    local row name value meaning
    echo "Required:"
    for row in "${REQUIRED[@]}"; do
        IFS='|' read -r name value meaning <<< "$row"
        printf '  %-18s %s; e.g. %s\n' "$name" "$meaning" "$value"
    done
    echo "Optional:"
    for row in "${OPTIONAL[@]}"; do
        IFS='|' read -r name value meaning <<< "$row"
        printf '  %-18s %s%s\n' "$name" "$meaning" "${value:+ (${value})}"
    done
}

# Checks all settings; those named, and the first three of REQUIRED, must be there. Exits with 2.
settle() {
    local row name value meaning missing=0
    for row in "${OPTIONAL[@]}"; do
        IFS='|' read -r name value meaning <<< "$row"
        [[ -n ${!name:-} ]] || printf -v "$name" '%s' "$value"
    done
    for row in "${REQUIRED[@]}"; do
        IFS='|' read -r name value meaning <<< "$row"
        [[ -z ${!name:-} ]] || continue
        printf -v "$name" '%s' ""
        [[ " XLSR_PROJECT XLSR_ZONE XLSR_NAME $* " == *" $name "* ]] || continue
        say "$name is not set: ${meaning%% (*}; for example: export $name=$value"
        missing=1
    done
    ((missing == 0)) || exit 2
    check_values
    read_topology
    read_words XLSR_FLAGS flags
    read_words XLSR_CREATE_FLAGS create_flags
}

check_values() {
    local name
    for name in XLSR_SLICES XLSR_QUEUE_HOURS XLSR_POLL XLSR_RETRIES XLSR_MAX_HOURS; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die 2 "$name=${!name}: a whole number above 0 is needed"
    done
    [[ $XLSR_RESTARTS =~ ^[0-9]+$ ]] || die 2 "XLSR_RESTARTS=$XLSR_RESTARTS: a number is needed"
    for name in XLSR_SPOT XLSR_DELETE_AT_END XLSR_KEEP DRY_RUN; do
        [[ ${!name} == [01] ]] || die 2 "$name=${!name}: it is 0 or 1"
    done
    [[ $XLSR_NAME =~ ^[a-z]([-a-z0-9]{0,37}[a-z0-9])?$ ]] \
        || die 2 "XLSR_NAME=$XLSR_NAME: small letters, digits and -, a letter first, 39 at most"
    [[ $XLSR_HOW == queued || $XLSR_HOW == direct ]] \
        || die 2 "XLSR_HOW=$XLSR_HOW: it is queued or direct"
    [[ $XLSR_HOW == queued || $XLSR_SLICES == 1 ]] \
        || die 2 "XLSR_SLICES=$XLSR_SLICES: several slices need XLSR_HOW=queued"
    [[ -z $XLSR_WORKDIR || $XLSR_WORKDIR == gs://?* || $XLSR_WORKDIR == /* ]] \
        || die 2 "XLSR_WORKDIR=$XLSR_WORKDIR: gs://bucket/folder, or an absolute path that all \
workers mount, because their own disks go with the slice"
    [[ -z $XLSR_CONFIG || -f $ROOT/${XLSR_CONFIG%%:*} ]] \
        || die 2 "XLSR_CONFIG=$XLSR_CONFIG: no such file in the repository"
}

# The row of XLSR_ACCELERATOR: sets runtime, hosts, devices (of all slices together) and mesh.
read_topology() {
    local type image row_hosts row_devices row_mesh
    [[ -n $XLSR_ACCELERATOR ]] || return 0
    while read -r type _ _ image _ row_hosts row_devices row_mesh; do
        [[ $type == "$XLSR_ACCELERATOR" ]] || continue
        runtime=${XLSR_RUNTIME:-$image}
        hosts=$((row_hosts * XLSR_SLICES))
        devices=$((row_devices * XLSR_SLICES))
        mesh=$row_mesh
        # Copies of the parameters live one a slice: gradients alone cross the slow network.
        ((XLSR_SLICES == 1)) || mesh=$XLSR_SLICES,${mesh#*,}
        mesh=${XLSR_MESH:-$mesh}
        [[ $mesh =~ ^-?[0-9]+,-?[0-9]+,-?[0-9]+$ ]] \
            || die 2 "XLSR_MESH=$mesh: three numbers are needed, replica,fsdp,tensor"
        return 0
    done < "$LAUNCH/topologies.tsv"
    die 2 "XLSR_ACCELERATOR=$XLSR_ACCELERATOR is no row of launch/topologies.tsv; \
launch/tpu.sh topologies lists them"
}

# Splits setting $1 into words, as a shell would without expanding anything, into array $2.
read_words() {
    local words
    words=$(printf '%s' "${!1}" | xargs -r printf '%s\n' 2> /dev/null) \
        || die 2 "$1: a quote is left open"
    mapfile -t "$2" < <(printf '%s' "${words:+$words$'\n'}")
}
