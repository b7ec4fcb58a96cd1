//! Pipes for a command's standard streams, which are copied from and to ours: the command never holds a file,
//! directory or terminal of the host.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long output is waited for after the command ended: what it left behind may hold its streams open.
const DRAIN: Duration = Duration::from_secs(2);

/// The copying of a command's output.
#[derive(Debug)]
pub(super) struct Streams {
    /// Ends when all output was copied.
    copied: Receiver<()>,
}

impl Streams {
    /// Starts copying. Also gives the command's ends.
    pub(super) fn open() -> io::Result<(Self, [OwnedFd; 3])> {
        let (stdin, ours) = io::pipe()?;
        copy_input(ours)?;
        let (sender, copied) = channel();
        let output = |target: &dyn AsFd| -> io::Result<PipeWriter> {
            let (mut ours, theirs) = io::pipe()?;
            let mut target = File::from(target.as_fd().try_clone_to_owned()?);
            let sender = sender.clone();
            std::thread::spawn(move || {
                // Where nobody reads ours any more, the command sees it as the pipe is closed.
                let _ = io::copy(&mut ours, &mut target);
                drop((ours, sender));
            });
            Ok(theirs)
        };
        let stdout = output(&io::stdout())?;
        let stderr = output(&io::stderr())?;
        Ok((
            Self { copied },
            [stdin.into(), stdout.into(), stderr.into()],
        ))
    }

    /// Waits for the last output of a command that ended.
    pub(super) fn finish(self) {
        // No message is sent: it is disconnected when both copies have ended.
        let _ = self.copied.recv_timeout(DRAIN);
    }
}

/// Goes on until either side is closed, or this process ends.
fn copy_input(mut pipe: PipeWriter) -> io::Result<()> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    std::thread::spawn(move || io::copy(&mut stdin, &mut pipe));
    Ok(())
}
