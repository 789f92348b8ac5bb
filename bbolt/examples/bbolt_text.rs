//! A bbolt file as lines of text, to compare with Go: `dump FILE`, `check FILE`.
//!
//! Each line of a dump is `pair DEPTH KEY VALUE` or `bucket DEPTH NAME`, with names, keys and
//! values in hexadecimal, and what a bucket holds after it, one deeper.

use std::env;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use anyhow::{Result, bail};
use trilith_bbolt::{Bucket, Entry, File};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    match arguments[..] {
        ["dump", path] => {
            for bucket in File::open(path)?.buckets() {
                let (name, bucket) = bucket?;
                writeln!(out, "bucket 0 {}", hex(&name))?;
                dump(&bucket, 1, &mut out)?;
            }
        }
        ["check", path] => writeln!(out, "{:?}", File::open(path)?.check()?)?,
        _ => bail!("usage: bbolt_text dump FILE | check FILE"),
    }
    out.flush()?;
    Ok(())
}

fn dump(bucket: &Bucket, depth: usize, out: &mut impl Write) -> Result<()> {
    for entry in bucket.entries() {
        match entry? {
            Entry::Pair(key, value) => {
                writeln!(out, "pair {depth} {} {}", hex(&key), hex(&value))?;
            }
            Entry::Bucket(name, bucket) => {
                writeln!(out, "bucket {depth} {}", hex(&name))?;
                // Deeper than any test nests: a hostile file could nest without end.
                if depth < 10 {
                    dump(&bucket, depth + 1, out)?;
                }
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("."), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
