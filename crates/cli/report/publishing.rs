//! What people see of a push: its events, its sum, and where every tag is when it failed.

use smokegate_registry::{BlobOutcome, PushError, PushEvent, PushObserver, PushReport};

use super::progress::size;
use crate::exit_code::ExitStatus;
use crate::failure::{Failure, chain};
use crate::printer::Printer;

/// Shows a push as it goes.
#[derive(Debug)]
pub(crate) struct Progress(pub(crate) Printer);

impl PushObserver for Progress {
    fn event(&self, event: PushEvent<'_>) {
        match event {
            PushEvent::BlobRetried {
                destination,
                digest,
                reason,
            } => self.0.step(format!(
                "publishing: {destination}: {} is tried again: {}",
                digest.short(),
                chain(reason)
            )),
            PushEvent::BlobDone {
                destination,
                digest,
                size: bytes,
                outcome,
            } => {
                let how = match outcome {
                    BlobOutcome::Uploaded => "uploaded",
                    BlobOutcome::Mounted => "mounted",
                    BlobOutcome::Present => "there already",
                };
                self.0.detail(format!(
                    "publishing: {destination}: {} ({}) {how}",
                    digest.short(),
                    size(bytes)
                ));
            }
            PushEvent::TagDone {
                target,
                previous,
                digest,
            } => match previous {
                Some(previous) if previous == digest => {
                    self.0
                        .step(format!("published: {target} (it was there already)"));
                }
                Some(previous) => {
                    self.0
                        .step(format!("published: {target} (it was {})", previous.short()));
                }
                None => self.0.step(format!("published: {target}")),
            },
            _ => {}
        }
    }
}

/// One line on what travelled.
pub(crate) fn summary(printer: Printer, report: &PushReport) {
    for destination in &report.destinations {
        printer.step(format!(
            "{}: {} blobs uploaded ({}), {} mounted, {} there already",
            destination.destination,
            destination.uploaded.blobs,
            size(destination.uploaded.bytes),
            destination.mounted.blobs,
            destination.present.blobs
        ));
    }
}

/// A push that failed: the cause, and where every tag was and is.
pub(crate) fn failure(status: ExitStatus, error: &PushError) -> Failure {
    let mut failure = Failure::new(status, format!("{error}: {}", chain(&error.source)));
    if error.tags_moved() {
        for tag in &error.tags {
            failure = failure.evidence(format!("{}: was {}, is {}", tag.target, tag.was, tag.now));
        }
        failure = failure.hint("run the same command again to move the remaining tags, or put the moved ones back by the digests above");
    } else if status == ExitStatus::PublishFailed {
        failure = failure.evidence("no tag was moved");
        failure.hint = error.source.hint().map(str::to_owned);
    }
    failure
}
