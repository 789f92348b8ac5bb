#!/usr/bin/env bash
# Builds RocksDB once into the user's cache folder and prints the folder that holds librocksdb.a.
#
# The sources are the ones that the locked librocksdb-sys crate carries. Compiled file by file, as the
# crate does it, they take a quarter of an hour on two cores; as a CMake unity build under three minutes.
# The folder's name carries everything that shapes the result, so a changed setting builds anew.
set -euo pipefail

cd "$(dirname "$0")/.."
settings=(
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=12
  -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_POSITION_INDEPENDENT_CODE=ON
  -DWITH_LZ4=ON -DWITH_ZSTD=ON -DPORTABLE=1 -DFAIL_ON_WARNINGS=OFF
  -DWITH_GFLAGS=OFF -DWITH_SNAPPY=OFF -DWITH_ZLIB=OFF -DWITH_BZ2=OFF -DWITH_LIBURING=OFF
  -DWITH_TESTS=OFF -DWITH_ALL_TESTS=OFF -DWITH_TOOLS=OFF -DWITH_CORE_TOOLS=OFF
  -DWITH_BENCHMARK_TOOLS=OFF -DWITH_TRACE_TOOLS=OFF -DWITH_EXAMPLES=OFF -DWITH_JNI=OFF
  -DWITH_JEMALLOC=OFF -DWITH_NUMA=OFF -DWITH_TBB=OFF -DROCKSDB_BUILD_SHARED=OFF
)

manifest=$(cargo metadata --locked --format-version 1 |
  grep -o '"manifest_path":"[^"]*/librocksdb-sys-[^"]*/Cargo.toml"' | head -n 1 | cut -d'"' -f4)
[ -n "$manifest" ] || { echo "rocksdb.sh: librocksdb-sys is not among the dependencies" >&2; exit 1; }
crate=$(dirname "$manifest")
version=$(basename "$crate")
compiler=$(clang++ --version | head -n 1)
key=$(printf '%s\n' "$version" "$compiler" "$(uname -m)" "${settings[@]}" | sha256sum | cut -c1-16)
folder="${XDG_CACHE_HOME:-$HOME/.cache}/trilith/${version//+/-}-$key"

if [ ! -f "$folder/librocksdb.a" ]; then
  echo "rocksdb.sh: building $version into $folder (about 3 minutes on 2 cores)" >&2
  mkdir -p "$folder.lock.d" "$(dirname "$folder")"
  exec 9>"$folder.lock.d/lock"
  flock 9
  if [ ! -f "$folder/librocksdb.a" ]; then
    work=$(mktemp -d "$folder.build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cmake -S "$crate/rocksdb" -B "$work" -G Ninja "${settings[@]}" >"$work/cmake.log" 2>&1 ||
      { tail -n 30 "$work/cmake.log" >&2; exit 1; }
    cmake --build "$work" --target rocksdb >"$work/build.log" 2>&1 ||
      { tail -n 60 "$work/build.log" >&2; exit 1; }
    mkdir -p "$folder"
    mv "$work/librocksdb.a" "$folder/librocksdb.a.new"
    mv "$folder/librocksdb.a.new" "$folder/librocksdb.a"
  fi
fi
printf '%s\n' "$folder"
