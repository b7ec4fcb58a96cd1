//! Carries a plan out: everything everywhere first, then the tags, one after the other.

use std::sync::Arc;

use smokegate_image::{Algorithm, Digest, Image};

use crate::archive_target::{ArchiveTarget, WrittenArchive};
use crate::layout_target::LayoutTarget;
use crate::push_content::Archives;
use crate::push_run::{EndOnDrop, Run};
use crate::tasks::blocking;
use crate::{
    Action, Destination, Error, Publisher, PushError, PushEvent, PushObserver, PushPlan,
    PushReport, TagPosition, TagState, Target, TargetReport,
};

impl Publisher {
    /// Carries out a plan that was made for `image`.
    ///
    /// # Errors
    /// When the push fails, with where every tag is now.
    pub async fn execute(
        &self,
        image: &Image,
        plan: &PushPlan,
        observer: Arc<dyn PushObserver>,
    ) -> Result<PushReport, PushError> {
        let run = Arc::new(Run::new(image, plan, observer));
        // Threads that write files are not ended with the tasks that wait for them.
        let _ended = EndOnDrop(Arc::clone(&run));
        let mut tags: Vec<TagState> = tag_states(plan);
        let mut archives = match self.content(&run, plan).await {
            Ok(archives) => archives,
            Err(source) => return Err(PushError { tags, source }),
        };
        for (index, target) in plan.targets().iter().enumerate() {
            if let Err(source) = self.move_tag(&run, plan, target, &mut archives).await {
                // An answer that was lost leaves open whether the move was made.
                tags[index].now = match self.resolve(target, image.digest().algorithm()).await {
                    Ok(Some(position)) => position,
                    Ok(None) => tags[index].was.clone(),
                    Err(_) => TagPosition::Unknown,
                };
                return Err(PushError { tags, source });
            }
            tags[index].now = TagPosition::At(image.digest().clone());
            let previous = previous(&tags[index]);
            let digest = image.digest();
            run.observer.event(PushEvent::TagDone {
                target,
                digest,
                previous,
            });
        }
        let targets = tags.into_iter().map(|tag| TargetReport {
            moved: tag.is_moved(),
            previous: previous(&tag).cloned(),
            target: tag.target,
        });
        let targets = targets.collect();
        Ok(PushReport {
            digest: image.digest().clone(),
            targets,
            destinations: run.reports(),
        })
    }

    async fn move_tag(
        &self,
        run: &Run,
        plan: &PushPlan,
        target: &Target,
        archives: &mut Archives,
    ) -> Result<(), Error> {
        let destination = target.destination();
        let is_kept = plan.steps().iter().any(|step| {
            step.destination == *destination
                && matches!(&step.action, Action::KeepTag { tag } if tag == target.tag())
        });
        if is_kept {
            return Ok(());
        }
        let root = run.image.root();
        match destination {
            Destination::Repository { .. } => {
                self.repository(destination)?
                    .put_tag(target.tag(), root)
                    .await
            }
            Destination::Layout(path) => {
                let (layout, tag, root) = (
                    LayoutTarget::new(path),
                    target.tag().to_owned(),
                    root.clone(),
                );
                blocking(move || layout.put_tag(&tag, &root)).await
            }
            Destination::Archive(path) => {
                // All tags of an archive appear with its name, when the first of them is due.
                let written = archives.remove(destination);
                let archive = ArchiveTarget::new(path);
                let (tag, expected) = (target.tag().to_owned(), root.digest.clone());
                let reference = target.to_string();
                blocking(move || {
                    written.map_or(Ok(()), WrittenArchive::publish)?;
                    let got = archive.resolve(&tag)?;
                    if got.as_ref() == Some(&expected) {
                        return Ok(());
                    }
                    Err(Error::ReadBack {
                        reference,
                        expected,
                        got,
                    })
                })
                .await
            }
        }
    }

    /// Where a tag is; `None` for an archive, which is replaced at once or not at all.
    async fn resolve(
        &self,
        target: &Target,
        algorithm: Algorithm,
    ) -> Result<Option<TagPosition>, Error> {
        let digest = match target.destination() {
            destination @ Destination::Repository { .. } => {
                self.repository(destination)?
                    .resolve_tag(target.tag(), algorithm)
                    .await?
            }
            Destination::Layout(path) => {
                let (layout, tag) = (LayoutTarget::new(path), target.tag().to_owned());
                blocking(move || layout.resolve(&tag)).await?
            }
            Destination::Archive(_) => return Ok(None),
        };
        Ok(Some(digest.into()))
    }
}

fn tag_states(plan: &PushPlan) -> Vec<TagState> {
    let was = |target: &Target| {
        let steps = plan
            .steps()
            .iter()
            .filter(|step| step.destination == *target.destination());
        let mut found = steps.filter_map(|step| match &step.action {
            Action::KeepTag { tag } if tag == target.tag() => Some(Some(plan.digest().clone())),
            Action::MoveTag { tag, from } if tag == target.tag() => Some(from.clone()),
            _ => None,
        });
        TagPosition::from(found.next().flatten())
    };
    let states = plan.targets().iter().map(|target| {
        let was = was(target);
        TagState {
            target: target.clone(),
            now: was.clone(),
            was,
        }
    });
    states.collect()
}

fn previous(tag: &TagState) -> Option<&Digest> {
    match &tag.was {
        TagPosition::At(digest) => Some(digest),
        TagPosition::Absent | TagPosition::Unknown => None,
    }
}
