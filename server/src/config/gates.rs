//! Feature gates: named switches for what etcd calls alpha and beta features.

use std::fmt;

use super::value::go_bool;

/// How far etcd trusts a gate; `AllAlpha` and `AllBeta` switch by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

macro_rules! gates {
    ($($(#[$doc:meta])* $field:ident, $name:literal, $stage:ident, $default:literal;)*) => {
        /// Which feature gates are on.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct FeatureGates {
            $($(#[$doc])* pub $field: bool,)*
            /// Names that were set one by one, which `AllAlpha` and `AllBeta` leave alone.
            chosen: Vec<&'static str>,
        }

        impl Default for FeatureGates {
            fn default() -> Self {
                Self { $($field: $default,)* chosen: Vec::new() }
            }
        }

        /// Name, stage and default of each gate, in the order of their names.
        const GATES: &[(&str, Stage, bool)] = &[$(($name, Stage::$stage, $default),)*];

        impl FeatureGates {
            fn is_on(&self, name: &str) -> bool {
                match name {
                    $($name => self.$field,)*
                    _ => false,
                }
            }

            fn switch(&mut self, name: &str) -> Option<&mut bool> {
                match name {
                    $($name => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

gates! {
    /// Keep the hash of each compaction, and compare it between members.
    compact_hash_check, "CompactHashCheck", Alpha, false;
    /// Renew leases without waiting for the applied index.
    fast_lease_keep_alive, "FastLeaseKeepAlive", Beta, true;
    /// Compare the data with the other members before serving.
    initial_corrupt_check, "InitialCorruptCheck", Alpha, false;
    /// Tell the members the remaining TTL of leases from time to time.
    lease_checkpoint, "LeaseCheckpoint", Alpha, false;
    /// Keep the remaining TTL on disk.
    lease_checkpoint_persist, "LeaseCheckpointPersist", Alpha, false;
    /// Let lease revocations pass when other proposals are refused.
    priority_request, "PriorityRequest", Alpha, false;
    /// Dial peers from the advertised address.
    set_member_local_addr, "SetMemberLocalAddr", Alpha, false;
    /// Stop serving gRPC while defragmenting; Trilith serves on, so this changes nothing.
    stop_grpc_service_on_defrag, "StopGRPCServiceOnDefrag", Alpha, false;
    /// A matter of etcd's write buffer; changes nothing here.
    txn_mode_write_with_shared_buffer, "TxnModeWriteWithSharedBuffer", Beta, true;
}

impl FeatureGates {
    /// Applies `Gate=true,Other=false`; the error is etcd's text, and nothing has changed then.
    pub(super) fn set(&mut self, text: &str) -> Result<(), String> {
        let mut changed = self.clone();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .map(|(name, value)| (name.trim(), value.trim()))
                .ok_or_else(|| format!("missing bool value for {}", pair.trim()))?;
            let on = go_bool(value).ok_or_else(|| {
                let why = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
                format!("invalid value of {name}={value}, err: {why}")
            })?;
            changed.set_one(name, on)?;
        }
        *self = changed;
        Ok(())
    }

    fn set_one(&mut self, name: &str, on: bool) -> Result<(), String> {
        let stage = match name {
            "AllAlpha" => Stage::Alpha,
            "AllBeta" => Stage::Beta,
            _ => {
                let known = GATES.iter().find(|(known, ..)| *known == name);
                let (known, ..) =
                    known.ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
                self.chosen.push(known);
                *self
                    .switch(known)
                    .expect("every gate of the table has its field") = on;
                return Ok(());
            }
        };
        for (gate, ..) in GATES.iter().filter(|(_, of, _)| *of == stage) {
            if !self.chosen.contains(gate) {
                *self
                    .switch(gate)
                    .expect("every gate of the table has its field") = on;
            }
        }
        Ok(())
    }
}

/// The gates that were chosen or differ from their default, as they would be typed.
impl fmt::Display for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = GATES.iter().filter(|(name, _, default)| {
            self.chosen.contains(name) || self.is_on(name) != *default
        });
        for (at, (name, ..)) in told.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}={}", self.is_on(name))?;
        }
        Ok(())
    }
}

/// One line for each gate, for the help text.
pub(super) fn known_gates() -> Vec<String> {
    let mut lines = vec![
        "AllAlpha=true|false (ALPHA - default=false)".to_owned(),
        "AllBeta=true|false (BETA - default=false)".to_owned(),
    ];
    lines.extend(GATES.iter().map(|(name, stage, default)| {
        format!("{name}=true|false ({} - default={default})", stage.name())
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_switched_by_name_and_by_stage() {
        let mut gates = FeatureGates::default();
        assert!(gates.fast_lease_keep_alive && !gates.compact_hash_check);
        gates
            .set("LeaseCheckpoint=false, AllAlpha=true,AllBeta=false")
            .unwrap();
        assert!(gates.compact_hash_check && gates.priority_request);
        assert!(!gates.lease_checkpoint, "set by name before AllAlpha");
        assert!(!gates.fast_lease_keep_alive);
        let told = gates.to_string();
        assert!(
            told.starts_with("CompactHashCheck=true,FastLeaseKeepAlive=false,"),
            "{told}"
        );
        assert!(told.contains("LeaseCheckpoint=false"), "{told}");
        assert_eq!(FeatureGates::default().to_string(), "");
    }

    #[test]
    fn a_wrong_gate_gets_etcds_text_and_changes_nothing() {
        let mut gates = FeatureGates::default();
        let cases = [
            ("Foo=true", "unrecognized feature gate: Foo"),
            ("CompactHashCheck=true,Foo", "missing bool value for Foo"),
            (
                "CompactHashCheck=x",
                "invalid value of CompactHashCheck=x, err: strconv.ParseBool: parsing \"x\": \
                 invalid syntax",
            ),
        ];
        for (text, error) in cases {
            assert_eq!(gates.set(text).unwrap_err(), error);
            assert_eq!(gates, FeatureGates::default());
        }
    }
}
