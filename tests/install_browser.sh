#!/bin/bash
# What the tests of pages in a real browser need beside .venv, on Debian and Ubuntu, as root: 0.5 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v chromium > /dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium
fi
make setup
.venv/bin/python -m pip install --quiet axe-playwright-python==0.1.8 playwright==1.65.2
