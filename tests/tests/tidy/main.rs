//! The house rules that a program can check, over every file that git tracks or would track.
//!
//! A failing test lists each place with its line. The rules have no list of exceptions: what breaks
//! one gets repaired, or the rule is changed here for everybody.

mod functions;
mod layers;
mod source;

use source::{Source, crate_of, sources};

/// Lines of one file of code.
const FILE_LINES: usize = 500;
/// Columns of one line of Rust.
const LINE_COLUMNS: usize = 100;
/// Lines of one function, from its name to its closing brace.
const FUNCTION_LINES: usize = 70;

/// Fails with all the places, or passes when there are none.
fn check(rule: &str, places: Vec<String>) {
    assert!(places.is_empty(), "{rule}\n{}", places.join("\n"));
}

/// The places of all lines, with their number, for which `broken` says so.
fn lines_where(source: &Source, text: &str, broken: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| broken(line));
    lines
        .map(|(at, line)| format!("{}:{}: {}", source.path, at + 1, line.trim()))
        .collect()
}

#[test]
fn the_walk_sees_the_code() {
    let seen = sources().iter().filter(|source| source.is("rs")).count();
    assert!(
        seen > 20,
        "only {seen} Rust files: the other tests here would pass on nothing"
    );
}

#[test]
fn files_have_at_most_500_lines() {
    let code = |source: &&Source| ["rs", "go", "proto", "sh"].iter().any(|end| source.is(end));
    let long = sources().iter().filter(code).filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > FILE_LINES).then(|| format!("{}: {lines} lines", source.path))
    });
    check(
        "a file of more than 500 lines has more than one subject",
        long.collect(),
    );
}

#[test]
fn rust_lines_have_at_most_100_columns() {
    let wide = |line: &str| line.chars().count() > LINE_COLUMNS;
    let places = sources().iter().filter(|source| source.is("rs"));
    let places = places.flat_map(|source| lines_where(source, &source.text, wide));
    check(
        "a line is too wide to be read side by side",
        places.collect(),
    );
}

#[test]
fn functions_have_at_most_70_lines() {
    let long = sources().iter().flat_map(|source| {
        let all = match () {
            () if source.is("rs") => functions::of_rust(&source.code),
            () if source.is("go") => functions::of_go(&source.text),
            () => Vec::new(),
        };
        let long = all
            .into_iter()
            .filter(|function| function.lines > FUNCTION_LINES);
        long.map(|function| {
            let (path, line) = (&source.path, function.line);
            format!(
                "{path}:{line}: {} has {} lines",
                function.name, function.lines
            )
        })
    });
    check(
        "a function of more than 70 lines does more than one thing",
        long.collect(),
    );
}

#[test]
fn rust_files_say_first_what_they_are_for() {
    let silent = sources().iter().filter(|source| source.is("rs"));
    let silent = silent.filter(|source| !source.text.starts_with("//!"));
    check(
        "a file starts with its module doc",
        silent.map(|source| source.path.clone()).collect(),
    );
}

#[test]
fn file_names_are_words_of_the_field() {
    let vague = [
        "utils", "util", "helper", "helpers", "manager", "common", "misc", "wrapper",
    ];
    let places = sources().iter().filter(|source| {
        source
            .path
            .split(['/', '.', '_'])
            .any(|word| vague.contains(&word))
    });
    check(
        "the name says nothing",
        places.map(|source| source.path.clone()).collect(),
    );
}

#[test]
fn spelling_is_american() {
    // The beginnings, in two parts so that this file does not break its own rule.
    let british = [
        ("behavi", "our"),
        ("col", "our"),
        ("fav", "our"),
        ("hon", "our"),
        ("neighb", "our"),
        ("initial", "is"),
        ("serial", "is"),
        ("synchron", "is"),
        ("recogn", "is"),
    ];
    let british = british.map(|(start, end)| format!("{start}{end}"));
    let misspelled = |line: &str| {
        let line = line.to_lowercase();
        british.iter().any(|word| line.contains(word))
    };
    let places = sources()
        .iter()
        .flat_map(|source| lines_where(source, &source.text, misspelled));
    check(
        "names and texts have to be found by one spelling",
        places.collect(),
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Put together, so that this file does not break its own rule.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let excuse = concat!("for", " now");
    let postponed = |line: &str| {
        marks.iter().any(|mark| line.contains(mark)) || line.to_lowercase().contains(excuse)
    };
    let places = sources()
        .iter()
        .flat_map(|source| lines_where(source, &source.text, postponed));
    check(
        "work is finished or an issue, not a remark",
        places.collect(),
    );
}

#[test]
fn no_macro_stands_for_missing_code() {
    let missing = |line: &str| line.contains("todo!") || line.contains("unimplemented!");
    let places = sources()
        .iter()
        .flat_map(|source| lines_where(source, &source.code, missing));
    check("the code is missing", places.collect());
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    // The pause of a loop that polls a condition is all right, and is named after that.
    let sleeps = |line: &str| {
        let call = ["::sleep(", " sleep(", "time.Sleep("]
            .iter()
            .find_map(|call| {
                line.find(call)
                    .map(|at| line[at + call.len()..].to_lowercase())
            });
        call.is_some_and(|argument| !argument.contains("poll"))
    };
    let places = sources().iter().flat_map(|source| {
        if source.is_test() {
            return lines_where(source, &source.code, sleeps);
        }
        lines_where(source, &source.test_modules(), sleeps)
    });
    check(
        "a sleep is too short on a slow machine and too long on a fast one",
        places.collect(),
    );
}

/// Calls C++, which the workspace forbids all others.
const WITH_UNSAFE_CODE: &str = "merge-pace/Cargo.toml";

#[test]
fn every_crate_takes_lints_and_versions_from_the_workspace() {
    let mut places = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.path.ends_with("/Cargo.toml"))
    {
        let is_common = source.text.contains("[lints]\nworkspace = true\n");
        if !is_common && source.path != WITH_UNSAFE_CODE {
            places.push(format!("{}: no [lints] workspace = true", source.path));
        }
        let mut section = "";
        for (at, line) in source.text.lines().enumerate() {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies")
                && line.contains('=')
                && !line.contains("workspace = true")
            {
                places.push(format!("{}:{}: {line}", source.path, at + 1));
            }
        }
    }
    check(
        "lints, and versions with their reasons, are in the root Cargo.toml",
        places,
    );
}

#[test]
fn modules_use_only_what_is_below_them() {
    let server = sources()
        .iter()
        .filter(|source| crate_of(source) == Some("server"));
    check(
        "the order is in docs/architecture.md",
        server.flat_map(layers::broken).collect(),
    );
}

#[test]
fn only_its_edge_names_an_outside_crate() {
    let server = sources()
        .iter()
        .filter(|source| crate_of(source) == Some("server"));
    check(
        "values are converted at the edge",
        server.flat_map(layers::leaked).collect(),
    );
}
