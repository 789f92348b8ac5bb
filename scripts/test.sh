#!/usr/bin/env bash
# Runs every check of the suite and ends with one line that sums up what the runners reported.
#
# A failing step does not hide the ones after it; the exit code is non-zero if any of them failed.
set -uo pipefail

cd "$(dirname "$0")/.."
source scripts/env.sh
scripts/setup.sh test || exit 1
ROCKSDB_LIB_DIR=$(scripts/rocksdb.sh) || exit 1
TRILITH_TOOLS=$(scripts/go-tools.sh) || exit 1
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1 TRILITH_TOOLS
export TRILITH_BIN="$CARGO_TARGET_DIR/debug/trilith"

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=0
failed=0
skipped=0
broken=()

step() { # step NAME COMMAND...: runs it, keeps its output, counts it as one check
  local name=$1 started=$SECONDS
  shift
  echo "=== $name: $*"
  if "$@" 2>&1 | tee "$logs/$name" ; then
    echo "=== $name: ok, $((SECONDS - started)) s"
    return 0
  fi
  echo "=== $name: FAILED, $((SECONDS - started)) s"
  broken+=("$name")
  return 1
}
check() { if step "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi; }

# Sums the numbers in front of WORD in the "test result:" lines of cargo test.
cargo_sum() { grep '^test result:' "$logs/cargo-test" | grep -o "[0-9]* $1" | awk '{n += $1} END {print n + 0}'; }
# Counts the finished tests of `go test -v`, subtests included, by their verdict.
go_sum() { grep -cE "^ *--- $1: " "$logs/go-test"; }
# A runner that broke without naming a failed test still counts as one failure.
count_broken() { if [ "$1" = 1 ] && [ "$2" = 0 ]; then failed=$((failed + 1)); fi; }

check fmt cargo fmt --all --check
check clippy cargo clippy --locked --workspace --all-targets -- -D warnings
check server-build cargo build --locked -p trilith-server
status=0
step cargo-test cargo test --locked --workspace --no-fail-fast || status=1
passed=$((passed + $(cargo_sum passed)))
skipped=$((skipped + $(cargo_sum ignored)))
failed=$((failed + $(cargo_sum failed)))
count_broken $status "$(cargo_sum failed)"
# A minute or two: every load once, small; its figures mean nothing, but each operation must succeed.
check bench-short cargo run --locked -q -p trilith-bench -- run --short \
  --target "trilith=$TRILITH_BIN" --benchmark "$TRILITH_TOOLS/benchmark"
check go-fmt scripts/go-fmt.sh
check go-vet go -C tests/go vet ./...
status=0
# Most of these tests wait for elections and starts. Three at a time keep two cores busy, and leave
# each enough of them that no election is late.
step go-test go -C tests/go test -v -count=1 -p 1 -parallel 3 -timeout 20m ./... || status=1
passed=$((passed + $(go_sum PASS)))
skipped=$((skipped + $(go_sum SKIP)))
failed=$((failed + $(go_sum FAIL)))
count_broken $status "$(go_sum FAIL)"

echo
if [ ${#broken[@]} -gt 0 ]; then echo "failed steps: ${broken[*]}"; fi
grep -hE '^(test .* FAILED| *--- FAIL: .*)$' "$logs"/* || true
echo "$passed passed, $failed failed, $skipped skipped in $SECONDS s"
[ "$failed" = 0 ] && [ ${#broken[@]} = 0 ]
