//! The order of the server's modules, and which of them may name which outside crate.

use crate::source::Source;

/// Each module may use what is in the rows below its own, and nothing of its own row.
const ORDER: [&[&str]; 11] = [
    &["main"],
    &["node", "command"],
    &["api", "compactor", "corruption", "import", "discovery"],
    &["reconfigure", "primary", "transfer", "expiry", "leadership"],
    &["propose", "read", "quota", "hashing"],
    &["member", "peer", "apply"],
    &["snapshot"],
    &["mvcc", "lease", "auth", "cluster", "alarm"],
    &["storage"],
    &["wait", "pipe", "quiet", "error", "metrics", "progress"],
    &["ids", "limits", "mutate", "planted", "discovery_service"],
];

/// Beside the order, for the first two rows only; `config` may use `logging`.
const BESIDE: [&str; 2] = ["config", "logging"];

/// An outside crate and the only modules that may name it: tonic is the edge towards clients, and
/// that towards the discovery service, whose client a new member is.
const EDGES: [(&str, &[&str]); 8] = [
    ("tonic", &["api", "discovery"]),
    ("hickory_resolver", &["discovery"]),
    ("prometheus", &["metrics"]),
    ("rocksdb", &["storage"]),
    ("trilith_merge_pace", &["storage"]),
    ("raft", &["member"]),
    ("raft_engine", &["member"]),
    ("protobuf", &["member"]),
];

/// The module at the top of the crate that the file is part of.
fn module(source: &Source) -> &str {
    let path = source.path.split_once("/src/").map_or("", |(_, path)| path);
    path.split(['/', '.']).next().unwrap_or_default()
}

/// Row of a module in the order.
fn row(module: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&module))
}

/// Why `own` must not use `used`, if it must not.
fn objection(own: &str, used: &str) -> Option<&'static str> {
    let beside = |module| BESIDE.iter().position(|other| *other == module);
    match (row(own), row(used), beside(own), beside(used)) {
        (Some(own), Some(used), ..) if own < used => None,
        (Some(_), Some(_), ..) => Some("which is not below it"),
        (Some(row), None, _, Some(_)) if row <= 1 => None,
        (Some(_), None, _, Some(_)) => Some("which only main and node may use"),
        (None, None, Some(own), Some(used)) if own < used => None,
        (None, Some(row), Some(_), _) if row >= ORDER.len() - 2 => None,
        (None, _, Some(_), _) => Some("which has nothing to do with settings"),
        _ => Some("of which one has no place in the order"),
    }
}

/// Places where the file uses a module that it must not.
pub(crate) fn broken(source: &Source) -> Vec<String> {
    let own = module(source);
    if own == "lib" || own == "main" {
        return Vec::new();
    }
    if row(own).is_none() && !BESIDE.contains(&own) {
        return vec![format!("{}: {own} has no place in the order", source.path)];
    }
    let used = uses(&source.code)
        .into_iter()
        .filter(|(_, used)| used != own);
    used.filter_map(|(line, used)| {
        let reason = objection(own, &used)?;
        Some(format!(
            "{}:{line}: {own} uses {used}, {reason}",
            source.path
        ))
    })
    .collect()
}

/// The modules of the crate that the code names, with the line of each.
fn uses(code: &str) -> Vec<(usize, String)> {
    const ROOT: &str = "crate::";
    let mut all = Vec::new();
    for (at, _) in code.match_indices(ROOT) {
        if code[..at].ends_with(|sign: char| sign.is_alphanumeric() || sign == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let path = &code[at + ROOT.len()..];
        let names = match path.strip_prefix('{') {
            Some(group) => first_names(group),
            None => vec![first_name(path)],
        };
        all.extend(names.into_iter().map(|name| (line, name)));
    }
    all
}

fn first_name(path: &str) -> String {
    path.chars()
        .take_while(|sign| sign.is_alphanumeric() || *sign == '_')
        .collect()
}

/// The first name of each path in a `{..}` group, which is open already.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, sign) in group.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_name(group[start..at].trim_start()));
                start = at + 1;
                if sign == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Places where the file names an outside crate whose edge is another module.
pub(crate) fn leaked(source: &Source) -> Vec<String> {
    let own = module(source);
    let mut places = Vec::new();
    for (name, edges) in EDGES.into_iter().filter(|(_, edges)| !edges.contains(&own)) {
        let path = format!("{name}::");
        for (at, _) in source.code.match_indices(&path) {
            let part = |sign: char| sign.is_alphanumeric() || sign == '_' || sign == ':';
            if !source.code[..at].ends_with(part) {
                let line = source.code[..at].matches('\n').count() + 1;
                places.push(format!(
                    "{}:{line}: only {} names {name}",
                    source.path,
                    edges.join(" and ")
                ));
            }
        }
    }
    places
}

#[cfg(test)]
fn of(path: &str, code: &str) -> Source {
    Source {
        path: path.into(),
        text: String::new(),
        code: code.into(),
    }
}

#[test]
fn a_use_of_something_above_is_found() {
    let check = |path: &str, code: &str, count: usize| {
        let places = broken(&of(path, code));
        assert_eq!(places.len(), count, "{code}: {places:?}");
    };
    check(
        "server/src/mvcc/a.rs",
        "use crate::{ids::{A, B}, storage::C};",
        0,
    );
    check(
        "server/src/mvcc/a.rs",
        "use crate::{ids::A, mvcc::B, lease::C, apply::D};",
        2,
    );
    check(
        "server/src/api/a.rs",
        "fn a(x: crate::config::Config) {}",
        1,
    );
    check("server/src/node.rs", "use crate::config::Config;", 0);
    check("server/src/storage/a.rs", "use crate::unheard_of::A;", 1);
    check("server/src/unheard_of.rs", "", 1);
    check(
        "server/src/config/a.rs",
        "use crate::logging::A; use crate::ids::B;",
        0,
    );
    check(
        "server/src/logging.rs",
        "use crate::config::A; use crate::mvcc::B;",
        2,
    );
}

#[test]
fn a_crate_named_off_its_edge_is_found() {
    let check = |path: &str, code: &str, count: usize| {
        assert_eq!(leaked(&of(path, code)).len(), count, "{code}");
    };
    check("server/src/api/a.rs", "use tonic::Status;", 0);
    check("server/src/apply/a.rs", "use tonic::Status;", 1);
    check(
        "server/src/apply/a.rs",
        "use crate::raft::A; use my_raft::B;",
        0,
    );
    check("server/src/apply/a.rs", "use raft::A;", 1);
}
