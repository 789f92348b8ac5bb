//! Our `.proto` files against the descriptors that etcd's Go modules carry.
//!
//! Both sides print what they declare as sorted lines: every message, field, enum value and
//! method. `tests/go/descriptors` is the Go side; the test fails where it cannot run.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::process::Command;

use protox::prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

#[test]
fn every_name_number_and_type_is_etcds() -> Result<(), Box<dyn Error>> {
    let ours = our_lines()?;
    let theirs = go_lines()?;
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&theirs).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "etcd has, we have not: {missing:#?}\nwe have, etcd has not: {extra:#?}"
    );
    assert!(
        ours.len() > 500,
        "only {} lines: the Go program looked at too little",
        ours.len()
    );
    Ok(())
}

fn go_lines() -> Result<BTreeSet<String>, Box<dyn Error>> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/go");
    let output = Command::new("go")
        .args(["run", "-mod=readonly", "./descriptors"])
        .current_dir(module)
        .output()
        .map_err(|error| format!("cannot run go, which this test needs: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .map(String::from)
        .collect())
}

fn our_lines() -> Result<BTreeSet<String>, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut files = Vec::new();
    for package in std::fs::read_dir(&root)? {
        for file in std::fs::read_dir(package?.path())? {
            files.push(file?.path());
        }
    }
    let pool = DescriptorPool::from_file_descriptor_set(protox::compile(files, [root])?)?;
    let mut lines = BTreeSet::new();
    for message in pool.all_messages() {
        lines.insert(format!("message {}", message.full_name()));
        lines.extend(message.fields().map(|field| field_line(&message, &field)));
    }
    lines.extend(pool.all_enums().flat_map(|declared| enum_lines(&declared)));
    for service in pool.services() {
        lines.extend(service.methods().map(|method| method_line(&method)));
    }
    Ok(lines)
}

fn field_line(message: &MessageDescriptor, field: &FieldDescriptor) -> String {
    let label = match field.cardinality() {
        Cardinality::Optional => "optional",
        Cardinality::Required => "required",
        Cardinality::Repeated => "repeated",
    };
    let mut kind = match field.kind() {
        Kind::Message(inner) => format!("message {}", inner.full_name()),
        Kind::Enum(inner) => format!("enum {}", inner.full_name()),
        scalar => format!("{scalar:?}"),
    };
    if let Some(oneof) = field.containing_oneof() {
        kind += &format!(" oneof {}", oneof.name());
    }
    if field.is_packed() {
        kind += " packed";
    }
    let (name, number, json) = (field.name(), field.number(), field.json_name());
    format!(
        "field {}.{name} = {number} {label} {kind} json {json}",
        message.full_name()
    )
}

fn enum_lines(declared: &EnumDescriptor) -> Vec<String> {
    let line = |name: &str, number| format!("enum {} {name} = {number}", declared.full_name());
    declared
        .values()
        .map(|value| line(value.name(), value.number()))
        .collect()
}

fn method_line(method: &MethodDescriptor) -> String {
    format!(
        "method {} {} client stream {} -> {} server stream {}",
        method.full_name(),
        method.input().full_name(),
        method.is_client_streaming(),
        method.output().full_name(),
        method.is_server_streaming()
    )
}
