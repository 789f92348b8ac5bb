//! Asks a peer every few seconds whether it is there and what time it has, and logs what is odd.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::PROBING_PATH;
use super::dial::{self, Connection};
use super::link::Peer;

/// The two probers of etcd, by the names that its log gives them.
pub(super) const NAMES: [&str; 2] = ["ROUND_TRIPPER_SNAPSHOT", "ROUND_TRIPPER_RAFT_MESSAGE"];

/// The answer to a probe.
#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// The body of an answer at `now`.
pub(super) fn answer(now: SystemTime) -> Bytes {
    let now = OffsetDateTime::from(now).format(&Rfc3339);
    let now = now.expect("a clock between the years 0 and 9999");
    Bytes::from(format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"))
}

/// What a probe has found.
#[derive(Debug)]
struct Found {
    round_trip: Duration,
    clock_drift: Duration,
}

/// Probes for as long as the peer is known.
pub(super) async fn run(peer: Arc<Peer>, name: &'static str) {
    let mut connection = None;
    let mut smoothed = None;
    let mut next_report = Instant::now() + REPORT_AFTER_ERROR;
    loop {
        let found = probe(&peer, &mut connection).await;
        match &found {
            Ok(found) => smoothed = Some(smooth(smoothed, found.round_trip)),
            Err(_) => connection = None,
        }
        if Instant::now() >= next_report {
            if let Some(smoothed) = smoothed {
                peer.metrics.round_trip.observe(smoothed.as_secs_f64());
            }
            report(&peer, name, &found);
            let pause = if found.is_ok() {
                REPORT_AFTER
            } else {
                REPORT_AFTER_ERROR
            };
            next_report = Instant::now() + pause;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// etcd's mean of round trips, in which each new one counts an eighth.
fn smooth(before: Option<Duration>, now: Duration) -> Duration {
    before.map_or(now, |before| (before * 7 + now) / 8)
}

async fn probe(peer: &Peer, connection: &mut Option<Connection>) -> Result<Found, String> {
    let timeouts = &peer.shared.timeouts;
    let url = peer.url().ok_or("the peer has no URL")?;
    let connected = match connection {
        Some(connected) => connected,
        None => {
            let opened = Connection::open(&url, timeouts).await;
            connection.insert(opened.map_err(|error| error.to_string())?)
        }
    };
    let mut request = Request::new(Full::<Bytes>::default());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from_static(PROBING_PATH);
    let sent = Instant::now();
    let answer = connected.send(request, timeouts.read).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("unhealthy status {}", answer.status()));
    }
    let body = dial::read_answer(answer.into_body(), timeouts.read).await;
    let body = body.map_err(|error| error.to_string())?;
    let theirs = parse(&body)?;
    let round_trip = sent.elapsed();
    // Half a round trip ago, as far as one can tell.
    let ours = OffsetDateTime::now_utc() - round_trip / 2;
    Ok(Found {
        round_trip,
        clock_drift: (ours - theirs).unsigned_abs(),
    })
}

/// The time in an answer.
fn parse(body: &[u8]) -> Result<OffsetDateTime, String> {
    let health: Health = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !health.ok {
        return Err("the peer says that it is not healthy".to_owned());
    }
    OffsetDateTime::parse(&health.now, &Rfc3339).map_err(|error| error.to_string())
}

fn report(peer: &Peer, name: &str, found: &Result<Found, String>) {
    match found {
        Err(error) => tracing::warn!(
            "round-tripper-name" = name,
            "remote-peer-id" = %peer.id,
            error,
            "prober detected unhealthy status"
        ),
        Ok(found) if found.clock_drift > CLOCK_DRIFT_MAX => tracing::warn!(
            "round-tripper-name" = name,
            "remote-peer-id" = %peer.id,
            "clock-drift" = ?found.clock_drift,
            rtt = ?found.round_trip,
            "prober found high clock drift"
        ),
        Ok(_) => {}
    }
}

/// etcd's pause between two probes: less than its read timeout, so that the connection stays.
const INTERVAL: Duration = Duration::from_secs(4);

/// etcd's pauses between two reports.
const REPORT_AFTER: Duration = Duration::from_secs(30);
const REPORT_AFTER_ERROR: Duration = Duration::from_secs(5);

/// etcd tells of clocks that are further apart.
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    /// As etcd 3.7.3 answers.
    const ETCD: &str = r#"{"OK":true,"Now":"2026-01-02T03:04:05.123456789+01:00"}"#;

    #[test]
    fn an_answer_says_what_time_it_is() {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let expected = "{\"OK\":true,\"Now\":\"2023-11-14T22:13:20.25Z\"}\n";
        assert_eq!(answer(now), expected);
        assert_eq!(parse(&answer(now)), Ok(OffsetDateTime::from(now)));
        assert!(parse(ETCD.as_bytes()).is_ok());
        assert!(parse(br#"{"OK":false,"Now":"2023-11-14T22:13:20Z"}"#).is_err());
    }

    #[test]
    fn a_round_trip_counts_an_eighth_beside_those_before() {
        let millis = Duration::from_millis;
        assert_eq!(smooth(None, millis(8)), millis(8));
        assert_eq!(smooth(Some(millis(8)), millis(16)), millis(9));
    }

    proptest! {
        #[test]
        fn no_junk_for_an_answer_panics(body in mutate::near_any(&[ETCD])) {
            if let Ok(now) = parse(&body) {
                prop_assert!(now.unix_timestamp_nanos().checked_abs().is_some());
            }
        }
    }
}
