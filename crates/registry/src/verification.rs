//! Verifying an image while its blobs are on their way: no manifest is written before both have ended well.

use std::sync::Arc;

use smokegate_image::Error as ImageError;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::Error;
use crate::push_run::Run;

/// Threads that read every layer of an image that is not known yet. They end early with their [`Run`].
pub(crate) struct Verification(JoinHandle<Result<(), ImageError>>);

impl Verification {
    /// Begins to read.
    pub(crate) fn begin(run: &Arc<Run>) -> Self {
        let run = Arc::clone(run);
        Self(spawn_blocking(move || run.verify()))
    }

    /// Carries `content` out meanwhile. A layer that is not what it should be ends both, and is what is told also
    /// where sending it failed first, so that the same image always fails in the same words.
    pub(crate) async fn beside<T>(
        self,
        content: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut reading = self.0;
        tokio::pin!(content);
        tokio::select! {
            verified = &mut reading => {
                outcome(verified)?;
                content.await
            }
            brought = &mut content => match brought {
                Ok(_) | Err(Error::Content { .. }) => outcome(reading.await).and(brought),
                Err(error) => Err(error),
            }
        }
    }
}

fn outcome(verified: Result<Result<(), ImageError>, tokio::task::JoinError>) -> Result<(), Error> {
    match verified {
        Ok(verified) => verified.map_err(Error::Image),
        // Nothing cancels it: this is a panic, passed on.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
