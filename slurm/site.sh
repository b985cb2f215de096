# shellcheck shell=bash
# Reads a site's YAML, a flat one, for the batch script: sets the array `python`, and runs what stands under `setup`.
_known=" nodes gpus_per_node tasks_per_node cpus_per_task tasks time warning_seconds memory partition account qos constraint python container container_options setup options "
while read -r _key; do
    [[ $_known = *" $_key "* ]] || fail "$1: unknown $_key; there are:$_known"
done < <(sed -n 's/^\([^ #:]*\):.*/\1/p' "$1")
if grep -q $'^ *\t' "$1" || grep -q "^setup: *[^| \"'#]" "$1" || sed -n '/^setup: *\(#.*\)\{0,1\}$/{n;p;}' "$1" | grep -q '^ *[^ #]'; then
    fail "$1: setup must begin with 'setup: |', and its lines be indented by spaces"
fi
_value() { # without quotes, and what comes after '#'
    sed -n "s/^$1: *//p" "$2" | sed "s/^\"\([^\"]*\)\".*/\1/; t; s/^'\([^']*\)'.*/\1/; t; s/ *#.*//; s/ *\$//"
}
_partition=$(_value partition "$1")
if [ -n "$_partition" ] && [[ ",$_partition," != *",$SLURM_JOB_PARTITION,"* ]]; then
    echo "note: $1 says partition $_partition, which sbatch doesn't read; this job is in $SLURM_JOB_PARTITION: sbatch --partition $_partition …" >&2
fi
_setup=$(sed -n '/^setup: *|/,/^[^ #]/{/^ /p;}' "$1")
_indent=$(sed -n 's/^\( *\)[^ ].*/\1/p;q' <<<"$_setup")
set +eu +o pipefail # modules and conda know none of these
eval "$(printf '%s\n' "$_setup" | sed "s/^$_indent//")"
set -eu -o pipefail
_container=$(_value container "$1")
python=("${PYTHON:-$(_value python "$1")}")
python[0]=${python[0]/#\~/$HOME}
if [ -n "$_container" ]; then
    [ -e "$_container" ] || fail "$_container: the container of $1 isn't there"
    # shellcheck disable=SC2207  # options are words
    python=(apptainer exec --nv $(_value container_options "$1") "$_container" "${python[0]:-python3}")
else
    [ -n "${python[0]}" ] || python=("$repository/.venv/bin/python")
    command -v "${python[0]}" >/dev/null || fail "${python[0]}: not found; run 'make setup', or say python in $1"
fi
