//! Threads for long work that requests must not feel: the scheduler lets all others go first.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

/// Nice value of long work for one client or of upkeep: about a ninth of what a request's threads
/// get when both want the same core, and all of a core that is idle.
const NICE: i32 = 10;

/// Nice value of the merging of tables. It must keep up with writes in the long run, so it gets a
/// third.
const NICE_OF_MERGES: i32 = 5;

/// Starts a thread for long work. Threads of Linux have their nice values each for itself, and
/// cannot take a lower one back: this needs a thread of its own, not one of a pool.
///
/// # Errors
///
/// That the system has no thread left.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(|| {
        step_back(NICE);
        work();
    })
}

/// Does long work on a thread of its own. None when there is no thread for it, or when it panics.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, doing) = oneshot::channel();
    let started = spawn(name, move || {
        // Whoever asked may have gone away meanwhile.
        let _ = done.send(work());
    });
    if let Err(error) = started {
        tracing::warn!(%error, "cannot start a thread for {name}");
    }
    doing.await.ok()
}

/// Does long work on a thread of its own, and waits for it. Not for async threads.
///
/// # Errors
///
/// That the system has no thread left.
pub fn wait_for<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    aside(name, NICE, work)
}

/// Calls `start` on a thread whose children merge tables: they inherit its nice value.
pub fn start_merges<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    aside("merges", NICE_OF_MERGES, start).expect("the system has a thread left at a start")
}

/// Does `work` on a thread of its own that has stepped back, and waits for it.
fn aside<T: Send>(name: &str, nice: i32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name(name.to_owned());
        let worker = worker.spawn_scoped(scope, || {
            step_back(nice);
            work()
        })?;
        Ok(worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn step_back(nice: i32) {
    // A thread may always step back, down to a limit that some sandboxes set: then it is as eager
    // as the others, which costs latency only.
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::debug!(%error, "cannot lower the priority of a thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).expect("every thread has one")
    }

    #[tokio::test]
    async fn long_work_steps_back_and_its_starter_does_not() {
        let before = nice();
        let within = run("long", nice).await.expect("it runs");
        assert_eq!(within, NICE);
        assert_eq!(wait_for("long", nice).expect("it runs"), NICE);
        let child = || thread::spawn(nice).join().expect("it runs");
        assert_eq!(start_merges(child), NICE_OF_MERGES);
        assert_eq!(nice(), before);
    }

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        assert_eq!(run("panics", || panic!("as it should")).await, None::<()>);
    }
}
