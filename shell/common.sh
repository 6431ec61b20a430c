# Sourced by the other scripts: finds or makes the Python environment, and starts the driver.
#
#   MARS_ENV   an existing virtual environment to use instead of .venv
#   PYTHON     the Python (>= 3.10) that makes .venv; default: python3, else the newest on the PATH
#   RESTARTS   how often all processes are started again when one dies; default: 0
#   GPUS       processes to start; default: every visible GPU, or one process without any
#
# Relative paths in arguments and variables of a script are seen from where it is called; those in configurations
# and flags (--set, --config, ...) from the repository.

# Threads that wait spin for a moment and then sleep: at once asleep, they make small models half as fast; spinning
# long, they slow each other down many times on a busy machine.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-2000}"

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
base_python="${PYTHON:-}"
PYTHON=""

# A path as seen from where the script was called.
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

fail() { echo "error: $*" >&2; exit 2; }

find_base_python() {
    local candidate
    for candidate in $base_python python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            echo "$candidate"; return
        fi
    done
    return 1
}

# Makes .venv on first use and installs requirements.txt; later calls install nothing.
ensure_environment() {
    local folder stamp wanted
    folder="$(absolute "${MARS_ENV:-$repository/.venv}")"
    PYTHON="$folder/bin/python"
    stamp="$folder/.requirements-installed"
    wanted="$(cksum < "$repository/requirements.txt")"
    if [ -n "${MARS_ENV:-}" ]; then
        [ -x "$PYTHON" ] || fail "MARS_ENV=$MARS_ENV is not a virtual environment (no bin/python in it)"
        return
    fi
    if [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
    local base; base="$(find_base_python)" || fail "Python 3.10 or newer is needed; set PYTHON to one"
    echo "installing requirements into $folder (once, several gigabytes) ..."
    "$base" -m venv "$folder" || fail "cannot make a virtual environment in $folder (Debian: apt install python3-venv)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$repository/requirements.txt" \
        || fail "installing requirements.txt failed; see the messages above"
    echo "$wanted" > "$stamp"
}

# Number of processes: GPUS, else the visible GPUs, else 1.
count_processes() {
    if [ -n "${GPUS:-}" ]; then
        [[ "$GPUS" =~ ^[1-9][0-9]*$ ]] || fail "GPUS=$GPUS: give the number of processes to start, 1 or more"
        echo "$GPUS"
        return
    fi
    local found; found="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" || found=0
    echo $(( found > 1 ? found : 1 ))
}

# Runs Retrieval.py with the given arguments, on several processes when there is more than one GPU.
run_retrieval() {
    cd "$repository" || exit 2
    local processes; processes="$(count_processes)"
    local restarts="${RESTARTS:-0}"
    [[ "$restarts" =~ ^[0-9]+$ ]] || fail "RESTARTS=$restarts: give how often a run that failed is started again, 0 or more"
    if [ "$processes" -gt 1 ] || [ "$restarts" -gt 0 ]; then
        exec "$PYTHON" -m utils.processes.launch "$processes" Retrieval.py "$@"
    fi
    exec "$PYTHON" Retrieval.py "$@"
}

# train NAME CONFIG [CHECKPOINT] [flags...]   environment: CHECKPOINT, VISION_CHECKPOINT, OUTPUT, CONFIG
train() {
    local name="$1" config="$2"; shift 2
    local checkpoint="${CHECKPOINT:-}"
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then checkpoint="$1"; shift; fi
    ensure_environment
    if [ -n "$checkpoint" ]; then set -- --checkpoint "$(absolute "$checkpoint")" "$@"; fi
    if [ -n "${VISION_CHECKPOINT:-}" ]; then set -- --vision_checkpoint "$(absolute "$VISION_CHECKPOINT")" "$@"; fi
    run_retrieval --config "$(absolute "${CONFIG:-$repository/$config}")" \
        --output_dir "$(absolute "${OUTPUT:-$repository/output/$name}")" "$@"
}

# evaluate NAME CONFIG [CHECKPOINT] [flags...]   environment: CHECKPOINT, OUTPUT, CONFIG
evaluate() {
    local name="$1" config="$repository/$2"; shift 2
    local run checkpoint results beside
    run="$(absolute "${OUTPUT:-$repository/output/$name}")"
    checkpoint="${CHECKPOINT:-$run/checkpoint_best.pth}"
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then checkpoint="$1"; shift; fi
    checkpoint="$(absolute "$checkpoint")"
    # a run keeps its own results; the settings it was trained with are those to evaluate it with
    results="$run"
    if [ -z "${OUTPUT:-}" ] || [ -e "$run/log.txt" ]; then results="$run/evaluation"; fi
    beside="$(dirname "$checkpoint")/config.yaml"
    if [ -f "$beside" ]; then config="$beside"; fi
    ensure_environment
    run_retrieval --config "$(absolute "${CONFIG:-$config}")" --output_dir "$results" \
        --checkpoint "$checkpoint" --evaluate --eval_mAP "$@"
}
