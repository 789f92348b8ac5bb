//! etcdutl's output formats, and the status of a snapshot in them, to the letter.

use serde::Serialize;

use crate::import::SnapshotStatus;

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Fields,
    Json,
    Simple,
    Table,
}

impl Format {
    /// The format of that name.
    ///
    /// # Errors
    ///
    /// etcdutl's text.
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "fields" => Ok(Self::Fields),
            "json" => Ok(Self::Json),
            "simple" => Ok(Self::Simple),
            "table" => Ok(Self::Table),
            "protobuf" => Err("protobuf not supported as output format"),
            _ => Err("unsupported output format"),
        }
    }

    /// `status` in this format, with the end of its last line.
    pub(super) fn text(self, status: &SnapshotStatus) -> String {
        match self {
            Self::Fields => fields(status),
            Self::Json => json(status),
            Self::Simple => format!("{}\n", cells(status).join(", ")),
            Self::Table => table(&HEADS, &cells(status)),
        }
    }
}

fn fields(status: &SnapshotStatus) -> String {
    let numbers = [
        ("Hash", i128::from(status.hash)),
        ("Revision", i128::from(status.revision)),
        ("Keys", i128::from(status.total_keys)),
        ("Size", i128::from(status.total_size)),
    ];
    let mut lines = String::new();
    for (name, number) in numbers {
        lines.push_str(&format!("\"{name}\" : {number}\n"));
    }
    lines + &format!("\"Version\" : {}\n", status.version)
}

fn json(status: &SnapshotStatus) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Status<'a> {
        hash: u32,
        revision: i64,
        total_key: u64,
        total_size: u64,
        version: &'a str,
    }
    let status = Status {
        hash: status.hash,
        revision: status.revision,
        total_key: status.total_keys,
        total_size: status.total_size,
        version: &status.version,
    };
    let json = serde_json::to_string(&status).expect("numbers and a string make JSON");
    format!("{json}\n")
}

fn cells(status: &SnapshotStatus) -> [String; 5] {
    [
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_keys.to_string(),
        size(status.total_size),
        status.version.clone(),
    ]
}

const HEADS: [&str; 5] = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];

/// One row under its heads: heads in the middle of their columns, cells at the right.
pub(super) fn table<const N: usize>(heads: &[&str; N], cells: &[String; N]) -> String {
    let columns = || heads.iter().zip(cells);
    let width = |(head, cell): (&&str, &String)| head.len().max(cell.len());
    let rule = |left: &str, middle: &str, right: &str| {
        let lines: Vec<_> = columns()
            .map(|column| "─".repeat(width(column) + 2))
            .collect();
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let heads = columns().map(|column| format!("{:^1$}", column.0, width(column)));
    let values = columns().map(|column| format!("{:>1$}", column.1, width(column)));
    let row = |cells: Vec<String>| format!("│ {} │\n", cells.join(" │ "));
    [
        rule("┌", "┬", "┐"),
        row(heads.collect()),
        rule("├", "┼", "┤"),
        row(values.collect()),
        rule("└", "┴", "┘"),
    ]
    .concat()
}

/// Bytes in powers of 1,000, with one digit after the point below ten.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut power = 1_u64;
    while unit + 1 < UNITS.len() && bytes / power >= 1000 {
        power *= 1000;
        unit += 1;
    }
    let value = (bytes as f64 / power as f64 * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> SnapshotStatus {
        SnapshotStatus {
            hash: 910_740_975,
            revision: 2,
            total_keys: 1,
            total_size: 20480,
            version: "3.7.0".to_owned(),
        }
    }

    #[test]
    fn formats_are_etcdutls() {
        assert_eq!(
            Format::Simple.text(&status()),
            "3648cdef, 2, 1, 20 kB, 3.7.0\n"
        );
        assert_eq!(
            Format::Json.text(&status()),
            concat!(
                r#"{"hash":910740975,"revision":2,"totalKey":1,"totalSize":20480,"#,
                "\"version\":\"3.7.0\"}\n"
            )
        );
        assert_eq!(
            Format::Table.text(&status()),
            concat!(
                "┌──────────┬──────────┬────────────┬────────────┬─────────┐\n",
                "│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │\n",
                "├──────────┼──────────┼────────────┼────────────┼─────────┤\n",
                "│ 3648cdef │        2 │          1 │      20 kB │   3.7.0 │\n",
                "└──────────┴──────────┴────────────┴────────────┴─────────┘\n",
            )
        );
    }

    #[test]
    fn sizes_are_rounded_as_etcdutl_rounds_them() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1550, "1.6 kB"),
            (20480, "20 kB"),
            (999_950, "1000 kB"),
            (1_000_000, "1.0 MB"),
            (10_500_000_000, "10 GB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }
}
