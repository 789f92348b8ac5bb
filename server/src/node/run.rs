//! Runs a member until it is told to stop: one life after the other, since a snapshot that another
//! member sends is put in place while nothing runs.
//!
//! The sockets stay open all the while, so that whoever connects in between is served by the next
//! life. Each life has runtimes of its own, and all that a life has held is gone with them.

use std::future::Future;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::error::NodeError;
use super::peers::PeerRuntime;
use super::serve::{Ended, serve};
use crate::api::Reuse;
use crate::config::{Config, MemberUrl};
use crate::metrics::Metrics;
use crate::storage::Closed;

/// Serves `config`'s member until `shutdown` resolves; then finishes what is in flight and closes.
///
/// Runs within a tokio runtime, which has nothing to do but to wait.
///
/// # Errors
///
/// When the member cannot start. Once it runs, what it cannot go on from ends the process.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), NodeError> {
    let bound = Bound {
        peers: listen(&config, &config.listen_peer_urls, "serving peer traffic")?,
        clients: listen(
            &config,
            &config.listen_client_urls,
            "serving client traffic",
        )?,
    };
    let config = Arc::new(config);
    // What is counted goes on from one life to the next.
    let metrics = Metrics::new();
    let (stop, stopped) = watch::channel(false);
    let told = tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // Whoever listens later would take a sender that is gone for nobody.
        stop.closed().await;
    });
    let ended = loop {
        match live(&config, &bound, &metrics, stopped.clone()).await {
            Ok(true) => tracing::info!("starting again, with the state of a snapshot"),
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    told.abort();
    ended
}

/// One life; tells whether another one follows.
async fn live(
    config: &Arc<Config>,
    bound: &Bound,
    metrics: &Metrics,
    stopped: watch::Receiver<bool>,
) -> Result<bool, NodeError> {
    let peer_runtime = PeerRuntime::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let life = {
        let sockets = bound.sockets(&runtime, &peer_runtime)?;
        let (config, metrics) = (config.clone(), metrics.clone());
        runtime.spawn(async move {
            let ended = serve(config, sockets, &peer_runtime, metrics, stopped).await;
            (ended, peer_runtime)
        })
    };
    let (ended, peer_runtime) = life.await.expect("a panic ends the process");
    match ended {
        Ok(Ended::ForSnapshot(closed)) => {
            let ending = tokio::task::spawn_blocking(move || end(runtime, peer_runtime, &closed));
            ending.await.expect("ending does not panic")?;
            Ok(true)
        }
        stopped => {
            // Nothing that still runs is waited for by anybody.
            runtime.shutdown_background();
            stopped.map(|_stopped| false)
        }
    }
}

/// Waits until nothing of a life is left that could hold its state open.
fn end(runtime: Runtime, peer_runtime: PeerRuntime, closed: &Closed) -> Result<(), NodeError> {
    let give_up = Instant::now() + END_TIME_MAX;
    peer_runtime.end();
    runtime.shutdown_timeout(END_TIME_MAX);
    while !closed.get() {
        if Instant::now() > give_up {
            return Err(NodeError::StillOpen(END_TIME_MAX));
        }
        std::thread::sleep(END_LOOK);
    }
    Ok(())
}

/// The sockets of all lives.
struct Bound {
    peers: Vec<StdListener>,
    clients: Vec<StdListener>,
}

/// The sockets as one life has them.
pub(super) struct Sockets {
    pub(super) peers: Vec<TcpListener>,
    pub(super) clients: Vec<TcpListener>,
}

impl Bound {
    fn sockets(&self, runtime: &Runtime, peer_runtime: &PeerRuntime) -> std::io::Result<Sockets> {
        let clone = |all: &[StdListener]| -> std::io::Result<Vec<TcpListener>> {
            let cloned = all
                .iter()
                .map(|one| TcpListener::from_std(one.try_clone()?));
            cloned.collect()
        };
        let peers = {
            let _within = peer_runtime.handle().enter();
            clone(&self.peers)?
        };
        let _within = runtime.enter();
        Ok(Sockets {
            peers,
            clients: clone(&self.clients)?,
        })
    }
}

fn listen(config: &Config, urls: &[MemberUrl], what: &str) -> Result<Vec<StdListener>, NodeError> {
    let mut listeners = Vec::new();
    for url in urls {
        let address = url
            .bind_address()
            .expect("the configuration was checked to name addresses");
        let reuse = Reuse {
            port: config.socket_reuse_port,
        };
        let listener = crate::api::bind(address, reuse)
            .map_err(|error| NodeError::Listen { address, error })?;
        tracing::info!(%address, "{what}");
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Far longer than what runs needs to notice that it ends.
const END_TIME_MAX: Duration = Duration::from_secs(60);

const END_LOOK: Duration = Duration::from_millis(5);
