#!/usr/bin/env bash
# Builds the stock etcd 3.7.3 programs that tests and benchmarks use, and prints their folder.
#
# They lie in the user's cache folder under a name made from go.sum, so they are built once per
# version; tests/go/bin points there. Programs: etcd, etcdctl, etcdutl, benchmark.
set -euo pipefail

cd "$(dirname "$0")/.."
source scripts/env.sh
key=$(cat tests/go/go.sum scripts/go-tools.sh | sha256sum | cut -c1-16)
folder="$TRILITH_CACHE/go-tools-$key"

if [ ! -f "$folder/complete" ]; then
  mkdir -p "$folder"
  exec 9>"$folder/lock"
  flock 9
  if [ ! -f "$folder/complete" ]; then
    echo "go-tools.sh: building etcd, etcdctl, etcdutl and benchmark (a minute or two)" >&2
    cd tests/go
    build() { CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags='-s -w' -o "$folder/$1" "$2" >&2; }
    build etcd go.etcd.io/etcd/server/v3
    build etcdctl go.etcd.io/etcd/etcdctl/v3
    build etcdutl go.etcd.io/etcd/etcdutl/v3
    build benchmark go.etcd.io/etcd/v3/tools/benchmark
    cd ../..
    touch "$folder/complete"
  fi
fi
ln -sfn "$folder" tests/go/bin
printf '%s\n' "$folder"
