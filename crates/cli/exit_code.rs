//! The exit codes that scripts rely on.

/// How the command ended, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Passed, and published where asked.
    Success = 0,
    /// The gate failed: the image is at fault, nothing was published.
    GateFailed = 1,
    /// Usage is wrong, or a named file is not there.
    Usage = 2,
    /// This host, or the isolation level it allows, cannot judge the image.
    Host = 3,
    /// A service or another source failed; the image was not judged.
    Infrastructure = 4,
    /// The image cannot be read: corrupt, truncated, unsupported.
    Image = 5,
    /// Publishing failed and no tag was moved.
    PublishFailed = 6,
    /// Publishing failed after a tag was moved.
    PublishedPartly = 7,
    /// A bug in smokegate.
    Bug = 101,
    /// Interrupted by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl ExitStatus {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
