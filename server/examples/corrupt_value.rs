//! Changes one bit of a key's latest value in the data of a member that does not run, as a broken
//! disk or a broken version might. The tests of the corruption checks plant differences with it.
//!
//! `corrupt_value <data-dir> <key>`

use std::path::Path;

use anyhow::{Context, bail};
use trilith_server::{
    mvcc::{Fields, Row},
    storage::{Backend, BackendOptions, Family, schema},
};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data_dir, key] = arguments.as_slice() else {
        bail!("usage: corrupt_value <data-dir> <key>");
    };
    let state = Path::new(data_dir).join("member").join("state");
    if !state.is_dir() {
        bail!("{data_dir} holds no member of Trilith's");
    }
    let backend = Backend::open(&state, &BackendOptions::default())?;
    let current = backend.get(Family::Current, key.as_bytes())?;
    let current = current.with_context(|| format!("there is no key {key}"))?;
    let (sub, row) = Row::parse_current(&current)?;
    let fields = Fields::parse(row.kv)?;
    if fields.value.is_empty() {
        bail!("the value of {key} has no bit that could be changed");
    }
    // The value is a part of `current`, which ends as the row of the revision does.
    let value_at = fields.value.as_ptr().addr() - current.as_ptr().addr();
    let mut changed = current.to_vec();
    changed[value_at] ^= 1;
    let at = schema::revision_key(fields.mod_revision, sub);
    let revision = backend.get(Family::Revision, &at)?;
    let revision = revision.context("the revision of the key is missing")?;
    let mut batch = backend.batch();
    let row_at = changed.len() - revision.len();
    batch.put(Family::Revision, at, &changed[row_at..]);
    batch.put(Family::Current, key.as_bytes(), &changed);
    backend.write(batch)?;
    backend.flush()?;
    Ok(())
}
