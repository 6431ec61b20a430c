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

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"  # cd prints its folder where CDPATH is set
base_python="${PYTHON:-}"
PYTHON=""

# A path as seen from where the script was called.
absolute() { case "$1" in /*) echo "$1" ;; "~" | "~/"*) echo "$HOME${1#"~"}" ;; *) echo "$PWD/$1" ;; esac; }

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

# Groups of packages: training, evaluation and the demo; what CLIP, IRRA and RDE need beside these; search with all of
# these models; tests and checks.
# groups_of GROUP: the group after those that it includes.
groups_of() {
    case "$1" in
        base) echo base ;;
        clip) echo base clip ;;
        search) echo base clip search ;;  # a gallery may be of any model
        dev) echo base clip search dev ;;
    esac
}
requirements() { if [ "$1" = base ]; then echo requirements.txt; else echo "requirements/$1.txt"; fi; }
size_of() {
    case "$1" in
        base) echo "PyTorch and what training needs, several gigabytes" ;;
        clip) echo "what training and the CLIP systems need, several gigabytes where PyTorch is not there yet" ;;
        search) echo "what training and search need, several gigabytes where PyTorch is not there yet" ;;
        dev) echo "all packages and those of tests, several gigabytes where PyTorch is not there yet" ;;
    esac
}
needed_modules() {
    case "$1" in
        base) echo torch timm transformers pydantic ;;
        clip) echo open_clip ftfy sklearn ;;
        search) echo pymilvus gradio onnx ;;
        dev) echo pytest ruff mypy ;;
    esac
}

# ensure_environment [GROUP]: makes .venv on first use and installs the group (base); later calls install nothing.
# An environment named by MARS_ENV is used as it is.
ensure_environment() {
    local group="${1:-base}" folder each stamp
    folder="$(absolute "${MARS_ENV:-$repository/.venv}")"
    PYTHON="$folder/bin/python"
    if [ -n "${MARS_ENV:-}" ]; then
        require_environment "$folder"
        require_modules "$group"
        return
    fi
    stamp="$(stamp_of "$group")" || exit 2
    if [ -x "$PYTHON" ] && [ "$(cat "$folder/.installed-$group" 2>/dev/null)" = "$stamp" ]; then return; fi
    install_group "$group" "$folder"
    for each in $(groups_of "$group"); do stamp_of "$each" > "$folder/.installed-$each"; done
}

# stamp_of GROUP: another one when a list of packages changes that the group includes.
stamp_of() {
    local each text=""
    for each in $(groups_of "$1"); do
        text+="$(cat "$repository/$(requirements "$each")")" || fail "$(requirements "$each") is absent"
    done
    cksum <<< "$text"
}

# require_environment FOLDER: ends with one line when the folder that MARS_ENV names is no virtual environment to run.
require_environment() {
    local each="$1" problem=""
    while [ ! -e "$each" ] && [ ! -L "$each" ] && [ "$each" != / ]; do each="$(dirname "$each")"; done
    if [ "$each" != "$1" ] && [ -d "$each" ] && [ -x "$each" ]; then problem="does not exist"
    elif [ ! -d "$each" ]; then problem="cannot be: $each is not a folder"
    elif [ ! -x "$each" ]; then problem="cannot be opened: no permission for $each"
    elif [ -x "$PYTHON" ] && [ ! -d "$PYTHON" ]; then return
    elif [ -e "$1/bin" ] && [ ! -x "$1/bin" ]; then problem="cannot be opened: no permission for $1/bin"
    elif [ -f "$PYTHON" ]; then problem="cannot be used: no permission to run $PYTHON"
    elif [ -L "$PYTHON" ]; then problem="is broken: $PYTHON leads to $(readlink "$PYTHON"), which is gone or out of reach"
    else problem="is not a virtual environment (no bin/python in it)"
    fi
    fail "MARS_ENV=$MARS_ENV $problem"
}

# install_group GROUP FOLDER: makes the virtual environment where there is none, and installs what the group pins.
install_group() {
    local file base; file="$(requirements "$1")"
    base="$(find_base_python)" || fail "Python 3.10 or newer is needed; set PYTHON to one"
    echo "installing $file into $2, once: $(size_of "$1"); this takes minutes. Packages are listed as they come ..." >&2
    "$base" -m venv "$2" || fail "cannot make a virtual environment in $2 (Debian: apt install python3-venv)"
    "$PYTHON" -m pip install --progress-bar off --disable-pip-version-check -r "$repository/$file" >&2 \
        || fail "installing $file failed; see the messages above"
    echo "installed $file into $2" >&2
}

# require_modules GROUP: ends with one line when the environment lacks what the group's scripts import.
require_modules() {
    local each names=() missing
    for each in $(groups_of "$1"); do
        # shellcheck disable=SC2207  (several names)
        names+=($(needed_modules "$each"))
    done
    missing="$("$PYTHON" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None), sep=", ")' "${names[@]}")" || fail "$PYTHON fails"
    [ -z "$missing" ] || fail "MARS_ENV=$MARS_ENV lacks $missing; install $repository/$(requirements "$1") into it"
}

# Number of processes: GPUS, else the visible GPUs, else 1.
count_processes() {
    if [ -n "${GPUS:-}" ]; then
        [[ "$GPUS" =~ ^[1-9][0-9]*$ ]] || fail "GPUS=$GPUS: give the number of processes to start, 1 or more"
        echo "$GPUS"
        return
    fi
    # torch takes seconds to count GPUs where there is no device of NVIDIA, AMD or WSL
    if ! compgen -G "/dev/nvidia[0-9]*" >/dev/null && [ ! -e /dev/kfd ] && [ ! -e /dev/dxg ]; then echo 1; return; fi
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

# recipe_file: what RECIPE names: a file, or one of configs/recipes by its name; nothing without it.
recipe_file() {
    [ -n "${RECIPE:-}" ] || return 0
    if [ -f "$(absolute "$RECIPE")" ]; then absolute "$RECIPE"; return; fi
    local file="$repository/configs/recipes/$RECIPE.yaml"
    if [ -f "$file" ]; then echo "$file"; return; fi
    local names; names="$(cd "$repository/configs/recipes" >/dev/null && echo *.yaml)"
    fail "RECIPE=$RECIPE is neither a file nor one of ${names//.yaml/}"
}

# checkpoint_path NAME: a file or folder, or one of checkpoints/ by its name where there is no such file.
checkpoint_path() {
    local file ours="$repository/checkpoints/$1.safetensors"; file="$(absolute "$1")"
    if [ "${1#*/}" = "$1" ] && [ ! -e "$file" ] && [ -f "$ours" ]; then file="$ours"; fi
    echo "$file"
}

# run_name NAME: the default folder of a run: NAME, and its recipe where there is one.
run_name() {
    local recipe; recipe="$(basename "${RECIPE:-}" .yaml)"
    echo "$1${recipe:+-$recipe}"
}

# group_of CONFIG ...: the packages that configurations need: those of CLIP where one is of a system of its family.
group_of() {
    if grep -qsE '^system: *(clip|irra|rde)|recipes/(clip|irra|rde)\.yaml' "$@"; then echo clip; else echo base; fi
}

# train NAME CONFIG [CHECKPOINT] [flags...]   environment: CHECKPOINT, VISION_CHECKPOINT, OUTPUT, CONFIG, RECIPE
# A run that is resumed keeps its settings, which are in its folder, unless CONFIG names others.
train() {
    local name config recipe output settings=(); name="$(run_name "$1")"; config="$2"; shift 2
    local checkpoint="${CHECKPOINT:-}"
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then checkpoint="$1"; shift; fi
    recipe="$(recipe_file)" || exit 2
    output="$(absolute "${OUTPUT:-$repository/output/$name}")"
    ensure_environment "$(group_of "$(absolute "${CONFIG:-$repository/$config}")" "$recipe" "$output/config.yaml")"
    if [ -n "$checkpoint" ]; then set -- --checkpoint "$(checkpoint_path "$checkpoint")" "$@"; fi
    if [ -n "${VISION_CHECKPOINT:-}" ]; then set -- --vision_checkpoint "$(absolute "$VISION_CHECKPOINT")" "$@"; fi
    if [[ " $* " != *" --resume "* ]] || [ -n "${CONFIG:-}" ] || [ ! -f "$output/config.yaml" ]; then
        settings=(--config "$(absolute "${CONFIG:-$repository/$config}")" ${recipe:+"$recipe"})
    fi
    run_retrieval "${settings[@]}" --output_dir "$output" "$@"
}

# evaluate NAME CONFIG [CHECKPOINT] [flags...]   environment: CHECKPOINT, OUTPUT, CONFIG, RECIPE
evaluate() {
    local name config run checkpoint results beside recipe
    name="$(run_name "$1")"; config="$repository/$2"; shift 2
    run="$(absolute "${OUTPUT:-$repository/output/$name}")"
    checkpoint="${CHECKPOINT:-$run/checkpoint_best.pth}"
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then checkpoint="$1"; shift; fi
    checkpoint="$(checkpoint_path "$checkpoint")"
    recipe="$(recipe_file)" || exit 2
    # a run keeps its own results; the settings it was trained with are those to evaluate it with, recipe included
    results="$run"
    if [ -z "${OUTPUT:-}" ] || [ -e "$run/log.txt" ]; then results="$run/evaluation"; fi
    beside="$(dirname "$checkpoint")/config.yaml"
    if [ -z "${CONFIG:-}" ] && [ -f "$beside" ]; then config="$beside"; recipe=""; fi
    ensure_environment "$(group_of "$(absolute "${CONFIG:-$config}")")"
    run_retrieval --config "$(absolute "${CONFIG:-$config}")" ${recipe:+"$recipe"} --output_dir "$results" \
        --checkpoint "$checkpoint" --evaluate --eval_mAP "$@"
}

# ---- small models on drawn people ------------------------------------------------------

# require_settings [KEY.PATH=VALUE ...]: the arguments of a script that takes settings alone; -h prints its first comment.
require_settings() {
    local argument
    for argument in "$@"; do
        case "$argument" in
            -h | --help) sed -n '2,/^[^#]/s/^# //p' "$0"; exit 0 ;;
            *=*) ;;
            *) fail "$argument is not a setting; write KEY.PATH=VALUE, such as optimizer.lr=1e-4; see bash $0 --help" ;;
        esac
    done
}

# check_settings CONFIG [KEY.PATH=VALUE ...]: tells what is wrong in them now, not after minutes of drawing people.
check_settings() {
    "$PYTHON" -c 'import sys
from configs.loading import load_config
from utils.errors import run_command_line
run_command_line(lambda: load_config(sys.argv[1], sys.argv[2:]) and 0)' "$@"
}

# draw FOLDER [options of dataset.synthetic ...]: the synthetic benchmark, checked and tokenised once.
draw() {
    local folder="$1"; shift
    "$PYTHON" -m dataset.synthetic "$folder" "$@"
    [ -f "$folder/processed_data/test.json" ] || "$PYTHON" -m dataset.prepare CUHK-PEDES "$folder"
}

# use_data FOLDER: sets `settings`, those of a run on what `draw` made, and `test_settings`, those of its test split,
# which a first stage does not look at.
use_data() {
    settings=(
        "train_file=[$1/processed_data/train.json]" "train_image_root=$1/imgs"
        "val_file=$1/processed_data/val.json" "val_image_root=$1/imgs"
        "image_cache=$1/image_cache"  # decoded once for the epochs of both stages
    )
    test_settings=("test_file=$1/processed_data/test.json" "test_image_root=$1/imgs")
    # bfloat16 is faster where the processor has it, and much slower where it has not
    if ! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then settings+=("precision=fp32"); fi
}

# run_once FOLDER CONFIG CHECKPOINT [flags...]: starts or resumes a training, unless it is finished; CHECKPOINT: what
# it starts from, or nothing.
run_once() {
    local folder="$1" config="$2" checkpoint="$3"; shift 3
    if [ -f "$folder/metrics.json" ]; then
        echo "finished before, with the settings of $folder/config.yaml; to train anew, name another OUTPUT"
        return
    fi
    if [ -f "$folder/checkpoint_last.pth" ]; then set -- --resume "$@"
    elif [ -n "$checkpoint" ]; then set -- --checkpoint "$checkpoint" "$@"; fi
    "$PYTHON" Retrieval.py --config "$config" --output_dir "$folder" "$@"
}

# study_once NAME FOLDER: a study of a finished run, unless it is there.
study_once() {
    [ -f "$2/studies/$1.json" ] || "$PYTHON" -m evaluation "$1" --checkpoint "$2/checkpoint_best.pth" >/dev/null
}

# evaluate_once FOLDER CONFIG CHECKPOINT [flags...]: evaluates a checkpoint, unless that is done.
evaluate_once() {
    local folder="$1" config="$2" checkpoint="$3"; shift 3
    [ ! -f "$folder/metrics.json" ] || return 0
    "$PYTHON" Retrieval.py --config "$config" --output_dir "$folder" --checkpoint "$checkpoint" --evaluate "$@"
}
