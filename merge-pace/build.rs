//! Compiles the limiter against the headers that librocksdb-sys carries.

use std::env;
use std::path::Path;

fn main() {
    let sources = env::var("DEP_ROCKSDB_CARGO_MANIFEST_DIR")
        .expect("librocksdb-sys tells its build scripts where it is");
    let headers = Path::new(&sources).join("rocksdb/include");
    cc::Build::new()
        .cpp(true)
        // The one that RocksDB itself is built with.
        .compiler("clang++")
        .std("c++20")
        // As RocksDB's own release builds: a class derived from one of its would miss its type
        // information otherwise.
        .flag("-fno-rtti")
        .include(headers)
        .file("src/limiter.cc")
        .warnings_into_errors(true)
        .extra_warnings(false)
        .compile("trilith_merge_pace");
    println!("cargo:rerun-if-changed=src/limiter.cc");
}
