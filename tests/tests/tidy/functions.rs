//! Where functions start and how long they are.

use crate::source::block_length;

/// One function with a body.
#[derive(Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Line of its name, from 1.
    pub(crate) line: usize,
    /// From the line of its name to the line of its closing brace, both included.
    pub(crate) lines: usize,
}

/// All functions of Rust code without comments and literals, nested ones too.
pub(crate) fn of_rust(code: &str) -> Vec<Function> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let inside_word = code[..at].ends_with(|sign: char| sign.is_alphanumeric() || sign == '_');
        let name: String = code[at + 3..]
            .chars()
            .take_while(|sign| sign.is_alphanumeric() || *sign == '_')
            .collect();
        let Some(open) = body(&code[at..]) else {
            continue;
        };
        if inside_word || name.is_empty() {
            continue;
        }
        let whole = &code[at..at + open + block_length(&code[at + open..])];
        let line = code[..at].lines().count() + usize::from(code[..at].ends_with('\n'));
        all.push(Function {
            name,
            line: line.max(1),
            lines: whole.lines().count(),
        });
    }
    all
}

/// Where the body opens, unless a semicolon comes first: then there is none.
fn body(signature: &str) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, sign) in signature.char_indices() {
        match sign {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// All functions of a Go file in the form that gofmt gives it.
pub(crate) fn of_go(text: &str) -> Vec<Function> {
    let mut all = Vec::new();
    let mut open: Option<(usize, &str)> = None;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("func ") && line.ends_with('{') {
            open = Some((at, line));
        } else if line == "}"
            && let Some((start, head)) = open.take()
        {
            let name = head.trim_end_matches(" {").into();
            all.push(Function {
                name,
                line: start + 1,
                lines: at - start + 1,
            });
        }
    }
    all
}

#[test]
fn functions_are_measured_with_their_bodies() {
    let found = |name: &str, line, lines| Function {
        name: name.into(),
        line,
        lines,
    };
    let code = "trait T {\n fn a(&self) -> [u8; 2];\n fn b(\n  x: X,\n ) {\n  {}\n }\n}\n";
    assert_eq!(of_rust(code), [found("b", 3, 5)]);
    assert_eq!(
        of_rust("fn a() {\n fn b() {}\n}\n"),
        [found("a", 1, 3), found("b", 2, 1)]
    );
    assert_eq!(of_rust("type F = fn (u8) -> u8;"), []);
    assert_eq!(of_go("func a() {\n\tb()\n}\n"), [found("func a()", 1, 3)]);
}
