//! The bytes of a key's value as stored: encode beside decode.
//!
//! ```text
//! KeyValue        = protobuf mvccpb.KeyValue, fields in order of number, defaults left out
//! row             = kind superseded KeyValue
//! kind            = 1 (create) | 2 (put) | 3 (tombstone; its KeyValue has only the key)
//! superseded      = nothing                 when kind is create
//!                 | varint main, varint sub of the revision before, main 0 when it is unknown
//!                   (a record taken over from etcd after a compaction)
//! current         = varint sub, row         value in `current`
//! revision        = row                     value in `revision`
//! ```
//!
//! One buffer serves both families, and the `KeyValue` inside it goes to clients as it stands.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    ids::{LeaseId, Revision},
    storage::{Family, StorageError},
};

/// A key with its value and history, as `mvccpb.KeyValue` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Revision that created it, since it was last absent.
    pub create_revision: Revision,
    /// Revision that last changed it.
    pub mod_revision: Revision,
    /// Changes since its creation, the creation included.
    pub version: i64,
    /// The value.
    pub value: Bytes,
    /// The lease it hangs on; 0 is none.
    pub lease: LeaseId,
}

impl KeyValue {
    /// Decodes stored bytes; key and value share their memory.
    pub fn decode(encoded: &Bytes) -> Result<Self, StorageError> {
        let fields = Fields::parse(encoded)?;
        Ok(Self {
            key: encoded.slice_ref(fields.key),
            create_revision: Revision::new(fields.create_revision),
            mod_revision: Revision::new(fields.mod_revision),
            version: fields.version,
            value: encoded.slice_ref(fields.value),
            lease: LeaseId::new(fields.lease),
        })
    }

    /// Encodes as protobuf.
    pub fn encode(&self) -> Bytes {
        self.fields().encode()
    }

    fn fields(&self) -> Fields<'_> {
        Fields {
            key: &self.key,
            create_revision: self.create_revision.get(),
            mod_revision: self.mod_revision.get(),
            version: self.version,
            value: &self.value,
            lease: self.lease.get(),
        }
    }
}

/// The fields of an encoded `KeyValue`, borrowed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Revision that created it.
    pub create_revision: i64,
    /// Revision that last changed it.
    pub mod_revision: i64,
    /// Changes since its creation.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The lease, 0 for none.
    pub lease: i64,
}

impl<'a> Fields<'a> {
    /// Reads the fields; unknown ones are passed over.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, StorageError> {
        let mut fields = Self::default();
        let mut rest = encoded;
        while !rest.is_empty() {
            let tag = take_varint(&mut rest)?;
            match tag {
                0x0a => fields.key = take_bytes(&mut rest)?,
                0x10 => fields.create_revision = take_varint(&mut rest)?.cast_signed(),
                0x18 => fields.mod_revision = take_varint(&mut rest)?.cast_signed(),
                0x20 => fields.version = take_varint(&mut rest)?.cast_signed(),
                0x2a => fields.value = take_bytes(&mut rest)?,
                0x30 => fields.lease = take_varint(&mut rest)?.cast_signed(),
                _ => skip(tag, &mut rest)?,
            }
        }
        Ok(fields)
    }

    /// Encodes as protobuf.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_max());
        self.put(&mut out);
        out.freeze()
    }

    fn put(&self, out: &mut BytesMut) {
        put_bytes(out, 0x0a, self.key);
        put_number(out, 0x10, self.create_revision);
        put_number(out, 0x18, self.mod_revision);
        put_number(out, 0x20, self.version);
        put_bytes(out, 0x2a, self.value);
        put_number(out, 0x30, self.lease);
    }

    /// Bytes that the encoding never exceeds.
    fn encoded_max(&self) -> usize {
        self.key.len() + self.value.len() + 6 * (1 + VARINT_BYTES_MAX)
    }
}

/// What a revision did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key did not exist before.
    Create,
    /// It replaced a value.
    Put,
    /// It deleted the key.
    Tombstone,
}

/// Main and sub revision: the address of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Revision of the transaction.
    pub main: i64,
    /// Place within the transaction, from 0.
    pub sub: i64,
}

/// A stored row, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// What it did.
    pub kind: Kind,
    /// The change of the same key that it replaced, if there was one and it is known.
    pub superseded: Option<Address>,
    /// The encoded `KeyValue`.
    pub kv: &'a [u8],
}

impl<'a> Row<'a> {
    /// Reads a value of `revision`.
    pub fn parse(mut rest: &'a [u8]) -> Result<Self, StorageError> {
        let (&kind, body) = rest.split_first().ok_or_else(|| corrupt("empty row"))?;
        rest = body;
        let kind = match kind {
            1 => {
                return Ok(Self {
                    kind: Kind::Create,
                    superseded: None,
                    kv: rest,
                });
            }
            2 => Kind::Put,
            3 => Kind::Tombstone,
            _ => return Err(corrupt("unknown kind")),
        };
        let main = take_varint(&mut rest)?.cast_signed();
        let sub = take_varint(&mut rest)?.cast_signed();
        let superseded = (main != 0).then_some(Address { main, sub });
        Ok(Self {
            kind,
            superseded,
            kv: rest,
        })
    }

    /// Reads a value of `current`: the sub revision, and the row.
    pub fn parse_current(mut rest: &'a [u8]) -> Result<(i64, Self), StorageError> {
        let sub = take_varint(&mut rest)?.cast_signed();
        Ok((sub, Self::parse(rest)?))
    }
}

/// A row as it is written: one buffer with the value for each family in it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    buffer: Bytes,
    row_at: usize,
    kv_at: usize,
}

impl Written {
    pub(super) fn new(
        sub: i64,
        kind: Kind,
        superseded: Option<Address>,
        fields: &Fields<'_>,
    ) -> Self {
        let mut buffer = BytesMut::with_capacity(fields.encoded_max() + 1 + 3 * VARINT_BYTES_MAX);
        put_header(&mut buffer, sub, kind, superseded);
        let kv_at = buffer.len();
        fields.put(&mut buffer);
        Self {
            buffer: buffer.freeze(),
            row_at: varint_bytes(sub),
            kv_at,
        }
    }

    /// As `new`, around a `KeyValue` that is encoded already.
    pub(super) fn around(
        sub: i64,
        kind: Kind,
        superseded: Option<Address>,
        encoded: &[u8],
    ) -> Self {
        let mut buffer = BytesMut::with_capacity(encoded.len() + 1 + 3 * VARINT_BYTES_MAX);
        put_header(&mut buffer, sub, kind, superseded);
        let kv_at = buffer.len();
        buffer.put_slice(encoded);
        Self {
            buffer: buffer.freeze(),
            row_at: varint_bytes(sub),
            kv_at,
        }
    }

    /// The value for `current`.
    pub(super) fn current(&self) -> &[u8] {
        &self.buffer
    }

    /// The value for `revision`.
    pub(super) fn revision(&self) -> &[u8] {
        &self.buffer[self.row_at..]
    }

    /// As [`Written::revision`], to be kept.
    pub(super) fn into_revision(mut self) -> Bytes {
        self.buffer.split_off(self.row_at)
    }

    /// The encoded `KeyValue`.
    pub(super) fn kv(&self) -> Bytes {
        self.buffer.slice(self.kv_at..)
    }
}

fn put_header(out: &mut BytesMut, sub: i64, kind: Kind, superseded: Option<Address>) {
    put_varint(out, sub.cast_unsigned());
    out.put_u8(match kind {
        Kind::Create => 1,
        Kind::Put => 2,
        Kind::Tombstone => 3,
    });
    if kind != Kind::Create {
        let address = superseded.unwrap_or(Address { main: 0, sub: 0 });
        put_varint(out, address.main.cast_unsigned());
        put_varint(out, address.sub.cast_unsigned());
    }
}

fn put_bytes(out: &mut BytesMut, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.put_u8(tag);
        put_varint(out, bytes.len() as u64);
        out.put_slice(bytes);
    }
}

fn put_number(out: &mut BytesMut, tag: u8, number: i64) {
    if number != 0 {
        out.put_u8(tag);
        put_varint(out, number.cast_unsigned());
    }
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn varint_bytes(number: i64) -> usize {
    let bits = 64 - (number.cast_unsigned() | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, StorageError> {
    let mut number = 0_u64;
    for (place, &byte) in rest.iter().take(VARINT_BYTES_MAX).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            *rest = &rest[place + 1..];
            return Ok(number);
        }
    }
    Err(corrupt("broken number"))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], StorageError> {
    let length = usize::try_from(take_varint(rest)?).map_err(|_| corrupt("impossible length"))?;
    let (bytes, after) = rest
        .split_at_checked(length)
        .ok_or_else(|| corrupt("cut short"))?;
    *rest = after;
    Ok(bytes)
}

fn skip(tag: u64, rest: &mut &[u8]) -> Result<(), StorageError> {
    let fixed = match tag & 7 {
        0 => return take_varint(rest).map(|_| ()),
        2 => return take_bytes(rest).map(|_| ()),
        1 => 8,
        5 => 4,
        _ => return Err(corrupt("unknown wire type")),
    };
    *rest = rest.get(fixed..).ok_or_else(|| corrupt("cut short"))?;
    Ok(())
}

fn corrupt(reason: &str) -> StorageError {
    StorageError::corrupt(Family::Revision, reason)
}

const VARINT_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use trilith_proto::mvccpb;

    use super::*;
    use crate::mutate;

    fn fields() -> Fields<'static> {
        Fields {
            key: b"k",
            create_revision: 2,
            mod_revision: 300,
            version: 5,
            value: b"vv",
            lease: -1,
        }
    }

    #[test]
    fn golden_bytes() {
        let encoded = fields().encode();
        let mut expected = b"\x0a\x01k\x10\x02\x18\xac\x02\x20\x05\x2a\x02vv\x30".to_vec();
        expected.extend_from_slice(&[0xff; 9]);
        expected.push(1);
        assert_eq!(encoded, expected);
        let put = Written::new(200, Kind::Put, Some(Address { main: 7, sub: 1 }), &fields());
        assert_eq!(put.current()[..5], [0xc8, 1, 2, 7, 1]);
        assert_eq!(put.revision(), &put.current()[2..]);
        assert_eq!(put.kv(), encoded);
        let create = Written::new(0, Kind::Create, None, &fields());
        assert_eq!(create.current()[..2], [0, 1]);
    }

    #[test]
    fn rows_round_trip() {
        let address = Some(Address {
            main: 1 << 40,
            sub: 129,
        });
        for (kind, superseded) in [
            (Kind::Create, None),
            (Kind::Put, address),
            (Kind::Tombstone, address),
            (Kind::Put, None),
        ] {
            let written = Written::new(3, kind, superseded, &fields());
            let (sub, row) = Row::parse_current(written.current()).expect("own row");
            assert_eq!((sub, row.kind, row.superseded), (3, kind, superseded));
            assert_eq!(Fields::parse(row.kv).expect("own fields"), fields());
            assert_eq!(Row::parse(written.revision()).expect("own row"), row);
        }
    }

    #[test]
    fn broken_bytes_are_refused_and_unknown_fields_passed_over() {
        for broken in [&b"\x0a\x05ab"[..], b"\x10", b"\x10\xff", b"\x0b", b"\x39\0"] {
            assert!(Fields::parse(broken).is_err(), "{broken:?}");
        }
        let fields = Fields::parse(b"\x0a\x01k\x38\x07\x42\x01x").expect("well formed");
        assert_eq!(
            fields,
            Fields {
                key: b"k",
                ..Fields::default()
            }
        );
        assert!(Row::parse(b"").is_err());
        assert!(Row::parse(b"\x09").is_err());
    }

    fn fields_read_back(encoded: &[u8]) {
        let Ok(fields) = Fields::parse(encoded) else {
            return;
        };
        assert_eq!(Fields::parse(&fields.encode()).expect("own fields"), fields);
        let kv = KeyValue::decode(&Bytes::copy_from_slice(encoded)).expect("as above");
        assert_eq!(KeyValue::decode(&kv.encode()).expect("own fields"), kv);
        if let Ok(theirs) = mvccpb::KeyValue::decode(encoded) {
            assert_eq!((&theirs.key[..], theirs.lease), (fields.key, fields.lease));
            assert_eq!(theirs.encode_to_vec(), fields.encode());
        }
    }

    fn a_row_reads_back(value: &[u8]) {
        if let Ok((sub, row)) = Row::parse_current(value) {
            let again = Written::around(sub, row.kind, row.superseded, row.kv);
            assert_eq!(
                Row::parse_current(again.current()).expect("own row"),
                (sub, row)
            );
            assert_eq!(Row::parse(again.revision()).expect("own row"), row);
            fields_read_back(row.kv);
        }
        if let Ok(row) = Row::parse(value) {
            let again = Written::around(0, row.kind, row.superseded, row.kv);
            assert_eq!(Row::parse(again.revision()).expect("own row"), row);
        }
        fields_read_back(value);
    }

    proptest! {
        #[test]
        fn no_junk_for_a_row_panics(value in mutate::near_any::<[u8]>(&[
            b"\x0a\x01k\x10\x02\x18\xac\x02\x20\x05\x2a\x02vv\x30\x07",
            b"\xc8\x01\x02\x07\x01\x0a\x01k\x10\x02\x18\xac\x02\x20\x05\x2a\x02vv",
            b"\x00\x01\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x02vv",
            b"\x01\x03\x07\x01\x0a\x01k",
        ])) {
            a_row_reads_back(&value);
        }
    }
}
