//! Versions of etcd as the cluster speaks of them, and what the leader makes of them.

use std::fmt;

use crate::error::RequestError;

/// The etcd version that this server stands in for.
pub const SERVER_VERSION: Version = Version {
    major: 3,
    minor: 7,
    patch: 3,
};

/// Three numbers. What may follow them ("-rc.1", "+build") is checked and dropped: etcd never
/// stores such versions, it only accepts them from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the usual ones")]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
}

impl Version {
    /// etcd's oldest one that can be part of a cluster; that of a cluster of which not even one
    /// member's version is known.
    pub const OLDEST_CLUSTER: Self = Self {
        major: 3,
        minor: 0,
        patch: 0,
    };

    /// Reads "X.Y.Z", with an optional "-..." and "+..." behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
        let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
        if !identifier(metadata) || !identifier(pre_release) {
            return None;
        }
        let mut parts = text.splitn(3, '.').map(number);
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        Some(Self {
            major,
            minor,
            patch,
        })
    }

    /// The version that a cluster has when this is its oldest member's: the patch level does not
    /// count.
    pub fn cluster(self) -> Self {
        Self { patch: 0, ..self }
    }

    /// "X.Y", as answers of the API name cluster versions.
    pub fn short(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// The only version that a cluster of this one can be downgraded to.
    pub fn downgrade_target(self) -> Option<Self> {
        Some(Self {
            minor: self.minor.checked_sub(1)?,
            patch: 0,
            ..self
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn number(text: &str) -> Option<u64> {
    // Go reads a plus sign and so does Rust, but a split at "+" has removed it; a minus sign is
    // gone too.
    let number = text.parse::<u64>().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

/// Is `text` empty, or dotted parts of letters, digits and hyphens?
fn identifier(text: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.is_empty() || text.split('.').all(word)
}

/// Reads the target of a downgrade request: "X.Y" or "X.Y.Z", of which the cluster takes "X.Y.0".
///
/// # Errors
///
/// `WrongDowngradeFormat`.
pub fn downgrade_target(text: &str) -> Result<Version, RequestError> {
    Version::parse(text)
        .or_else(|| Version::parse(&format!("{text}.0")))
        .map(Version::cluster)
        .ok_or(RequestError::WrongDowngradeFormat)
}

/// A downgrade job, as the cluster keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DowngradeInfo {
    /// The version to go to; empty when there is no job.
    pub target_version: String,
    /// Is there a job?
    pub enabled: bool,
}

impl DowngradeInfo {
    fn target(&self) -> Option<Version> {
        self.enabled
            .then(|| Version::parse(&self.target_version))
            .flatten()
    }
}

/// The cluster version that the leader should propose now, if it should propose any.
///
/// `oldest` is the lowest version among the members, `None` while one of them is not known. A
/// cluster without a version gets one at once; later it follows its oldest member up, and a
/// downgrade job down.
pub fn next_cluster_version(
    current: Option<Version>,
    oldest: Option<Version>,
    downgrade: &DowngradeInfo,
) -> Option<Version> {
    let Some(current) = current else {
        return Some(oldest.map_or(Version::OLDEST_CLUSTER, Version::cluster));
    };
    let oldest = oldest?.cluster();
    if downgrade.enabled {
        let target = downgrade.target()?;
        let allowed = |from: Version| from.downgrade_target() == Some(target);
        return (target != current && allowed(current) && allowed(oldest)).then_some(target);
    }
    (current.major == oldest.major && current < oldest).then_some(oldest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    fn version(text: &str) -> Version {
        Version::parse(text).expect("a version")
    }

    #[test]
    fn downgrade_targets_are_read_as_etcd_reads_them() {
        for good in ["3.6", "3.6.0", "3.6.2", "3.6.0-rc.1", "03.6", "3.6.0+x"] {
            assert_eq!(downgrade_target(good), Ok(version("3.6.0")), "{good}");
        }
        let bad = [
            "",
            "abc",
            "3",
            "3.x",
            " 3.6",
            "+3.6",
            "3.-6",
            "3.6.0.0",
            "3.6-rc",
            "3.6+x",
            "v3.6",
            "3.6.0-ä",
            "3.6.0-a..b",
        ];
        for bad in bad {
            assert_eq!(
                downgrade_target(bad),
                Err(RequestError::WrongDowngradeFormat),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_new_cluster_gets_the_version_of_its_oldest_member_or_the_oldest_of_all() {
        let none = DowngradeInfo::default();
        let oldest = Some(SERVER_VERSION);
        assert_eq!(
            next_cluster_version(None, oldest, &none),
            Some(version("3.7.0"))
        );
        assert_eq!(
            next_cluster_version(None, None, &none),
            Some(version("3.0.0"))
        );
    }

    #[test]
    fn the_cluster_version_only_rises_without_a_downgrade_job() {
        let none = DowngradeInfo::default();
        let next = |current, oldest| {
            next_cluster_version(Some(version(current)), Some(version(oldest)), &none)
        };
        assert_eq!(next("3.6.0", "3.7.3"), Some(version("3.7.0")));
        assert_eq!(next("3.7.0", "3.7.3"), None);
        assert_eq!(next("3.7.0", "3.6.9"), None);
        assert_eq!(
            next_cluster_version(Some(version("3.6.0")), None, &none),
            None
        );
    }

    #[test]
    fn a_downgrade_job_lowers_the_cluster_version_by_one_minor() {
        let job = DowngradeInfo {
            target_version: "3.6.0".to_owned(),
            enabled: true,
        };
        let next = |current, oldest| {
            next_cluster_version(Some(version(current)), Some(version(oldest)), &job)
        };
        assert_eq!(next("3.7.0", "3.7.3"), Some(version("3.6.0")));
        assert_eq!(next("3.6.0", "3.7.3"), None, "it is there already");
        assert_eq!(
            next("3.8.0", "3.7.3"),
            None,
            "two steps at once are not allowed"
        );
    }

    fn a_version_reads_back(text: &str) {
        if let Some(version) = Version::parse(text) {
            assert_eq!(Version::parse(&version.to_string()), Some(version));
        }
        if let Ok(target) = downgrade_target(text) {
            assert_eq!(downgrade_target(&target.short()), Ok(target));
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_version_panics(text in mutate::near_any(&[
            "3.7.0",
            "3.6",
            "3.7.3-rc.1+build.5",
            "0.0.9223372036854775807",
        ])) {
            a_version_reads_back(&String::from_utf8_lossy(&text));
        }
    }
}
