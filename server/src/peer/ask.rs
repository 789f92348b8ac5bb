//! Questions to another member, beside raft: one request, one short answer.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use parking_lot::Mutex;

use super::dial::{self, Connection, DialError};
use super::link::Peer;
use super::{PeerTimeouts, Peers};
use crate::ids::MemberId;

/// Connections that wait for the next question, by peer.
#[derive(Default)]
pub(super) struct Idle(Mutex<HashMap<MemberId, Vec<Connection>>>);

impl Idle {
    fn take(&self, id: MemberId) -> Option<Connection> {
        self.0.lock().get_mut(&id)?.pop()
    }

    fn give_back(&self, id: MemberId, connection: Connection) {
        let mut idle = self.0.lock();
        let of_peer = idle.entry(id).or_default();
        if of_peer.len() < IDLE_MAX {
            of_peer.push(connection);
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such member, or it has no URL.
    #[error("it is not known where member {0} is")]
    Unknown(MemberId),
    /// The connection failed. The question may have arrived.
    #[error("{0}")]
    Connection(String),
    /// The server stops.
    #[error("the server stops")]
    Stopped,
}

impl From<DialError> for AskError {
    fn from(error: DialError) -> Self {
        Self::Connection(error.to_string())
    }
}

impl Peers {
    /// Asks a member, at most for as long as `wait`. `request` has a path and method; the headers
    /// that say who asks are added.
    ///
    /// # Errors
    ///
    /// [`AskError`]; an answer with whatever status is none.
    pub async fn ask(
        &self,
        id: MemberId,
        request: Request<Bytes>,
        wait: Duration,
    ) -> Result<Response<Bytes>, AskError> {
        let peers = self.clone();
        let peer = self.find(id).ok_or(AskError::Unknown(id))?;
        let asking = async move { peers.ask_now(&peer, request, wait).await };
        let asked = self.shared.runtime.spawn(asking).await;
        asked.map_err(|_canceled| AskError::Stopped)?
    }

    /// As [`Self::ask`], of whoever serves `url`: also before the members are known here.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub async fn ask_at(
        &self,
        url: &str,
        request: Request<Bytes>,
        wait: Duration,
    ) -> Result<Response<Bytes>, AskError> {
        let (peers, url) = (self.clone(), url.to_owned());
        let asking = async move {
            let mut connection = Connection::open(&url, &peers.shared.timeouts).await?;
            peers.ask_through(&mut connection, request, wait).await
        };
        let asked = self.shared.runtime.spawn(asking).await;
        asked.map_err(|_canceled| AskError::Stopped)?
    }

    async fn ask_now(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
        wait: Duration,
    ) -> Result<Response<Bytes>, AskError> {
        // A connection that waited may have been closed by the other end meanwhile, which shows
        // before anything is sent.
        let mut connection = match self.shared.idle.take(peer.id) {
            Some(connection) if connection.is_open() => connection,
            _ => open(peer, &self.shared.timeouts).await?,
        };
        let answer = self.ask_through(&mut connection, request, wait).await?;
        self.shared.idle.give_back(peer.id, connection);
        Ok(answer)
    }

    async fn ask_through(
        &self,
        connection: &mut Connection,
        request: Request<Bytes>,
        wait: Duration,
    ) -> Result<Response<Bytes>, AskError> {
        let (mut head, body) = request.into_parts();
        for (name, value) in &self.shared.own.headers() {
            head.headers.insert(name, value.clone());
        }
        exchange(connection, Request::from_parts(head, body), wait).await
    }
}

/// One question and its whole answer.
async fn exchange(
    connection: &mut Connection,
    request: Request<Bytes>,
    wait: Duration,
) -> Result<Response<Bytes>, AskError> {
    let answer = connection.send(request.map(Full::new), wait).await?;
    let (head, body) = answer.into_parts();
    let body = dial::read_up_to(ANSWER_BYTES_MAX, body, wait).await?;
    Ok(Response::from_parts(head, body))
}

/// Asks whoever is at a peer URL, who need not know this member, at most for as long as `wait`.
///
/// # Errors
///
/// [`AskError`]; an answer with another status than 200 is one.
pub async fn get(
    url: &str,
    path: &'static str,
    wait: Duration,
) -> Result<Response<Bytes>, AskError> {
    let timeouts = PeerTimeouts {
        dial: wait,
        read: wait,
        write: wait,
    };
    let mut connection = Connection::open(url, &timeouts).await?;
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = Uri::from_static(path);
    let answer = exchange(&mut connection, request, wait).await?;
    if answer.status() != StatusCode::OK {
        let text = format!("it answers {}", answer.status());
        return Err(AskError::Connection(text));
    }
    Ok(answer)
}

async fn open(peer: &Peer, timeouts: &PeerTimeouts) -> Result<Connection, AskError> {
    let url = peer.url().ok_or(AskError::Unknown(peer.id))?;
    match Connection::open(&url, timeouts).await {
        Ok(connection) => Ok(connection),
        Err(error) => {
            peer.unreachable(&url);
            Err(error.into())
        }
    }
}

/// Connections to one peer that are kept for later. More are opened when more questions are under
/// way, and closed after them.
const IDLE_MAX: usize = 16;

/// Bytes of an answer: it may name all keys of a lease. etcd's bound.
const ANSWER_BYTES_MAX: usize = 100 * 1024 * 1024;
