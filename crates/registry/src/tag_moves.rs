//! The second phase of a push: tags move one after the other, and back again if one of them cannot.
//!
//! No registry moves several tags at once, so a reader may see some moved and some not; what can be had is that
//! it does not stay so.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use smokegate_image::{Digest, Document, Image};

use crate::archive_target::{ArchiveTarget, WrittenArchive};
use crate::auth::Access;
use crate::journal::{Entry, Journal, Kept, Move, Moves, Old};
use crate::layout_target::LayoutTarget;
use crate::manifest::{ServedManifest, digest};
use crate::push::previous;
use crate::push_content::Archives;
use crate::tasks::blocking;
use crate::{
    Action, Destination, Error, Publisher, PushError, PushEvent, PushObserver, PushOptions,
    PushPlan, TagPosition, TagState, Target,
};

/// The moves of one push, and how far they have come.
pub(crate) struct TagMoves<'a> {
    publisher: &'a Publisher,
    moves: Moves,
    root: Document,
    /// All tags of the push in their order; those that are there already have no move.
    tags: Vec<TagState>,
    archives: Archives,
    /// Whether an earlier process may have made some of the moves.
    resumed: bool,
}

impl<'a> TagMoves<'a> {
    /// Looks at every tag that will move, and keeps what it takes to put it back.
    pub(crate) async fn prepare(
        publisher: &'a Publisher,
        plan: &PushPlan,
        image: &Image,
        mut tags: Vec<TagState>,
        archives: Archives,
    ) -> Result<Self, Error> {
        let has = |target: &Target, wanted: &Action| {
            let destination = target.destination();
            let mut steps = plan.steps().iter();
            steps.any(|step| step.destination == *destination && step.action == *wanted)
        };
        let mut moves = Vec::new();
        let mut published = BTreeSet::new();
        for tag in &mut tags {
            let target = tag.target.clone();
            let name = target.tag().to_owned();
            if has(&target, &Action::KeepTag { tag: name.clone() }) {
                continue;
            }
            let was = match target.destination() {
                destination @ Destination::Repository { .. } => {
                    let repository = publisher.repository(destination)?;
                    let access = Access::push(&repository.name);
                    let found = repository.get_manifest(&name, &access).await?;
                    let kept = found.map(|ServedManifest { bytes, media_type }| Kept {
                        digest: digest(image.digest().algorithm(), &bytes),
                        media_type,
                        bytes,
                    });
                    // What it is now is what it is put back to.
                    tag.was = kept.as_ref().map(|kept| kept.digest.clone()).into();
                    tag.now = tag.was.clone();
                    kept.map_or(Old::Absent, Old::Manifest)
                }
                Destination::Layout(path) => {
                    let layout = LayoutTarget::new(path);
                    let found = blocking(move || layout.entry(&name)).await?;
                    found.map_or(Old::Absent, Old::Entry)
                }
                Destination::Archive(path) => {
                    if published.insert(path.clone()) {
                        let name = ArchiveTarget::new(path).backup_name();
                        name.map_or(Old::Absent, Old::File)
                    } else {
                        Old::WithFirst
                    }
                }
            };
            let digest = image.digest().clone();
            moves.push(Move {
                root_is_new: has(&target, &Action::PutManifest { digest }),
                target,
                was,
            });
        }
        Ok(Self {
            publisher,
            moves: Moves::new(Kept::of(image.root()), moves),
            root: image.root().clone(),
            tags,
            archives,
            resumed: false,
        })
    }

    /// The moves of a journal. What was made of them is seen when each is looked at.
    pub(crate) fn resumed(publisher: &'a Publisher, moves: Moves) -> Self {
        let tags = moves.moves.iter().map(|tag| {
            let was = match &tag.was {
                Old::Manifest(kept) => TagPosition::At(kept.digest.clone()),
                Old::Entry(entry) => match entry["digest"].as_str().map(str::parse) {
                    Some(Ok(digest)) => TagPosition::At(digest),
                    _ => TagPosition::Unknown,
                },
                Old::Absent | Old::File(_) | Old::WithFirst => TagPosition::Absent,
            };
            TagState {
                target: tag.target.clone(),
                now: TagPosition::Unknown,
                was,
                put_back: false,
                problem: None,
            }
        });
        Self {
            publisher,
            tags: tags.collect(),
            root: moves.root.document(),
            moves,
            archives: Archives::new(),
            resumed: true,
        }
    }

    /// Moves the tags; puts them back if one cannot be moved, unless that is not wanted.
    pub(crate) async fn carry_out(
        self,
        options: &PushOptions,
        observer: Arc<dyn PushObserver>,
    ) -> Result<Vec<TagState>, PushError> {
        let journal = match &options.journal_dir {
            Some(directory) if !self.moves.moves.is_empty() => {
                let (directory, moves) = (directory.clone(), self.moves.clone());
                match blocking(move || Journal::begin(&directory, &moves)).await {
                    Ok(journal) => Some(journal),
                    Err(source) => return Err(self.into_error(source, None)),
                }
            }
            _ => None,
        };
        self.go_on(options, journal, observer).await
    }

    /// The same with a journal that is there already.
    pub(crate) async fn go_on(
        mut self,
        options: &PushOptions,
        journal: Option<Journal>,
        observer: Arc<dyn PushObserver>,
    ) -> Result<Vec<TagState>, PushError> {
        for index in 0..self.tags.len() {
            if let Err(source) = self.advance(index, journal.as_ref()).await {
                // An answer that was lost leaves open whether the move was made.
                self.tags[index].now = self.position(index).await;
                if options.rollback {
                    self.put_back(journal.as_ref(), &observer).await;
                }
                return Err(self.into_error(source, journal));
            }
            let tag = &mut self.tags[index];
            tag.now = TagPosition::At(self.root.digest.clone());
            let tag = &self.tags[index];
            observer.event(PushEvent::TagDone {
                target: &tag.target,
                digest: &self.root.digest,
                previous: previous(tag),
            });
        }
        self.forget(journal);
        Ok(self.tags)
    }

    /// Puts every tag back that points to the image.
    pub(crate) async fn undo(
        mut self,
        journal: Journal,
        observer: Arc<dyn PushObserver>,
    ) -> Result<Vec<TagState>, PushError> {
        for index in 0..self.tags.len() {
            self.tags[index].now = self.position(index).await;
        }
        self.put_back(Some(&journal), &observer).await;
        let problem = |tag: &TagState| match tag.now {
            TagPosition::Unknown => Some(format!("`{}` cannot be read", tag.target)),
            _ => tag.problem.clone(),
        };
        let left = self.tags.iter().find_map(problem);
        match left {
            Some(reason) => Err(self.into_error(Error::TagStays { reason }, Some(journal))),
            None => {
                self.forget(Some(journal));
                Ok(self.tags)
            }
        }
    }

    /// Makes one move, if it is still to be made.
    async fn advance(&mut self, index: usize, journal: Option<&Journal>) -> Result<(), Error> {
        let target = self.tags[index].target.clone();
        let Some(was) = self.old(&target).cloned() else {
            return Ok(());
        };
        if self.resumed {
            let now = self.resolve(&target).await?;
            let ours = TagPosition::At(self.root.digest.clone());
            if now == ours {
                return Ok(());
            }
            if let Destination::Archive(path) = target.destination() {
                return Err(Error::NotThere {
                    destination: format!("oci-archive:{}", path.display()),
                    digest: self.root.digest.clone(),
                });
            }
            if now != self.tags[index].was {
                return Err(Error::TagElsewhere {
                    reference: target.to_string(),
                    now: now.to_string(),
                });
            }
            self.check_content(&target).await?;
        }
        if let Some(journal) = journal {
            journal.note(&target, Entry::Moving)?;
        }
        let (tag, root) = (target.tag().to_owned(), self.root.clone());
        match target.destination() {
            destination @ Destination::Repository { .. } => {
                let repository = self.publisher.repository(destination)?;
                repository.put_tag(&tag, &root).await?;
            }
            Destination::Layout(path) => {
                let layout = LayoutTarget::new(path);
                blocking(move || layout.put_tag(&tag, &root)).await?;
            }
            destination @ Destination::Archive(path) => {
                // All tags of an archive appear with its name, when the first of them is due.
                let written = self.archives.remove(destination);
                let archive = ArchiveTarget::new(path);
                let reference = target.to_string();
                blocking(move || {
                    if let Old::File(backup) = &was {
                        archive.keep(backup)?;
                    }
                    written.map_or(Ok(()), WrittenArchive::publish)?;
                    let got = archive.resolve(&tag)?;
                    if got.as_ref() == Some(&root.digest) {
                        return Ok(());
                    }
                    Err(Error::ReadBack {
                        reference,
                        expected: root.digest,
                        got,
                    })
                })
                .await?;
            }
        }
        // What is not noted is asked of the registry.
        if let Some(Err(error)) = journal.map(|journal| journal.note(&target, Entry::Moved)) {
            tracing::debug!(%error, "the journal does not say that a tag was moved");
        }
        Ok(())
    }

    /// A resumed push did not bring the content itself.
    async fn check_content(&self, target: &Target) -> Result<(), Error> {
        let destination = target.destination();
        let there = match destination {
            Destination::Repository { .. } => {
                let repository = self.publisher.repository(destination)?;
                repository.has_document(&self.root).await?
            }
            Destination::Layout(path) => {
                let layout = LayoutTarget::new(path);
                let root = self.root.clone();
                blocking(move || Ok(layout.has_document(&root))).await?
            }
            Destination::Archive(_) => false,
        };
        if there {
            return Ok(());
        }
        Err(Error::NotThere {
            destination: destination.to_string(),
            digest: self.root.digest.clone(),
        })
    }

    /// Puts tags back in reverse, each only where it still points to the image.
    async fn put_back(&mut self, journal: Option<&Journal>, observer: &Arc<dyn PushObserver>) {
        for index in (0..self.tags.len()).rev() {
            let tag = &self.tags[index];
            let target = tag.target.clone();
            let Some(was) = self.old(&target).cloned() else {
                continue;
            };
            if !tag.is_moved() || was == Old::WithFirst {
                continue;
            }
            let now = self.position(index).await;
            let ours = now == TagPosition::At(self.root.digest.clone());
            // Some registries take all tags of a manifest away with one.
            let lost = now == TagPosition::Absent && self.tags[index].was != TagPosition::Absent;
            self.tags[index].now = now;
            if !(ours || lost) {
                continue;
            }
            match self.restore(&target, &was).await {
                Ok(()) => {
                    self.settle(index, &was);
                    if let Some(Err(error)) =
                        journal.map(|journal| journal.note(&target, Entry::PutBack))
                    {
                        tracing::debug!(%error, "the journal does not say that a tag was put back");
                    }
                    observer.event(PushEvent::TagPutBack { target: &target });
                }
                Err(error) => {
                    self.tags[index].problem = Some(with_source(&error));
                    self.tags[index].now = self.position(index).await;
                }
            }
        }
    }

    /// Notes that a tag is where it was; with an archive, so are all tags of it.
    fn settle(&mut self, index: usize, was: &Old) {
        let destination = self.tags[index].target.destination().clone();
        let is_archive = matches!(destination, Destination::Archive(_)) && *was != Old::WithFirst;
        for (other, tag) in self.tags.iter_mut().enumerate() {
            let with_it = is_archive && *tag.target.destination() == destination;
            if other == index || with_it {
                tag.now = tag.was.clone();
                tag.put_back = true;
            }
        }
    }

    async fn restore(&self, target: &Target, was: &Old) -> Result<(), Error> {
        let tag = target.tag().to_owned();
        match (target.destination(), was) {
            (destination @ Destination::Repository { .. }, Old::Manifest(kept)) => {
                let repository = self.publisher.repository(destination)?;
                repository.put_tag(&tag, &kept.document()).await
            }
            (destination @ Destination::Repository { .. }, _) => {
                let of_this_push = |tag: &&Move| tag.target == *target && tag.root_is_new;
                if self.moves.moves.iter().find(of_this_push).is_none() {
                    // There are registries that delete a manifest with all its tags.
                    return Err(Error::TagStays {
                        reason: "other tags may point to the same manifest, so it is not deleted"
                            .to_owned(),
                    });
                }
                let repository = self.publisher.repository(destination)?;
                repository.delete_tag(&tag, self.publisher.ecr()).await
            }
            (Destination::Layout(path), was) => {
                let layout = LayoutTarget::new(path);
                let entry = match was {
                    Old::Entry(entry) => Some(entry.clone()),
                    _ => None,
                };
                blocking(move || layout.set_entry(&tag, entry)).await
            }
            (Destination::Archive(path), was) => {
                let archive = ArchiveTarget::new(path);
                let backup = match was {
                    Old::File(backup) => Some(backup.clone()),
                    _ => None,
                };
                blocking(move || archive.restore(backup.as_deref())).await
            }
        }
    }

    fn old(&self, target: &Target) -> Option<&Old> {
        let mut moves = self.moves.moves.iter();
        moves.find(|tag| tag.target == *target).map(|tag| &tag.was)
    }

    async fn position(&self, index: usize) -> TagPosition {
        let found = self.resolve(&self.tags[index].target).await;
        found.unwrap_or(TagPosition::Unknown)
    }

    async fn resolve(&self, target: &Target) -> Result<TagPosition, Error> {
        let tag = target.tag().to_owned();
        let digest: Option<Digest> = match target.destination() {
            destination @ Destination::Repository { .. } => {
                let algorithm = self.root.digest.algorithm();
                let repository = self.publisher.repository(destination)?;
                repository.resolve_tag(&tag, algorithm).await?
            }
            Destination::Layout(path) => {
                let layout = LayoutTarget::new(path);
                blocking(move || layout.resolve(&tag)).await?
            }
            Destination::Archive(path) => {
                let archive = ArchiveTarget::new(path);
                let ours = self.root.digest.clone();
                // Anything else there is what was there before.
                let found = blocking(move || Ok(archive.resolve(&tag).unwrap_or(None))).await?;
                found.filter(|found| *found == ours)
            }
        };
        Ok(digest.into())
    }

    /// Nothing is left to undo: the journal and kept archives go.
    fn forget(&self, journal: Option<Journal>) {
        for tag in &self.moves.moves {
            if let Old::File(backup) = &tag.was {
                remove(backup);
            }
        }
        if let Some(journal) = journal {
            journal.remove();
        }
    }

    fn into_error(self, source: Error, journal: Option<Journal>) -> PushError {
        let left = self.tags.iter().any(TagState::is_moved);
        let journal = match journal {
            Some(journal) if left => Some(journal.path().to_owned()),
            journal => {
                if !left {
                    self.forget(journal);
                }
                None
            }
        };
        PushError {
            tags: self.tags,
            source: Box::new(source),
            journal,
            content_is_there: true,
        }
    }
}

impl Publisher {
    /// Finishes the push that a journal is about: moves the tags that were not moved yet.
    ///
    /// # Errors
    /// When the journal cannot be read, its image is not there any more, or a tag was moved by somebody else;
    /// the tags are put back then, as after a push.
    pub async fn resume(
        &self,
        journal: &Path,
        options: &PushOptions,
        observer: Arc<dyn PushObserver>,
    ) -> Result<(Digest, Vec<TagState>), PushError> {
        let (moves, journal) = opened(journal)?;
        let digest = moves.root.digest.clone();
        let moves = TagMoves::resumed(self, moves);
        let tags = Box::pin(moves.go_on(options, Some(journal), observer)).await?;
        Ok((digest, tags))
    }

    /// Puts the tags back that the push of a journal has moved.
    ///
    /// # Errors
    /// When the journal cannot be read or a tag cannot be put back.
    pub async fn undo(
        &self,
        journal: &Path,
        observer: Arc<dyn PushObserver>,
    ) -> Result<Vec<TagState>, PushError> {
        let (moves, journal) = opened(journal)?;
        Box::pin(TagMoves::resumed(self, moves).undo(journal, observer)).await
    }
}

fn opened(path: &Path) -> Result<(Moves, Journal), PushError> {
    let opened = Moves::read(path).and_then(|moves| Ok((moves, Journal::reopen(path)?)));
    opened.map_err(|source| PushError::before_any_tag(&[], source))
}

fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn remove(backup: &Path) {
    if let Err(error) = std::fs::remove_file(backup) {
        tracing::debug!(%error, path = %backup.display(), "nothing is kept there");
    }
}
