#!/usr/bin/env bash
# Checks and measures the CUDA engine on a machine with one NVIDIA GPU, from binaries that were built elsewhere, in at
# most 8 minutes on an H100. Prints one table at the end, and exits 1 if anything is off.
#
#     tests/device/run.sh [OPTION ...] BINARIES [OUT]
#
# BINARIES is a folder with dpo-lora, the test binaries `device` and `trl_parity` (cargo test --release --no-run), and
# `products` (cargo bench --no-run); OUT a folder for the results (default: device-results). A step that lacks something
# is left out with a line that says what. The tests look for their fixtures under the path where they were compiled.
#
#     --only STEP,...       these steps only, of: devices tests equality ranks timings generation plan profile
#                           racecheck memcheck products
#     --cases CASE,...      these timings only, such as 0.5b-short-4 or 8b-long-8-gc (cases.py has them)
#     --peer CASE,...       run TRL beside these cases only (default: all that have a peer, if it can be imported)
#     --no-peer             do not run TRL
#     --peer-steps N        TRL's steps a case, of which the first 3 do not count (default: 10)
#     --data FOLDER         pairs_short.jsonl and pairs_long.jsonl (default: pairs that mean nothing, made here)
#     --tokenizer FOLDER    tokenizer of the models (default: that of examples/tiny-reviews)
#     --models FOLDER       where models are, or are made and kept (default: a temporary folder, in memory if they fit)
#     --gguf FILE           a Q4_K_M file of an 8B model, to be timed too
#     --python PYTHON       has torch, for the models, and trl and peft, for the peer (default: python3)
#     --seconds N           time for everything; what does not fit is left out (default: 480)
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
all=devices,tests,equality,ranks,timings,generation,plan,profile,racecheck,memcheck,products
measured="equality ranks timings generation plan profile"
export PYTHONUNBUFFERED=1

usage() { sed -n '2,/^set -u/{/^#/s/^# \{0,1\}//p}' "$here/run.sh"; }
refuse() { printf 'run.sh: %s\n' "$*" >&2; exit 2; }

only=$all cases=all peer=all peer_steps=10 data='' tokenizer='' models='' gguf='' python=python3 seconds=480 places=()
while [ $# -gt 0 ]; do
    case $1 in
        --no-peer) peer=none ;;
        --help | -h) usage; exit 0 ;;
        --only | --cases | --peer | --peer-steps | --data | --tokenizer | --models | --gguf | --python | --seconds)
            [ $# -gt 1 ] || refuse "$1 needs a value"
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift
            ;;
        -*) refuse "unknown option $1; see --help" ;;
        *) places+=("$1") ;;
    esac
    shift
done
if [ ${#places[@]} -lt 1 ] || [ ${#places[@]} -gt 2 ]; then
    usage >&2
    exit 2
fi
for step in ${only//,/ }; do
    [[ ,$all, == *",$step,"* ]] || refuse "unknown step $step; there are: ${all//,/ }"
done
for case in ${cases//,/ } ${peer//,/ }; do
    [[ $case == all || $case == none ]] || grep -q "(\"$case\"," "$here/cases.py" ||
        refuse "unknown case $case; see cases.py"
done
for number in "$peer_steps" "$seconds"; do
    [[ $number =~ ^[0-9]+$ ]] || refuse "$number is no whole number"
done
for folder in "$data" "$tokenizer" "$gguf"; do
    [ -z "$folder" ] || [ -e "$folder" ] || refuse "$folder does not exist"
done
binaries=$(cd "${places[0]}" 2>/dev/null && pwd) || refuse "${places[0]} is no folder"
out=${places[1]:-device-results}
mkdir -p "$out" || refuse "cannot write to $out"
out=$(cd "$out" && pwd)

work='' reader=''
cleanup() { [ -z "$work" ] || rm -rf "$work"; }
trap cleanup EXIT
trap 'exit 130' INT TERM
: >"$out/table.tsv"
: >"$out/numbers.jsonl"

# row CASE VERDICT OURS WANTED: a line of the table. The verdict is ok, OFF, unfinished or left out.
row() {
    printf '%s\t%s\t%s\t\t\t%s\n' "$1" "$2" "$3" "${4-}" >>"$out/table.tsv"
    printf '%s: %s; %s\n' "$1" "$2" "$3"
}

has() { [ -x "$binaries/$1" ] || { row "$2" "left out" "there is no $1 in $binaries"; return 1; }; }
asked() { [[ ,$only, == *",$1,"* ]]; }
left() { echo $((seconds - SECONDS)); }

# step NAME SECONDS COMMAND ...: runs a step if it is asked for and there is time; $limit is what it may take.
step() {
    local name=$1
    asked "$name" || return 0
    limit=$(left)
    if [ "$limit" -lt 5 ]; then
        row "$name" "left out" "no time is left"
        return 0
    fi
    [ "$limit" -le "$2" ] || limit=$2
    printf '\n== %s (at %s s)\n' "$name" "$SECONDS"
    shift 2
    "$@" || true
}

limited() { timeout -k 5 "$limit" "$@"; }

devices() {
    has dpo-lora devices || return
    limited "$binaries/dpo-lora" devices >"$out/devices.txt" 2>&1
    local code=$?
    cat "$out/devices.txt"
    local card
    card=$(sed -n 's/^cuda:0 *//p' "$out/devices.txt")
    if [ $code -eq 0 ] && [ -n "$card" ] && ! grep -q '^missing\|cannot be used' "$out/devices.txt"; then
        row devices ok "$card" "a usable GPU"
    else
        row devices OFF "${card:-no GPU}; exit code $code" "a usable GPU"
    fi
}

# Where a test binary was compiled, if its fixtures' path can be read from it.
compiled_in() {
    LC_ALL=C grep -aoE '/[[:alnum:]._/+-]*tests/fixtures' "$1" | sed 's|/*tests/fixtures$||' | sort -u | head -1
}

# test_binary NAME [FILTER]: all tests of a binary on the GPU.
test_binary() {
    local name=$1 place passed hint=''
    has "$name" "tests: $name" || return
    place=$(compiled_in "$binaries/$name")
    if [ -n "$place" ] && [ ! -d "$place/tests/fixtures" ]; then
        hint="; it was compiled in $place, which is not there: ln -s $root $place"
        printf '%s%s\n' "$name" "$hint"
    fi
    DPO_LORA_TEST_DEVICE=cuda limited "$binaries/$name" "${@:2}" --test-threads=1 >"$out/$name.txt" 2>&1
    local code=$?
    local result='^test result:.* \([0-9]* passed; [0-9]* failed\);.*finished in \(.*\)$'
    passed=$(sed -n "s/$result/\1 in \2/p" "$out/$name.txt")
    grep -E '^test |^[[:alnum:]_.-]+: |panicked|left:|right:' "$out/$name.txt" | cut -c1-250 | head -60
    if [ $code -eq 0 ] && [[ ${passed:-0} != 0* ]]; then
        row "tests: $name" ok "$passed" "all pass"
    else
        row "tests: $name" OFF "${passed:-no end in $limit s or no test}; exit code $code$hint" "all pass"
    fi
}

tests() {
    test_binary device
    test_binary trl_parity device
}

sanitizer() {
    local path cuda=${CUDA_HOME:-/usr/local/cuda}
    for path in compute-sanitizer "$cuda/bin/compute-sanitizer" /usr/local/cuda*/bin/compute-sanitizer; do
        command -v "$path" && return
    done
    return 1
}

# sanitize TOOL TEST ...: tests under compute-sanitizer, which is slow: an end of time without an error is no error.
sanitize() {
    local tool=$1 path code said errors='^=+ (Error|Warning|Invalid|Race|Program hit)'
    has device "$tool" || return
    path=$(sanitizer) || { row "$tool" "left out" "there is no compute-sanitizer"; return; }
    DPO_LORA_TEST_DEVICE=cuda limited "$path" --tool "$tool" --error-exitcode 86 --print-limit 20 \
        "$binaries/device" "${@:2}" --test-threads=1 >"$out/$tool.txt" 2>&1
    code=$?
    said=$(grep -E '^=+ .*SUMMARY' "$out/$tool.txt" | tail -1 | sed 's/^=* //')
    grep -E '^=====|^test ' "$out/$tool.txt" | head -20
    if [ $code -eq 0 ] && grep -q '^test result: ok. [1-9]' "$out/$tool.txt"; then
        row "$tool" ok "${said:-no error}" "no error"
    elif { [ $code -eq 124 ] || [ $code -eq 137 ]; } && ! grep -qE "$errors" "$out/$tool.txt"; then
        row "$tool" unfinished "no error in $limit s" "no error"
    else
        row "$tool" OFF "${said:-no summary}; exit code $code, see $tool.txt" "no error"
    fi
}

products() {
    has products products || return
    limited "$binaries/products" >"$out/products.txt" 2>&1
    local code=$?
    head -3 "$out/products.txt"
    case $code in
        0) row products ok "$(wc -l <"$out/products.txt") lines in products.txt" ;;
        124 | 137) row products unfinished "$(wc -l <"$out/products.txt") lines in products.txt, in $limit s" ;;
        *) row products OFF "exit code $code: $(tail -1 "$out/products.txt" | cut -c1-150)" ;;
    esac
}

# A folder for so many GB, in memory if there is room.
temporary() {
    local shared free
    shared=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
    free=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
    if [ $((${shared:-0} >> 20)) -ge "$1" ] && [ $((${free:-0} >> 20)) -ge $(($1 + 16)) ]; then
        mktemp -d /dev/shm/dpo-lora.XXXXXX
    else
        mktemp -d
    fi
}

# What needs models: measure.py, in one go, so that they are made once.
measure() {
    local steps='' name folder=$models code
    for name in $measured; do
        asked "$name" && steps+=${steps:+,}$name
    done
    [ -n "$steps" ] || return 0
    printf '\n== %s (at %s s)\n' "${steps//,/ }" "$SECONDS"
    has dpo-lora "${steps//,/ }" || return
    [ "$(left)" -ge 5 ] || { row "${steps//,/ }" "left out" "no time is left"; return; }
    command -v python3 >/dev/null || { row "${steps//,/ }" "left out" "there is no python3"; return; }
    local need=6
    if [[ $steps == *timings* ]] && [[ $cases == all || $cases == *8b-* ]]; then need=24; fi
    work=$(temporary $need) || { row "${steps//,/ }" OFF "no temporary folder"; return; }
    [ -n "$folder" ] || folder=$work/models
    mkdir -p "$folder" "$work/cache"
    XDG_CACHE_HOME=$work/cache timeout -k 10 $(($(left) + 10)) python3 -B "$here/measure.py" \
        --binary "$binaries/dpo-lora" --out "$out" --work "$work" --models "$folder" --data "$data" \
        --tokenizer "$tokenizer" --gguf "$gguf" --python "$python" --steps "$steps" --cases "$cases" \
        --peer "$peer" --peer-steps "$peer_steps" --seconds "$(left)"
    code=$?
    [ $code -eq 0 ] || row "measure.py" OFF "exit code $code"
    cleanup
    work=''
}

# The table, its columns as wide as they must be.
table() {
    { printf 'case\tverdict\tours\tpeer\tratio\twanted\n'; cat "$out/table.tsv"; } | awk -F '\t' '
        BEGIN { split("1 3 4 5 6 2", column, " ") }
        {
            for (i = 1; i <= 6; i++) {
                text = cell[NR, i] = $column[i]
                if (length(text) > width[i]) width[i] = length(text)
            }
        }
        END {
            for (line = 1; line <= NR; line++) {
                text = ""
                for (i = 1; i <= 6; i++) if (width[i]) text = text sprintf("%-" width[i] "s  ", cell[line, i])
                sub(/ +$/, "", text); print text
            }
        }'
}

if command -v nvidia-smi >/dev/null; then
    timeout 20 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/gpu.txt"
else
    echo "there is no nvidia-smi: memory is not measured"
fi
if [ "$peer" != none ] && asked timings; then
    # Reads the peer's files into memory before anything is timed.
    timeout 120 "$python" -W ignore -c 'import trl, peft, datasets' >/dev/null 2>&1 &
    reader=$!
fi
step devices 30 devices
step tests 150 tests
measure
step racecheck 100 sanitize racecheck dropout
step memcheck 100 sanitize memcheck dropout tokens recomputed
step products 60 products
[ -z "$reader" ] || kill "$reader" 2>/dev/null

printf '\n'
table | tee "$out/table.txt"
printf '\n%s s; results: %s\n' "$SECONDS" "$out"
if cut -f2 "$out/table.tsv" | grep -q '^OFF$'; then
    exit 1
fi
cut -f2 "$out/table.tsv" | grep -q '^ok$' || { echo "nothing was checked"; exit 1; }
