#!/bin/bash
# What the tests on a real SLURM need, on Debian and Ubuntu, as root.
set -euo pipefail
packages=(slurmctld slurmd slurm-client munge iproute2)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
