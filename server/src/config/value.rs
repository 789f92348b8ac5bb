//! What kinds of value flags take, and how Go's `flag` package and etcd read each from text.

use std::collections::BTreeSet;

use super::duration::parse_go_duration;
use super::gates::FeatureGates;
use super::url::MemberUrl;

/// How a flag's text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// May stand alone, which means true; a value needs `=`.
    Bool,
    /// Anything or nothing: the flags that etcd itself no longer looks at.
    Ignored,
    /// Any text.
    Text,
    /// 64 bits, without sign.
    Uint,
    /// 32 bits, without sign; etcd's own type, with texts of its own.
    Uint32,
    /// 64 bits, with sign.
    Int,
    /// Go's notation, such as `1h30m`.
    Duration,
    /// Comma-separated URLs, sorted and unique; empty text keeps what was there.
    Urls,
    /// Comma-separated words, sorted and unique.
    Words,
    /// Comma-separated words in their order.
    List,
    /// One of these words; the first is the default.
    Choice(&'static [&'static str]),
    /// Several of these words, comma-separated.
    Choices(&'static [&'static str]),
    /// `Gate=true,Other=false`.
    Gates,
}

impl Kind {
    /// Whether the flag may stand without a value, and takes one only after `=`.
    pub(super) fn stands_alone(self) -> bool {
        matches!(self, Self::Bool | Self::Ignored)
    }
}

/// A flag's value, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Text(String),
    Uint(u64),
    Int(i64),
    /// Nanoseconds.
    Duration(i64),
    Urls(Vec<MemberUrl>),
    Words(Vec<String>),
    Gates(FeatureGates),
    Nothing,
}

impl Value {
    /// Reads `text`; `before` is the value so far, which some kinds add to. The error is Go's text.
    pub(super) fn read(kind: Kind, text: &str, before: Option<&Self>) -> Result<Self, String> {
        let unparsable = |_| "parse error".to_owned();
        match kind {
            Kind::Ignored => Ok(Self::Nothing),
            Kind::Text => Ok(Self::Text(text.to_owned())),
            Kind::Bool => go_bool(text)
                .map(Self::Bool)
                .ok_or_else(|| "parse error".to_owned()),
            Kind::Uint => go_uint(text, u64::MAX)
                .map(Self::Uint)
                .map_err(|e| e.flag_text()),
            Kind::Uint32 => go_uint(text, u32::MAX.into())
                .map(Self::Uint)
                .map_err(|e| format!("strconv.ParseUint: parsing {text:?}: {}", e.strconv_text())),
            Kind::Int => go_int(text).map(Self::Int).map_err(|e| e.flag_text()),
            Kind::Duration => parse_go_duration(text)
                .map(Self::Duration)
                .map_err(unparsable),
            Kind::Urls if text.is_empty() => match before {
                Some(before) => Ok(before.clone()),
                None => Ok(Self::Urls(Vec::new())),
            },
            Kind::Urls => {
                let mut urls = MemberUrl::parse_list(text)?;
                urls.dedup();
                Ok(Self::Urls(urls))
            }
            Kind::Words | Kind::List if text.is_empty() => Ok(Self::Words(Vec::new())),
            Kind::Words => {
                let words: BTreeSet<&str> = text.split(',').collect();
                Ok(Self::Words(words.into_iter().map(str::to_owned).collect()))
            }
            Kind::List => Ok(Self::Words(text.split(',').map(str::to_owned).collect())),
            Kind::Choice(words) if words.contains(&text) => Ok(Self::Text(text.to_owned())),
            Kind::Choice(_) => Err("invalid value".to_owned()),
            Kind::Choices(words) => match text.split(',').find(|word| !words.contains(word)) {
                Some(word) => Err(format!("invalid value {word:?}")),
                None => Ok(Self::Text(text.to_owned())),
            },
            Kind::Gates => {
                let mut gates = match before {
                    Some(Self::Gates(gates)) => gates.clone(),
                    _ => FeatureGates::default(),
                };
                gates.set(text)?;
                Ok(Self::Gates(gates))
            }
        }
    }
}

/// Why a number could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberError {
    Syntax,
    Range,
}

impl NumberError {
    /// As Go's `flag` says it.
    fn flag_text(self) -> String {
        match self {
            Self::Syntax => "parse error".to_owned(),
            Self::Range => "value out of range".to_owned(),
        }
    }

    /// As Go's `strconv` says it.
    fn strconv_text(self) -> &'static str {
        match self {
            Self::Syntax => "invalid syntax",
            Self::Range => "value out of range",
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseUint` with base 0: decimal, `0x`, `0o`, `0b`, a leading 0, underscores.
fn go_uint(text: &str, max: u64) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // An underscore may stand between digits, and between a prefix and the digits.
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (radix == 10 && digits.starts_with('_'));
    let digits = digits.replace('_', "");
    if misplaced || digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    match u64::from_str_radix(&digits, radix) {
        Ok(number) if number <= max => Ok(number),
        _ => Err(NumberError::Range),
    }
}

/// Go's `strconv.ParseInt` with base 0.
fn go_int(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(go_uint(digits, u64::MAX)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NumberError::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let good = [
            ("0", 0),
            ("100", 100),
            ("0x10", 16),
            ("010", 8),
            ("0b11", 3),
            ("1_000", 1000),
        ];
        for (text, number) in good {
            assert_eq!(go_uint(text, u64::MAX), Ok(number), "{text}");
        }
        for text in ["", "abc", "-1", "1_", "_1", "1__0", "0x", "09", "1.5", "+1"] {
            assert_eq!(go_uint(text, u64::MAX), Err(NumberError::Syntax), "{text}");
        }
        assert_eq!(
            go_uint("99999999999999999999", u64::MAX),
            Err(NumberError::Range)
        );
        assert_eq!(
            go_uint("4294967296", u32::MAX.into()),
            Err(NumberError::Range)
        );
        assert_eq!(go_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(go_int("9223372036854775808"), Err(NumberError::Range));
    }

    #[test]
    fn values_that_do_not_read_get_gos_text() {
        let cases = [
            (Kind::Bool, "maybe", "parse error"),
            (Kind::Uint, "abc", "parse error"),
            (Kind::Uint, "99999999999999999999", "value out of range"),
            (Kind::Duration, "5", "parse error"),
            (Kind::Choice(&["exit", "proxy"]), "x", "invalid value"),
            (Kind::Choices(&["gone"]), "gone,x", "invalid value \"x\""),
            (
                Kind::Uint32,
                "abc",
                "strconv.ParseUint: parsing \"abc\": invalid syntax",
            ),
            (
                Kind::Uint32,
                "5000000000",
                "strconv.ParseUint: parsing \"5000000000\": value out of range",
            ),
        ];
        for (kind, text, error) in cases {
            assert_eq!(Value::read(kind, text, None).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_unique_where_etcd_sorts_them() {
        let words = Value::read(Kind::Words, "stdout,a,stdout", None);
        assert_eq!(words, Ok(Value::Words(vec!["a".into(), "stdout".into()])));
        let urls = Value::read(Kind::Urls, "http://b:1,http://a:1,http://b:1", None).unwrap();
        let Value::Urls(urls) = urls else {
            panic!("urls stay urls")
        };
        assert_eq!(super::super::url::join(&urls), "http://a:1,http://b:1");
    }

    #[test]
    fn empty_urls_keep_the_default() {
        let before = Value::read(Kind::Urls, "http://a:1", None).unwrap();
        assert_eq!(Value::read(Kind::Urls, "", Some(&before)), Ok(before));
    }
}
