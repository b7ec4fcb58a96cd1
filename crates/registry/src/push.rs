//! Carries a plan out: everything everywhere first, then the tags, as one transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smokegate_image::{Digest, Image};

use crate::push_content::Archives;
use crate::push_run::{EndOnDrop, Run};
use crate::tag_moves::TagMoves;
use crate::verification::Verification;
use crate::{
    Action, Error, Publisher, PushError, PushObserver, PushOptions, PushPlan, PushReport,
    PushTimings, TagPosition, TagState, Target, TargetReport,
};

impl Publisher {
    /// Carries out a plan that was made for `image`, and verifies meanwhile what of the image is not known yet
    /// ([`PushOptions::known_layers`]): nothing but blobs is written before that has ended well.
    ///
    /// # Errors
    /// When the push fails, with where every tag is now.
    pub async fn execute(
        &self,
        image: &Image,
        plan: &PushPlan,
        options: &PushOptions,
        observer: Arc<dyn PushObserver>,
    ) -> Result<PushReport, PushError> {
        let run = Arc::new(Run::new(image, plan, options, Arc::clone(&observer)));
        // Threads that write files are not ended with the tasks that wait for them.
        let _ended = EndOnDrop(Arc::clone(&run));
        let tags: Vec<TagState> = tag_states(plan);
        let failed = |tags: Vec<TagState>, content_is_there| {
            move |source| PushError {
                tags,
                source: Box::new(source),
                journal: None,
                content_is_there,
            }
        };
        let began = Instant::now();
        let archives = match Box::pin(self.content(&run, plan)).await {
            Ok(archives) => archives,
            Err(source) => return Err(failed(tags, false)(source)),
        };
        let uploaded = Instant::now();
        let moves = TagMoves::prepare(self, plan, image, tags.clone(), archives)
            .await
            .map_err(failed(tags, true))?;
        let tags = Box::pin(moves.carry_out(options, observer)).await?;
        let targets = tags.into_iter().map(|tag| TargetReport {
            moved: tag.is_moved(),
            previous: previous(&tag).cloned(),
            target: tag.target,
        });
        Ok(PushReport {
            digest: image.digest().clone(),
            targets: targets.collect(),
            destinations: run.reports(),
            timings: PushTimings {
                plan: Duration::ZERO,
                upload: uploaded - began,
                tags: uploaded.elapsed(),
            },
        })
    }

    /// Brings blobs and manifests to every destination: the blobs while the image is verified, the manifests when
    /// it was.
    async fn content(&self, run: &Arc<Run>, plan: &PushPlan) -> Result<Archives, Error> {
        let verification = Verification::begin(run);
        let archives = verification.beside(self.blobs(run, plan)).await?;
        self.manifests(run, plan).await?;
        Ok(archives)
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
            put_back: false,
            problem: None,
        }
    });
    states.collect()
}

pub(crate) fn previous(tag: &TagState) -> Option<&Digest> {
    match &tag.was {
        TagPosition::At(digest) => Some(digest),
        TagPosition::Absent | TagPosition::Unknown => None,
    }
}
