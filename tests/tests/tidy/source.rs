//! The files under rules, and their code without comments and literals.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// What the rules read; anything else is data.
const ENDINGS: [&str; 7] = ["rs", "go", "proto", "sh", "toml", "md", "Makefile"];

/// One file.
pub(crate) struct Source {
    /// From the root of the workspace, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// For Rust and Go: `text` with comments and the insides of literals turned into spaces, line
    /// by line as before. Otherwise empty.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn is(&self, ending: &str) -> bool {
        self.path.rsplit(['.', '/']).next() == Some(ending)
    }

    /// Whether all of the file is test code.
    pub(crate) fn is_test(&self) -> bool {
        let stem = self.path.split('.').next().unwrap_or_default();
        let name = stem.rsplit('/').next().unwrap_or_default();
        let named = name == "tests" || name.ends_with("_test") || name.ends_with("_tests");
        named || self.path.starts_with("tests/") || stem.contains("/tests/")
    }

    /// `code` with everything but the `#[cfg(test)] mod` blocks turned into spaces.
    pub(crate) fn test_modules(&self) -> String {
        const MARK: &str = "#[cfg(test)]";
        let mut kept = String::new();
        let mut rest = self.code.as_str();
        while let Some(at) = rest.find(MARK) {
            let (before, block) = rest.split_at(at);
            let end = match block.find(['{', ';']) {
                Some(open) if block[open..].starts_with('{') => open + block_length(&block[open..]),
                _ => MARK.len(),
            };
            kept.push_str(&blank(before));
            kept.push_str(&block[..end]);
            rest = &block[end..];
        }
        kept + &blank(rest)
    }
}

/// The crate whose `src` holds the file.
pub(crate) fn crate_of(source: &Source) -> Option<&str> {
    let (name, _) = source.path.split_once("/src/")?;
    source.is("rs").then_some(name)
}

/// Length of the block that `code`, without literals, starts with; all of it if it does not end.
pub(crate) fn block_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, sign) in code.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// All files, read once.
pub(crate) fn sources() -> &'static [Source] {
    static ALL: LazyLock<Vec<Source>> = LazyLock::new(read);
    &ALL
}

fn read() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // New files are judged too, before they are committed.
    let listing = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(&root)
        .output()
        .expect("git runs: the rules are about the files that it tracks");
    assert!(
        listing.status.success(),
        "{}",
        String::from_utf8_lossy(&listing.stderr)
    );
    let listing = String::from_utf8(listing.stdout).expect("paths are UTF-8");
    let mut all = Vec::new();
    for path in listing.split_terminator('\0') {
        let mut source = Source {
            path: path.into(),
            text: String::new(),
            code: String::new(),
        };
        if !ENDINGS.iter().any(|ending| source.is(ending)) {
            continue;
        }
        // A file that is deleted and not yet committed is still listed.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else {
            continue;
        };
        if source.is("rs") || source.is("go") {
            source.code = code_of(&text, source.is("go"));
        }
        source.text = text;
        all.push(source);
    }
    all
}

fn blank(text: &str) -> String {
    text.chars()
        .map(|sign| if sign == '\n' { '\n' } else { ' ' })
        .collect()
}

/// The text without what comments and literals say.
fn code_of(text: &str, go: bool) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(sign) = rest.chars().next() {
        let length = match literal_length(rest, before, go) {
            Some(length) => {
                code.push_str(&blank(&rest[..length]));
                length
            }
            None => {
                code.push(sign);
                sign.len_utf8()
            }
        };
        before = rest[..length].chars().next_back().unwrap_or(' ');
        rest = &rest[length..];
    }
    code
}

/// Length of the comment or literal that `rest` starts with; `before` is the character before it.
fn literal_length(rest: &str, before: char, go: bool) -> Option<usize> {
    let until = |from: usize, end: &str| match rest[from..].find(end) {
        Some(at) => from + at + end.len(),
        None => rest.len(),
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(until(2, "*/"));
    }
    if rest.starts_with('"') {
        return Some(quoted_length(rest, '"'));
    }
    if go {
        return match rest.chars().next() {
            Some('`') => Some(until(1, "`")),
            Some('\'') => Some(quoted_length(rest, '\'')),
            _ => None,
        };
    }
    if rest.starts_with('r') && (!before.is_alphanumeric() || before == 'b') && before != '_' {
        let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
        let open = 1 + hashes;
        if rest[open..].starts_with('"') {
            return Some(until(open + 1, &format!("\"{}", "#".repeat(hashes))));
        }
    }
    // A quote starts a character, or else a lifetime.
    let mut signs = rest.strip_prefix('\'')?.chars();
    match (signs.next(), signs.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => Some(quoted_length(rest, '\'')),
        _ => None,
    }
}

/// Length of a literal in quotes, with its quotes and escapes.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, sign) in rest.char_indices().skip(1) {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if sign == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[test]
fn code_is_what_is_left_of_a_text() {
    let check = |text: &str, code: &str| assert_eq!(code_of(text, false), code, "{text}");
    check("a // b\nc", "a     \nc");
    check("a /* b\n */ c", "a     \n    c");
    check(r#"a("\"{", b)"#, "a(     , b)");
    check("r#\"\"{\"#; r#type", "       ; r#type");
    check("f('{', '\\'', b'}')", "f(   ,     , b   )");
    check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
}

#[test]
fn test_modules_are_found_in_their_place() {
    let code = String::from("x\n#[cfg(test)]\nuse a;\n#[cfg(test)]\nmod t { {} b }\ny");
    let source = Source {
        path: String::new(),
        text: String::new(),
        code,
    };
    let kept = " \n#[cfg(test)]\n      \n#[cfg(test)]\nmod t { {} b }\n ";
    assert_eq!(source.test_modules(), kept);
}
