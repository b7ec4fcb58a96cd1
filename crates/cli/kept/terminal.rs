//! The user's terminal connected to one in the container, as `docker exec -it` does it: what is typed goes in, what the
//! command shows comes out.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::termios::{OptionalActions, Termios};
use smokegate_sandbox::TerminalSize;
use tokio::signal::unix::{SignalKind, signal};

/// The size of the user's terminal; `None` where standard input or output is none.
pub(super) fn size() -> Option<TerminalSize> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// The user's terminal, raw until this is dropped.
#[derive(Debug)]
pub(super) struct Terminal {
    before: Termios,
    shown: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Connects it to the container's, by the controlling end of that one.
    pub(super) fn connect(controller: OwnedFd) -> io::Result<Self> {
        let stdin = io::stdin();
        let before = rustix::termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        let mut terminal = Self {
            before,
            shown: None,
        };
        let controller = File::from(controller);
        let (mut typed, mut shown) = (controller.try_clone()?, controller.try_clone()?);
        let mut stdin = File::from(stdin.as_fd().try_clone_to_owned()?);
        std::thread::spawn(move || io::copy(&mut stdin, &mut typed));
        std::thread::spawn(move || follow_size(&controller));
        terminal.shown = Some(std::thread::spawn(move || {
            let mut stdout = io::stdout().lock();
            // Ends with EIO when nobody has the other end open any more (pty(7)).
            let _ = io::copy(&mut shown, &mut stdout);
            let _ = stdout.flush();
        }));
        Ok(terminal)
    }

    /// Waits for the last output of a command that ended.
    pub(super) fn finish(mut self) {
        if let Some(shown) = self.shown.take() {
            let _ = shown.join();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Passes every change of the window's size on. A size that cannot be read or set stays as it was.
fn follow_size(controller: &File) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let _ = runtime.map(|runtime| {
        runtime.block_on(async {
            let Ok(mut changes) = signal(SignalKind::window_change()) else {
                return;
            };
            while changes.recv().await.is_some() {
                if let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) {
                    let _ = rustix::termios::tcsetwinsize(controller, size);
                }
            }
        });
    });
}
