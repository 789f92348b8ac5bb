//! The identity file: says whose a data directory is, in which format, and that it is undamaged.
//!
//! Text, so that an operator can read it:
//!
//! ```text
//! trilith identity 1
//! member-id 8e9e05c52164694d
//! cluster-id cdf818194e3a8c32
//! crc32c 6aec6e38
//! ```
//!
//! The first line (with the format's number) and the last (the checksum of all bytes before it)
//! stay as they are in every later format, so that a program can tell a newer file from a damaged
//! one.

use crate::ids::{ClusterId, MemberId};

/// The format of the whole data directory that this program writes and reads.
pub const FORMAT: u32 = 1;

/// No identity file is longer; a longer one is damaged and is not read into memory.
pub const MAX_BYTES: usize = 4096;

const TITLE: &str = "trilith identity ";
const CHECKSUM: &str = "crc32c ";

/// Whose data directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member_id: MemberId,
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
}

impl Identity {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = format!(
            "{TITLE}{FORMAT}\nmember-id {:016x}\ncluster-id {:016x}\n",
            self.member_id.get(),
            self.cluster_id.get()
        );
        format!("{body}{CHECKSUM}{:08x}\n", crc32c::crc32c(body.as_bytes())).into_bytes()
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Newer`] for an undamaged file of a later format, [`IdentityError::Damaged`]
    /// for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        use IdentityError::Damaged;
        if bytes.len() > MAX_BYTES {
            return Err(Damaged("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Damaged("it is not text"))?;
        let without_end = text
            .strip_suffix('\n')
            .ok_or(Damaged("its end is missing"))?;
        let (_, last) = without_end
            .rsplit_once('\n')
            .ok_or(Damaged("its end is missing"))?;
        let body = &text[..text.len() - last.len() - 1];
        let sum = last
            .strip_prefix(CHECKSUM)
            .and_then(|hex| parse_hex(hex, 8));
        let sum = sum.ok_or(Damaged("its checksum is missing"))?;
        if u64::from(crc32c::crc32c(body.as_bytes())) != sum {
            return Err(Damaged("its checksum does not match"));
        }

        let mut lines = body.lines();
        let title = lines.next().and_then(|line| line.strip_prefix(TITLE));
        let format = title.and_then(|title| {
            let format: u32 = title.parse().ok()?;
            (format.to_string() == title).then_some(format)
        });
        let format = format.ok_or(Damaged("its first line is not known"))?;
        if format > FORMAT {
            return Err(IdentityError::Newer { found: format });
        }
        let mut field = |name: &str| {
            let line = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
            parse_hex(line, 16)
        };
        let member_id = field("member-id").ok_or(Damaged("its member-id is missing"))?;
        let cluster_id = field("cluster-id").ok_or(Damaged("its cluster-id is missing"))?;
        if lines.next().is_some() || format != FORMAT || member_id == 0 {
            return Err(Damaged("its content is not of this format"));
        }
        Ok(Self {
            member_id: MemberId::new(member_id),
            cluster_id: ClusterId::new(cluster_id),
        })
    }
}

/// Exactly `digits` lowercase hexadecimal digits: one spelling for each number.
fn parse_hex(text: &str, digits: usize) -> Option<u64> {
    let lower = text
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if text.len() != digits || !lower {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// What is wrong with an identity file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It was cut or changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A later version of this program wrote it.
    #[error("its format is {found}, and this program knows formats up to {FORMAT}")]
    Newer {
        /// The format it has.
        found: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    const GOLDEN: &str = "trilith identity 1\nmember-id 8e9e05c52164694d\n\
                          cluster-id cdf818194e3a8c32\ncrc32c 6aec6e38\n";

    fn identity() -> Identity {
        Identity {
            member_id: MemberId::new(0x8e9e_05c5_2164_694d),
            cluster_id: ClusterId::new(0xcdf8_1819_4e3a_8c32),
        }
    }

    fn with_sum(body: &str) -> Vec<u8> {
        format!("{body}{CHECKSUM}{:08x}\n", crc32c::crc32c(body.as_bytes())).into_bytes()
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        assert_eq!(String::from_utf8(identity().encode()).unwrap(), GOLDEN);
        assert_eq!(Identity::decode(GOLDEN.as_bytes()), Ok(identity()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let bytes = identity().encode();
        for end in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(Identity::decode(&changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let newer = with_sum("trilith identity 2\nsomething else\n");
        assert_eq!(
            Identity::decode(&newer),
            Err(IdentityError::Newer { found: 2 })
        );
        for body in [
            "trilith identity 0\nmember-id 8e9e05c52164694d\ncluster-id cdf818194e3a8c32\n",
            "trilith identity 01\nmember-id 8e9e05c52164694d\ncluster-id cdf818194e3a8c32\n",
            "trilith identity 1\nmember-id 8e9e05c52164694d\n",
            "trilith identity 1\nmember-id 0000000000000000\ncluster-id cdf818194e3a8c32\n",
            "trilith identity 1\nmember-id 8E9E05C52164694D\ncluster-id cdf818194e3a8c32\n",
            "trilith identity 1\nmember-id 8e9e05c52164694d\ncluster-id cdf818194e3a8c32\nx\n",
        ] {
            let found = Identity::decode(&with_sum(body));
            assert!(matches!(found, Err(IdentityError::Damaged(_))), "{body}");
        }
    }

    fn what_is_read_would_be_written(file: &[u8]) {
        if let Ok(identity) = Identity::decode(file) {
            assert_eq!(identity.encode(), file);
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_file_panics(
            file in mutate::near_any(&[GOLDEN]),
            body in mutate::near_any(&[&GOLDEN[..GOLDEN.len() - CHECKSUM.len() - 9]]),
        ) {
            what_is_read_would_be_written(&file);
            what_is_read_would_be_written(&with_sum(&String::from_utf8_lossy(&body)));
        }

        #[test]
        fn every_identity_survives(member in 1u64.., cluster: u64) {
            let identity = Identity {
                member_id: MemberId::new(member),
                cluster_id: ClusterId::new(cluster),
            };
            prop_assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        }

        #[test]
        fn what_is_accepted_is_what_would_be_written(
            body in "(trilith identity [0-9]{1,3}\n)?(member-id [0-9a-f]{16}\n)?\
                     (cluster-id [0-9a-f]{16}\n)?(x\n)?"
        ) {
            let bytes = with_sum(&body);
            if let Ok(identity) = Identity::decode(&bytes) {
                prop_assert_eq!(identity.encode(), bytes);
            }
        }
    }
}
