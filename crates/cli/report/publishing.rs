//! What people see of a push: its events, its sum, and where every tag is when it failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use smokegate_image::{Digest, with_causes};
use smokegate_registry::{
    BlobCount, BlobOutcome, Destination, PushError, PushEvent, PushObserver, PushReport, TagState,
};

use super::progress::size;
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;

/// Set when everything is uploaded and the next thing to change is a tag. One process publishes once.
static TAGS_MOVE: AtomicBool = AtomicBool::new(false);

/// Whether a tag may be elsewhere than before, so that the push must not be broken off silently.
pub(crate) fn tags_are_moving() -> bool {
    TAGS_MOVE.load(Ordering::Relaxed)
}

/// From now on tags may move.
pub(crate) fn begin_moving() {
    TAGS_MOVE.store(true, Ordering::Relaxed);
}

/// Shows a push as it goes.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) printer: Printer,
    /// The document that tags will point to; it is written last before them.
    pub(crate) root: Option<Digest>,
}

impl PushObserver for Progress {
    fn event(&self, event: PushEvent<'_>) {
        match event {
            PushEvent::BlobRetried {
                destination,
                digest,
                reason,
            } => self.printer.step(format!(
                "publishing: {destination}: {} is tried again: {}",
                digest.short(),
                with_causes(reason)
            )),
            PushEvent::BlobLeft {
                destination,
                digest,
                reason,
            } => self.printer.step(format!(
                "publishing: {destination}: {} is left for after the verdict: {}",
                digest.short(),
                with_causes(reason)
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
                self.printer.detail(format!(
                    "publishing: {destination}: {} ({}) {how}",
                    digest.short(),
                    size(bytes)
                ));
            }
            PushEvent::ManifestDone { digest, .. } if self.root.as_ref() == Some(digest) => {
                TAGS_MOVE.store(true, Ordering::Relaxed);
            }
            PushEvent::TagPutBack { target } => {
                self.printer.step(format!("put back: {target}"));
            }
            PushEvent::TagDone {
                target,
                previous,
                digest,
            } => match previous {
                Some(previous) if previous == digest => {
                    self.printer
                        .step(format!("published: {target} (it was there already)"));
                }
                Some(previous) => {
                    self.printer
                        .step(format!("published: {target} (it was {})", previous.short()));
                }
                None => self.printer.step(format!("published: {target}")),
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

/// What was sent ahead of a verdict that cleared nothing, or of a push that failed.
pub(crate) fn sent_in_vain(printer: Printer, sent: &BTreeMap<Destination, BlobCount>) {
    for (destination, count) in sent {
        printer.always(format!(
            "{destination}: {} blobs ({}) were sent ahead, and no manifest refers to them; the registry removes them when it collects garbage",
            count.blobs,
            size(count.bytes)
        ));
    }
}

/// Where a tag was and is.
fn position(tag: &TagState) -> String {
    let mut line = format!("{}: was {}, is {}", tag.target, tag.was, tag.now);
    if tag.put_back {
        line.push_str(" (put back)");
    }
    if let Some(problem) = &tag.problem {
        line.push_str(&format!(" (not put back: {problem})"));
    }
    line
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A push that failed: the cause, and where every tag was and is.
pub(crate) fn failure(status: ExitStatus, error: &PushError) -> Failure {
    let mut failure = Failure::new(status, format!("{error}: {}", with_causes(&error.source)));
    let any_moved = error.tags.iter().any(|tag| tag.is_moved() || tag.put_back);
    if any_moved {
        for tag in &error.tags {
            failure = failure.evidence(position(tag));
        }
        failure.hint = match &error.journal {
            Some(journal) => {
                let resume = format!("smokegate push --resume {}", quoted(journal));
                Some(format!(
                    "to finish it: {resume}; to put the moved tags back: {resume} --undo"
                ))
            }
            None => error.source.hint().map(str::to_owned),
        };
    } else if status == ExitStatus::Image {
        failure = failure
            .evidence("no tag was moved")
            .hint("the image is corrupt, or its file was changed after it was opened");
    } else if status == ExitStatus::PublishFailed {
        failure = failure.evidence("no tag was moved");
        failure.hint = error.source.hint().map(str::to_owned);
    }
    failure
}
