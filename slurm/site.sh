# shellcheck shell=bash
# Reads a site's YAML, a flat one, for the batch script: sets the array `python`, and runs what stands under `setup`.
_value() { sed -n "s/^$1: *\"\{0,1\}\([^\"#]*[^\"# ]\)\"\{0,1\} *\(#.*\)\{0,1\}$/\1/p" "$2"; }
_partition=$(_value partition "$1")
if [ -n "$_partition" ] && [[ ",$_partition," != *",$SLURM_JOB_PARTITION,"* ]]; then
    echo "note: $1 says partition $_partition, which sbatch doesn't read; this job is in $SLURM_JOB_PARTITION: sbatch --partition $_partition …" >&2
fi
if grep -q '^setup: *[^| "#]' "$1"; then fail "$1: setup must begin with 'setup: |', and its lines be indented by two"; fi
set +eu +o pipefail # modules and conda know none of these
eval "$(sed -n '/^setup: *|/,/^[^ #]/s/^  //p' "$1")"
set -eu -o pipefail
_container=$(_value container "$1")
python=("${PYTHON:-$(_value python "$1")}")
if [ -n "$_container" ]; then
    [ -e "$_container" ] || fail "$_container: the container of $1 isn't there"
    # shellcheck disable=SC2207  # options are words
    python=(apptainer exec --nv $(_value container_options "$1") "$_container" "${python[0]:-python3}")
else
    [ -n "${python[0]}" ] || python=("$repository/.venv/bin/python")
    command -v "${python[0]}" >/dev/null || fail "${python[0]}: not found; run 'make setup', or say python in $1"
fi
