//! Reads single fields of an encoded message: replies that come by the hundred thousand per second
//! are looked at, not decoded.

use anyhow::{Context as _, Result, bail};

/// Field numbers of `etcdserverpb`.
pub(crate) const WATCH_CREATED: u64 = 3;
pub(crate) const WATCH_CANCELED: u64 = 4;
pub(crate) const WATCH_EVENTS: u64 = 11;
pub(crate) const KEEP_ALIVE_TTL: u64 = 3;

/// A field's value, as far as the messages in use have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Hands each field of `message` with its number to `each`.
pub(crate) fn fields<'a>(
    mut message: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<()>,
) -> Result<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)?),
            2 => {
                let size = varint(&mut message)? as usize;
                let (bytes, rest) = message.split_at_checked(size).context("a cut field")?;
                message = rest;
                Value::Bytes(bytes)
            }
            kind => bail!("wire type {kind}"),
        };
        each(tag >> 3, value)?;
    }
    Ok(())
}

fn varint(message: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().context("a cut number")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    bail!("a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_with_their_numbers() {
        let message = [0x08, 0x96, 0x01, 0x5a, 0x02, b'h', b'i'];
        let mut seen = Vec::new();
        let each = |number, value| {
            seen.push((number, value));
            Ok(())
        };
        fields(&message, each).expect("well formed");
        assert_eq!(seen, [(1, Value::Number(150)), (11, Value::Bytes(b"hi"))]);
        assert!(
            fields(&message[..6], |_, _| Ok(())).is_err(),
            "a cut field is an error"
        );
    }
}
