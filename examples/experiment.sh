# Shared by the experiments: each run.sh defines `steps`, which calls `step`, and then reads this file.
#
#     sh examples/NAME/run.sh [--quick] [--output DIR] [--threads N]
#
# A step that is done is not done again, so the same command goes on where it was stopped; training and evaluation go on
# within a step, too. --quick takes tiny sizes: seconds, to see that everything works; its figures mean nothing. The program is
# `dpo-lora` of the path, or what the variable DPO_LORA names.

set -eu

program=${DPO_LORA:-dpo-lora}
here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$here")
out=runs/$name
quick=
threads=

while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=yes ;;
        --output) out=${2:?--output needs a directory}; shift ;;
        --threads) threads=${2:?--threads needs a number}; shift ;;
        *) echo "usage: sh $0 [--quick] [--output DIR] [--threads N]" >&2; exit 2 ;;
    esac
    shift
done

# The sizes have directories of their own, since models of one are no models of the other.
[ -z "$quick" ] || [ "$out" != "runs/$name" ] || out=runs/$name-quick
size=${quick:+quick}
if [ -e "$out/size" ] && [ "$(cat "$out/size")" != "${size:-full}" ]; then
    echo "error: $out is of the size $(cat "$out/size"); name another directory with --output" >&2
    exit 2
fi
mkdir -p "$out"
echo "${size:-full}" > "$out/size"
# What the steps depend on besides their words.
settings=$(cat "$here"/*.yaml | cksum)

# pick FULL QUICK: the value for this size.
pick() {
    if [ -n "$quick" ]; then echo "$2"; else echo "$1"; fi
}

# run ARGUMENTS...: the program, with --threads where it was asked for.
run() {
    if [ -n "$threads" ]; then "$program" "$@" --threads "$threads"; else "$program" "$@"; fi
}

# train DIR FILE.yaml [KEY=VALUE...]: trains into DIR, or goes on there.
train() {
    to=$1 from=$2
    shift 2
    for setting in "$@"; do
        set -- "$@" --set "$setting"
        shift
    done
    [ -z "$threads" ] || set -- "$@" --set "train.threads=$threads"
    if [ -n "$quick" ]; then
        set -- "$@" --set train.max_steps=2 --set train.save_steps=1 --set train.warmup_steps=0 --set data.eval=null \
            --set train.per_device_train_batch_size=4
        [ "$from" != ppo.yaml ] || set -- "$@" --set rollout.max_completion_length=8
    fi
    "$program" train -c "$here/$from" --output "$to" --auto-resume "$@"
}

# step SECONDS NAME COMMAND...: runs the command unless it was done with the same words. SECONDS is about how long it takes on
# two cores; the time left is scaled by how long the steps of this run took.
step() {
    seconds=$1 title=$2
    shift 2
    if [ "$mode" = count ]; then
        count=$((count + 1)) total=$((total + seconds))
        return
    fi
    number=$((number + 1))
    mark="$out/done/$(echo "$title" | tr -c 'a-zA-Z0-9.\n' '-')"
    if [ -e "$mark" ] && [ "$(cat "$mark")" = "$settings $*" ]; then
        echo "[$number of $count] $title: done before" >&2
        total=$((total - seconds))
        return
    fi
    left=$total
    if [ "$spent" -gt 0 ]; then left=$(( (total - spent) * ($(date +%s) - began) / spent )); fi
    echo "[$number of $count] $title; about $(( (left + 59) / 60 )) min left" >&2
    "$@"
    spent=$((spent + seconds))
    mkdir -p "$out/done"
    echo "$settings $*" > "$mark.new"
    mv "$mark.new" "$mark"
}

mode=count count=0 total=0 number=0 spent=0 began=$(date +%s)
steps
mode=run
steps
echo "done in $(( ($(date +%s) - began + 30) / 60 )) min; results in $out" >&2
