#!/usr/bin/env bash
# Installs what is missing on a Debian or Ubuntu machine, and says so; does nothing when all is there.
#
#   setup.sh run     what `make run` needs: C++ and Rust toolchains, RocksDB
#   setup.sh test    also what `make test` needs: Go, the stock etcd tools, strace, ip
set -euo pipefail

cd "$(dirname "$0")/.."
source scripts/env.sh
purpose=${1:-run}
say() { echo "setup.sh: $*" >&2; }

# apt packages -----------------------------------------------------------------------------------
missing=()
need() { # need PACKAGE TEST...: the package is missing when the test fails
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
has_header() { [ -f "/usr/include/$1" ]; }
has_libclang() { ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*; }
need clang command -v clang++
need libclang-dev has_libclang
need cmake command -v cmake
need ninja-build command -v ninja
need liblz4-dev has_header lz4.h
need libzstd-dev has_header zstd.h
need libc6-dev has_header stdio.h
need curl command -v curl
need ca-certificates test -f /etc/ssl/certs/ca-certificates.crt
if [ "$purpose" = test ]; then
  need strace command -v strace
  need iproute2 command -v ip
  need e2fsprogs command -v mkfs.ext4
fi
if [ ${#missing[@]} -gt 0 ]; then
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "please install: ${missing[*]}"; exit 1; }
    sudo=(sudo)
  fi
  command -v apt-get >/dev/null || { say "no apt-get here; please install: ${missing[*]}"; exit 1; }
  say "installing with apt-get: ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null >>"$log" 2>&1; }
  if ! apt update || ! apt install -y --no-install-recommends "${missing[@]}"; then
    tail -n 20 "$log" >&2
    say "apt-get failed; please install: ${missing[*]}"
    exit 1
  fi
fi

# Rust -------------------------------------------------------------------------------------------
if ! command -v cargo >/dev/null; then
  say "installing rustup into ~/.cargo"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
    sh -s -- -y -q --no-modify-path --profile minimal --default-toolchain none >&2
fi
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if command -v rustup >/dev/null && ! cargo --version >/dev/null 2>&1; then
  say "installing Rust $channel (pinned by rust-toolchain.toml)"
  rustup toolchain install "$channel" --profile minimal -c rustfmt -c clippy --no-self-update >&2
fi

# RocksDB ----------------------------------------------------------------------------------------
scripts/rocksdb.sh >/dev/null

# Go and the stock etcd tools --------------------------------------------------------------------
if [ "$purpose" = test ]; then
  # From 1.21 on, Go fetches the newer version that go.mod asks for by itself.
  go_version=1.26.8
  if ! command -v go >/dev/null || ! (cd tests/go && go version) >/dev/null 2>&1; then
    case $(uname -m) in
      x86_64) arch=amd64 ;;
      aarch64) arch=arm64 ;;
      *) say "please install Go $go_version"; exit 1 ;;
    esac
    say "installing Go $go_version into $TRILITH_CACHE/go"
    rm -rf "$TRILITH_CACHE/go"
    mkdir -p "$TRILITH_CACHE"
    curl -sSfL "https://go.dev/dl/go$go_version.linux-$arch.tar.gz" | tar -xz -C "$TRILITH_CACHE"
    export PATH="$TRILITH_CACHE/go/bin:$PATH"
  fi
  scripts/go-tools.sh >/dev/null
fi
