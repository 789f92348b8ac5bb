//! A bbolt file as lines of text, to compare with Go's: `dump`, `check` and `load`.
//!
//! Each line of a dump is `pair DEPTH KEY VALUE` or `bucket DEPTH NAME`, with names, keys and
//! values in hexadecimal, and what a bucket holds after it, one deeper. To load is to write a file
//! with pages of a size from such lines, sorted and at most one deep, on standard input.

use std::env;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Write};

use anyhow::{Context, Result, bail};
use trilith_bbolt::{Bucket, Entry, File, Measure, Sink, Writer};

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
        ["load", path, page_size] => load(path, page_size.parse()?)?,
        _ => bail!("usage: bbolt_text dump FILE | check FILE | load FILE PAGE-SIZE"),
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

fn load(path: &str, page_size: u32) -> Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let mut measure = Measure::new(page_size)?;
    feed(&text, &mut measure)?;
    let out = BufWriter::new(std::fs::File::create(path)?);
    let mut writer = Writer::new(measure.finish()?, out)?;
    feed(&text, &mut writer)?;
    writer.finish()?;
    Ok(())
}

fn feed(text: &str, sink: &mut impl Sink) -> Result<()> {
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["bucket", "0", name] => sink.bucket(&unhex(name)?)?,
            ["pair", "1", key, value] => sink.pair(&unhex(key)?, &unhex(value)?)?,
            _ => bail!("cannot load the line {line:?}"),
        }
    }
    Ok(())
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text
        .strip_prefix('.')
        .context("hexadecimal begins with a dot")?;
    let bytes = (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16));
    Ok(bytes.collect::<Result<_, _>>()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("."), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
