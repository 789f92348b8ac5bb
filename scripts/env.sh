# Sourced by the Makefile and the scripts: where caches lie, and which tools to use.
#
# Everything that is built lands in the user's cache folder, so that a second clone starts warm.
export TRILITH_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/trilith"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$TRILITH_CACHE/target}"
# A Go or Rust that scripts/setup.sh has installed, after those that are there already.
export PATH="$PATH:$HOME/.cargo/bin:$TRILITH_CACHE/go/bin"
