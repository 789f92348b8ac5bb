//! Generates the Rust types from `proto/`, without a protoc binary.
//!
//! Two passes: the first makes all messages and the clients, the second the server traits, whose
//! replies with stored key-values are the structs of `src/wire.rs`.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost_build::Config;
use tonic_prost_build::Builder;

/// Root of the files below; their `import` lines are relative to it.
const ROOT: &str = "proto";

const FILES: [&str; 17] = [
    "authpb/auth.proto",
    "etcdserverpb/auth.proto",
    "etcdserverpb/cluster.proto",
    "etcdserverpb/header.proto",
    "etcdserverpb/kv.proto",
    "etcdserverpb/lease.proto",
    "etcdserverpb/maintenance.proto",
    "etcdserverpb/raft_internal.proto",
    "etcdserverpb/watch.proto",
    "leasepb/lease.proto",
    "membershippb/membership.proto",
    "mvccpb/kv.proto",
    "raftpb/raft.proto",
    "snappb/snap.proto",
    "v3electionpb/v3election.proto",
    "v3lockpb/v3lock.proto",
    "walpb/record.proto",
];

/// Packages with services, and with what these refer to.
const SERVICE_PACKAGES: [&str; 5] = [
    "authpb",
    "etcdserverpb",
    "mvccpb",
    "v3electionpb",
    "v3lockpb",
];

/// Messages that `src/wire.rs` writes by hand.
const WIRE_MESSAGES: [&str; 7] = [
    "RangeResponse",
    "RangeStreamResponse",
    "PutResponse",
    "DeleteRangeResponse",
    "ResponseOp",
    "TxnResponse",
    "WatchResponse",
];

/// Members of InternalRaftRequest that are rare: boxed, so that the common ones, which live in
/// every queue from propose to apply, stay small.
const BOXED: [&str; 4] = ["auth_", "cluster_", "authenticate", "downgrade_"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(FILES, [ROOT])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut messages = builder()
        .build_server(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]");
    let internal = descriptors
        .file
        .iter()
        .flat_map(|file| &file.message_type)
        .find(|message| message.name() == "InternalRaftRequest")
        .ok_or("no InternalRaftRequest")?;
    for field in &internal.field {
        if BOXED.iter().any(|rare| field.name().starts_with(rare)) {
            messages = messages.boxed(format!(
                ".etcdserverpb.InternalRaftRequest.{}",
                field.name()
            ));
        }
    }
    let mut config = Config::new();
    config.bytes(["."]);
    messages
        .out_dir(&out)
        .compile_fds_with_config(descriptors.clone(), config)?;

    let mut servers = builder()
        .build_client(false)
        .codec_path("crate::codec::ServerCodec");
    for package in SERVICE_PACKAGES {
        servers = servers.extern_path(format!(".{package}"), format!("crate::{package}"));
    }
    for name in WIRE_MESSAGES {
        servers = servers.extern_path(
            format!(".etcdserverpb.{name}"),
            format!("crate::wire::{name}"),
        );
    }
    let out = out.join("server");
    fs::create_dir_all(&out)?;
    servers
        .out_dir(&out)
        .compile_fds_with_config(descriptors, Config::new())?;
    Ok(())
}

/// No transport: `connect` and the like would tie the messages to sockets.
fn builder() -> Builder {
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
}
