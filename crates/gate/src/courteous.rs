//! Work beside a run that gives way to it.

use std::io;

use tokio::sync::oneshot;

/// How much it gives way (nice(2)).
const NICENESS: i32 = 10;

/// Does `work` at a low priority, on a thread of its own: the runtime's are used again, and a priority cannot be taken
/// back. Threads that `work` starts have that priority too. What comes of it can be received; dropping the receiver
/// ends nothing.
///
/// # Errors
/// When the thread cannot be started; `work` was not begun then.
pub fn spawn_courteous<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Of this thread alone, as Linux has it; a refusal costs nothing but the courtesy.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            // Whoever waited may be gone.
            let _ = sender.send(work());
        })?;
    Ok(receiver)
}
