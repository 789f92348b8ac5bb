#!/usr/bin/env bash
# Measures Trilith against etcd 3.7.3 on this machine; `make bench` builds both and calls this.
# Arguments go to `trilith-bench run`: --only, --rounds, --short, --markdown, --perf (bench/README.md).
#   TRILITH_BENCH  the load generator      TRILITH_BIN    the server
#   TRILITH_TOOLS  folder with etcd and benchmark, etcd's own load generator
set -euo pipefail
: "${TRILITH_BENCH:?}" "${TRILITH_BIN:?}" "${TRILITH_TOOLS:?}"

exec "$TRILITH_BENCH" run \
  --target "etcd=$TRILITH_TOOLS/etcd" --target "trilith=$TRILITH_BIN" \
  --benchmark "$TRILITH_TOOLS/benchmark" "$@"
