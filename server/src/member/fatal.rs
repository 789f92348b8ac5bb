//! Stops the process when going on would risk what was promised.

use std::thread;

/// Ends the process at once, with `reason` in the log and on the error stream.
///
/// After a failed write or fsync of the log nobody knows what is on disk: the system may have
/// marked the pages clean, so that a second fsync would succeed without having written them. No
/// acknowledgement may follow. The process does not unwind and runs no exit handlers, which might
/// write.
pub fn fatal(reason: &str) -> ! {
    tracing::error!(reason, "the member stops");
    assert!(
        !crate::planted::is_simulated(),
        "the member stops: {reason}"
    );
    eprintln!("trilith: the member stops: {reason}");
    std::process::abort()
}

/// Makes a panic of the thread that holds it fatal to the process, also where panics unwind.
pub(crate) struct FatalOnPanic(
    /// Name of the thread.
    pub(crate) &'static str,
);

impl Drop for FatalOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            fatal(&format!("the {} thread has panicked", self.0));
        }
    }
}
