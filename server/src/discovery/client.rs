//! A client of the discovery service, which is a cluster of etcd or Trilith: it asks whichever of
//! the endpoints answers.

use std::error::Error;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use trilith_proto::etcdserverpb::auth_client::AuthClient;
use trilith_proto::etcdserverpb::kv_client::KvClient;
use trilith_proto::etcdserverpb::watch_client::WatchClient;
use trilith_proto::etcdserverpb::watch_request::RequestUnion;
use trilith_proto::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};

use super::service::ServiceError;
use crate::discovery_service::{Credentials, DiscoveryService};

pub(super) struct Client {
    channel: Channel,
    request_timeout: Duration,
    dial_timeout: Option<Duration>,
    credentials: Option<Credentials>,
    token: Option<MetadataValue<Ascii>>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Nobody has answered in time. (Go's words.)
    #[error("context deadline exceeded")]
    TimedOut,
    /// The service's own words.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// Connects when something is asked, to all endpoints. Within a runtime.
    ///
    /// # Errors
    ///
    /// When an endpoint is no address.
    pub(super) fn new(service: &DiscoveryService) -> Result<Self, ServiceError> {
        let endpoint = |text: &String| {
            let parsed = Endpoint::from_shared(format!("http://{text}"));
            let parsed =
                parsed.map_err(|error| ServiceError::Endpoint(text.clone(), error.to_string()))?;
            let endpoint = parsed
                .connect_timeout(CONNECT_TIME_MAX)
                .keep_alive_timeout(service.keepalive_timeout.unwrap_or(CONNECT_TIME_MAX));
            Ok(match service.keepalive_time {
                Some(time) => endpoint.http2_keep_alive_interval(time.max(PING_TIME_MIN)),
                None => endpoint,
            })
        };
        let endpoints = service.endpoints.iter().map(endpoint);
        let endpoints = endpoints.collect::<Result<Vec<_>, ServiceError>>()?;
        Ok(Self {
            channel: Channel::balance_list(endpoints.into_iter()),
            request_timeout: service.request_timeout,
            dial_timeout: service.dial_timeout,
            credentials: service.credentials.clone(),
            token: None,
        })
    }

    /// Gets a token for the calls that follow; a service without authentication needs none.
    pub(super) async fn authenticate(&mut self) -> Result<(), CallError> {
        let Some(Credentials { user, password }) = self.credentials.clone() else {
            return Ok(());
        };
        self.token = None;
        let request = AuthenticateRequest {
            name: user,
            password,
        };
        let call = async |channel, request| AuthClient::new(channel).authenticate(request).await;
        match self.until_answered(self.dial_timeout, request, call).await {
            Ok(answer) => {
                let bad = |_| CallError::Refused("the service's token is not text".to_owned());
                self.token = Some(answer.token.parse().map_err(bad)?);
                Ok(())
            }
            Err(CallError::Refused(text)) if text == NOT_ENABLED => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The keys from `key` on to the end, which is excluded; none means `key` alone.
    pub(super) async fn range(
        &mut self,
        key: &str,
        end: Option<Vec<u8>>,
    ) -> Result<RangeResponse, CallError> {
        let request = RangeRequest {
            key: key.to_owned().into(),
            range_end: end.unwrap_or_default().into(),
            ..Default::default()
        };
        let call = async |channel, request| kv(channel).range(request).await;
        self.call(request, call).await
    }

    pub(super) async fn put(&mut self, key: &str, value: &str) -> Result<(), CallError> {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let call = async |channel, request| kv(channel).put(request).await;
        self.call(request, call).await.map(drop)
    }

    /// What becomes of the keys in a range, from a revision on. A token may have aged while nothing
    /// was asked, so a watch gets a new one.
    pub(super) async fn watch(
        &mut self,
        key: &str,
        end: Vec<u8>,
        from: i64,
    ) -> Result<Streaming<WatchResponse>, CallError> {
        self.authenticate().await?;
        let create = WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: end.into(),
            start_revision: from,
            ..Default::default()
        };
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let call = async |channel, request: Request<WatchRequest>| {
            // The stream of requests stays open: its end would be that of the watch.
            let (metadata, extensions, create) = request.into_parts();
            let requests = tokio_stream::once(create).chain(tokio_stream::pending());
            let mut watch = WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            let request = Request::from_parts(metadata, extensions, requests);
            watch.watch(request).await
        };
        self.call(create, call).await
    }

    /// Asks with a token; once more with a new one if it was too old.
    async fn call<M: Clone, T>(
        &mut self,
        message: M,
        once: impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, CallError> {
        let wait = Some(self.request_timeout);
        match self.until_answered(wait, message.clone(), &once).await {
            Err(CallError::Refused(text))
                if self.credentials.is_some() && OLD_TOKENS.contains(&text.as_str()) =>
            {
                self.authenticate().await?;
                self.until_answered(wait, message, &once).await
            }
            answered => answered,
        }
    }

    /// Asks again while nobody is there. All that is asked may be asked twice.
    async fn until_answered<M: Clone, T>(
        &self,
        wait: Option<Duration>,
        message: M,
        once: impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, CallError> {
        let mut unavailable = None;
        let answered = async {
            let mut pause = PAUSE_MIN;
            loop {
                let mut request = Request::new(message.clone());
                if let Some(token) = &self.token {
                    request.metadata_mut().insert(TOKEN, token.clone());
                }
                match once(self.channel.clone(), request).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) if status.code() == Code::Unavailable => {
                        unavailable = Some(reason(&status));
                    }
                    Err(status) => return Err(CallError::Refused(reason(&status))),
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        let Some(wait) = wait else {
            return answered.await;
        };
        if let Ok(answered) = timeout(wait, answered).await {
            return answered;
        }
        if let Some(error) = unavailable {
            tracing::warn!(error, "the discovery service is unavailable");
        }
        Err(CallError::TimedOut)
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// The service's words, or what went wrong on the way to it.
fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Carries the token, as etcd's clients send it.
const TOKEN: &str = "token";

/// What etcd says where a token is neither needed nor given.
const NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

/// What etcd says of a token that has aged, or is gone with the leader that gave it.
const OLD_TOKENS: [&str; 3] = [
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
];

/// How long connecting to one endpoint may take, as in Go's gRPC; the others are tried meanwhile.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);

/// Go's gRPC pings no more often, whatever it is told, and etcd turns away who does.
const PING_TIME_MIN: Duration = Duration::from_secs(10);

/// Between two tries of a call for which nobody is there.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A cluster has a handful of members; anything near this is no answer to take in.
const ANSWER_BYTES_MAX: usize = 64 << 20;
