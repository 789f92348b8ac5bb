#!/usr/bin/env bash
# Fails and names the files when Go code is not formatted.
set -euo pipefail
cd "$(dirname "$0")/../tests/go"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "run make fmt; not formatted: $unformatted" >&2; exit 1; }
