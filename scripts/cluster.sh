#!/usr/bin/env bash
# Starts three members on this machine, to try a cluster: scripts/cluster.sh PROGRAM [FLAG...]
#
# Client URLs are http://localhost:2379, :22379 and :32379; data lies in ./cluster.etcd. Ctrl-C stops
# all three. PROGRAM may be etcd too: the flags are the same.
set -euo pipefail

program=$1
shift
data=${CLUSTER_DATA:-cluster.etcd}
names=(infra1 infra2 infra3)
clients=(2379 22379 32379)
peers=(2380 22380 32380)

members=()
for i in 0 1 2; do members+=("${names[i]}=http://127.0.0.1:${peers[i]}"); done
initial=$(IFS=,; echo "${members[*]}")
mkdir -p "$data"

pids=()
stop() { # only what was started here
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
}
trap stop EXIT INT TERM

for i in 0 1 2; do
  "$program" --name "${names[i]}" --data-dir "$data/${names[i]}" \
    --listen-client-urls "http://127.0.0.1:${clients[i]}" \
    --advertise-client-urls "http://127.0.0.1:${clients[i]}" \
    --listen-peer-urls "http://127.0.0.1:${peers[i]}" \
    --initial-advertise-peer-urls "http://127.0.0.1:${peers[i]}" \
    --initial-cluster "$initial" --initial-cluster-token etcd-cluster --initial-cluster-state new \
    "$@" 2>"$data/${names[i]}.log" &
  pids+=($!)
  echo "${names[i]}: http://127.0.0.1:${clients[i]}, process ${pids[i]}, log $data/${names[i]}.log"
done
echo "etcdctl --endpoints=127.0.0.1:${clients[0]},127.0.0.1:${clients[1]},127.0.0.1:${clients[2]} endpoint status -w table"
echo "Ctrl-C stops all three"
# One that ends does not end the others: kill one, and see how the rest goes on.
wait "${pids[@]}" || true
