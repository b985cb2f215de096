# shellcheck shell=bash disable=SC2154 # pretrain.sh sets `repository`
# Reads a site's YAML, a flat one, for the batch script: sets the array `python`, and runs what stands under `setup`. What
# it can't read it refuses.
_known=" nodes gpus_per_node tasks_per_node cpus_per_task tasks time warning_seconds memory partition account qos constraint python container container_options setup options "
_site=$(tr -d '\r' <"$1")
_fault=$(awk '
    block && /^( |$)/ { next }
    { block = 0 }
    /^ *(#.*)?$/ { next }
    /^setup: *\|[-+]? *( #.*)?$/ || /^options: *(#.*)?$/ { block = 1; next }
    /^setup:/ && !/^setup: *(""|'"''"')? *(#.*)?$/ { print "line " NR ": setup must begin with \"setup: |\""; exit }
    /^[a-z_]+:( .*)?$/ { next }
    { print "line " NR ": not \"key: value\" (lines of setup are indented by spaces)"; exit }
' <<<"$_site")
[ -z "$_fault" ] || fail "$1, $_fault"
while read -r _key; do
    [[ $_known = *" $_key "* ]] || fail "$1: unknown $_key; there are:$_known"
done < <(sed -n 's/^\([a-z_]*\):.*/\1/p' <<<"$_site")
_value() { # without quotes, and what comes after '#'
    sed -n "s/^$1: *//p" <<<"$_site" | sed "s/^\"\([^\"]*\)\".*/\1/; t; s/^'\([^']*\)'.*/\1/; t; s/^#.*//; s/  *#.*//; s/ *\$//"
}
_partition=$(_value partition)
if [ -n "$_partition" ] && [[ ",$_partition," != *",$SLURM_JOB_PARTITION,"* ]]; then
    echo "note: $1 says partition $_partition, which sbatch doesn't read; this job is in $SLURM_JOB_PARTITION: sbatch --partition $_partition …" >&2
fi
_setup=$(sed -n '/^setup: *|/,/^[^ #]/{/^\( \|$\)/p;}' <<<"$_site")
_indent=$(sed -n '/[^ ]/{s/^\( *\).*/\1/p;q;}' <<<"$_setup")
set +eu +o pipefail # modules and conda know none of these
eval "$(printf '%s\n' "$_setup" | sed "s/^$_indent//")"
set -eu -o pipefail
_container=$(_value container)
_container=${_container/#\~/~}
python=("${PYTHON:-$(_value python)}")
python[0]=${python[0]/#\~/~}
if [ -n "$_container" ]; then
    [ -e "$_container" ] || fail "$_container: the container of $1 isn't there"
    # shellcheck disable=SC2207  # options are words
    python=(apptainer exec --nv $(_value container_options) "$_container" "${python[0]:-python3}")
else
    [ -n "${python[0]}" ] || python=("$repository/.venv/bin/python")
    command -v "${python[0]}" >/dev/null || fail "${python[0]}: not found; run 'make setup', or say python in $1"
fi
