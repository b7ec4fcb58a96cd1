//! A container's output: line by line, with the time of each, to a file and the tail to memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::log_watch::LogWatch;
use crate::mask::Mask;

/// Lines kept for reports.
const TAIL_LINES: usize = 400;
/// A longer line is cut into several, so that one endless line cannot take all memory.
const MAX_LINE: usize = 16 * 1024;
/// A log file ends here; a container in a loop must not fill the runner's disk.
const MAX_FILE: u64 = 256 << 20;
/// How long to wait for the end of the pipes after the process ended; they close with it.
const DRAIN: Duration = Duration::from_secs(2);

/// Which of its outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line, without its line end. Bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Since the container started.
    pub at: Duration,
    /// Where it was written.
    pub stream: Stream,
    /// The text.
    pub text: String,
}

/// The last lines of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTail {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// How many lines there were in all.
    pub total: u64,
}

/// Reads a container's two pipes until they end.
pub(crate) struct LogCapture {
    shared: Arc<Mutex<Lines>>,
    readers: JoinSet<()>,
    /// How many of the pipes are read to their end.
    ended: watch::Sender<usize>,
}

/// Standard output and error.
const PIPES: usize = 2;

struct Lines {
    tail: VecDeque<LogLine>,
    total: u64,
    file: Option<BufWriter<File>>,
    written: u64,
    watch: Arc<LogWatch>,
    mask: Mask,
}

/// The ends of the pipes that become a container's standard output and error.
pub(crate) struct WriteEnds {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl LogCapture {
    /// Makes the pipes and starts reading. Without `file` only the tail is kept. Neither gets what `mask` hides;
    /// `watch` sees every line.
    pub(crate) fn start(
        file: Option<&Path>,
        watch: Arc<LogWatch>,
        mask: &Mask,
    ) -> io::Result<(Self, WriteEnds)> {
        let started = Instant::now();
        let file = file.map(File::create).transpose()?.map(BufWriter::new);
        let lines = Lines {
            tail: VecDeque::new(),
            total: 0,
            file,
            written: 0,
            watch,
            mask: mask.clone(),
        };
        let shared = Arc::new(Mutex::new(lines));
        let mut readers = JoinSet::new();
        let ended = watch::channel(0).0;
        let mut write_end = |stream| -> io::Result<OwnedFd> {
            let (sender, receiver) = pipe::pipe()?;
            let (shared, ended) = (Arc::clone(&shared), ended.clone());
            readers.spawn(async move {
                read_lines(receiver, stream, started, shared).await;
                ended.send_modify(|ended| *ended += 1);
            });
            sender.into_blocking_fd()
        };
        let ends = WriteEnds {
            stdout: write_end(Stream::Stdout)?,
            stderr: write_end(Stream::Stderr)?,
        };
        let capture = Self {
            shared,
            readers,
            ended,
        };
        Ok((capture, ends))
    }

    /// Waits until both pipes are read to their end, or for as long as an end is waited for.
    pub(crate) async fn is_read(&self) {
        let mut ended = self.ended.subscribe();
        let _ = tokio::time::timeout(DRAIN, ended.wait_for(|ended| *ended == PIPES)).await;
    }

    /// Waits for the last lines of a process that ended, then gives the tail.
    pub(crate) async fn finish(mut self) -> LogTail {
        let all = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN, all).await;
        self.tail()
    }

    /// The last lines so far; all lines so far are in the file then.
    pub(crate) fn tail(&self) -> LogTail {
        let mut lines = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut lines.file {
            let _ = file.flush();
        }
        LogTail {
            lines: lines.tail.iter().cloned().collect(),
            total: lines.total,
        }
    }
}

async fn read_lines(
    mut pipe: pipe::Receiver,
    stream: Stream,
    started: Instant,
    shared: Arc<Mutex<Lines>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut line = Vec::new();
    let mut longest = MAX_LINE;
    loop {
        let count = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let at = started.elapsed();
        let mut lines = shared.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in &buffer[..count] {
            if byte == b'\n' {
                lines.push(at, stream, &line);
                line.clear();
                longest = MAX_LINE;
            } else if line.len() >= longest {
                // What may be the start of a secret's value stays, so that no line ends within one.
                let settled = lines.mask.settled(&line);
                if settled > 0 {
                    lines.push(at, stream, &line[..settled]);
                    line.drain(..settled);
                }
                longest = MAX_LINE.max(line.len() * 2);
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
        // `smokegate logs` reads the file meanwhile.
        if let Some(file) = &mut lines.file {
            let _ = file.flush();
        }
    }
    if !line.is_empty() {
        let mut lines = shared.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(started.elapsed(), stream, &line);
    }
}

impl Lines {
    fn push(&mut self, at: Duration, stream: Stream, bytes: &[u8]) {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = String::from_utf8_lossy(&self.mask.bytes(bytes)).into_owned();
        self.total += 1;
        if let Some(file) = &mut self.file
            && self.written < MAX_FILE
        {
            let name = match stream {
                Stream::Stdout => "out",
                Stream::Stderr => "err",
            };
            let line = format!("{:10.3} {name} {text}\n", at.as_secs_f64());
            self.written += line.len() as u64;
            let full = self.written >= MAX_FILE;
            let note = if full {
                "(the log is cut here: 256 MiB)\n"
            } else {
                ""
            };
            // A full disk must not end the run: the verdict does not depend on the log file.
            let _ = file
                .write_all(line.as_bytes())
                .and_then(|()| file.write_all(note.as_bytes()));
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        let line = LogLine { at, stream, text };
        // The pattern of what must not be logged may be a secret itself.
        self.watch.see(&String::from_utf8_lossy(bytes), &line);
        self.tail.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_line_is_kept_in_order_and_the_last_needs_no_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        let (capture, ends) =
            LogCapture::start(Some(&path), LogWatch::none(), &Mask::default()).unwrap();
        let writer = std::thread::spawn(move || {
            let mut stdout = File::from(ends.stdout);
            for number in 0..5_000 {
                writeln!(stdout, "line {number}").unwrap();
            }
            File::from(ends.stderr)
                .write_all(b"bad \xff byte\r\nlast words")
                .unwrap();
        });
        writer.join().unwrap();
        let tail = capture.finish().await;
        assert_eq!(tail.total, 5_002);
        assert_eq!(tail.lines.len(), TAIL_LINES);
        let texts: Vec<_> = tail.lines.iter().map(|line| line.text.as_str()).collect();
        for expected in ["line 4999", "bad \u{fffd} byte", "last words"] {
            assert!(texts.contains(&expected), "{expected}");
        }
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().lines().count(),
            5_002
        );
    }

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let (capture, ends) = LogCapture::start(None, LogWatch::none(), &Mask::default()).unwrap();
        drop(ends.stderr);
        let writer = std::thread::spawn(move || {
            File::from(ends.stdout)
                .write_all(&vec![b'x'; MAX_LINE * 3 + 5])
                .unwrap();
        });
        writer.join().unwrap();
        let tail = capture.finish().await;
        let lengths: Vec<_> = tail.lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, MAX_LINE, 5]);
    }
}
