//! Durations as Go writes them: `1h30m`, `300ms`, `-1.5s`, counted in nanoseconds.

/// Units by name, in nanoseconds, as Go's `time.ParseDuration` knows them.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration in Go's notation into nanoseconds; the error is Go's text.
pub(crate) fn parse_go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |c: char| !c.is_ascii_digit();
        let (whole, after) = rest.split_at(rest.find(digits).unwrap_or(rest.len()));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(digits).unwrap_or(after.len())),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        let part = scaled(whole, fraction, *scale).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// `whole.fraction` times `scale`; None when it is out of every range.
fn scaled(whole: &str, fraction: &str, scale: u64) -> Option<i128> {
    // Digits beyond the nanosecond of an hour (13) change nothing.
    const MAX_FRACTION_DIGITS: usize = 15;
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction = &fraction[..fraction.len().min(MAX_FRACTION_DIGITS)];
    let mut nanos = i128::from(whole) * i128::from(scale);
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).ok()?;
        nanos += fraction.parse::<i128>().ok()? * i128::from(scale) / 10_i128.pow(digits);
    }
    Some(nanos)
}

/// Writes nanoseconds as Go's `Duration.String` does: `1m0s`, `100ms`, `0s`.
pub(crate) fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let (scale, unit) = match n {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    if unit != "s" {
        return format!("{sign}{}{unit}", decimal(n, scale));
    }
    let (hours, minutes) = (n / UNITS[7].1, n / UNITS[6].1 % 60);
    let seconds = decimal(n % UNITS[6].1, scale);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `n / scale` as a decimal number without trailing zeros; `scale` is a power of ten.
fn decimal(n: u64, scale: u64) -> String {
    let mut text = format!("{}", n / scale);
    if !n.is_multiple_of(scale) {
        let width = scale.ilog10() as usize;
        text.push_str(format!(".{:0width$}", n % scale).trim_end_matches('0'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        let cases: &[(&str, i64, &str)] = &[
            ("0", 0, "0s"),
            ("5s", 5_000_000_000, "5s"),
            ("300ms", 300_000_000, "300ms"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1m", 60_000_000_000, "1m0s"),
            ("-1.5s", -1_500_000_000, "-1.5s"),
            ("+10us", 10_000, "10µs"),
            (".5ms", 500_000, "500µs"),
            ("1.000000001s", 1_000_000_001, "1.000000001s"),
        ];
        for (text, nanos, written) in cases {
            assert_eq!(parse_go_duration(text), Ok(*nanos), "{text}");
            assert_eq!(go_duration(*nanos), *written, "{text}");
        }
    }

    #[test]
    fn broken_durations_get_gos_text() {
        let cases = [
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("-1", "time: missing unit in duration \"-1\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
            (".s", "time: invalid duration \".s\""),
        ];
        for (text, error) in cases {
            assert_eq!(parse_go_duration(text).unwrap_err(), error);
        }
    }
}
