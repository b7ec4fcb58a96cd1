//! What a run needs to publish, and the look at the targets before anything is run.

use std::sync::Arc;
use std::time::Instant;

use smokegate_image::{Algorithm, Digest, Image};

use crate::archive_target::ArchiveTarget;
use crate::ecr::Ecr;
use crate::layout_target::LayoutTarget;
use crate::registries::Registries;
use crate::tasks::blocking;
use crate::transport::Repository;
use crate::wire_error::WireError;
use crate::{
    CredentialEnvironment, Destination, Error, Puller, PushError, PushObserver, PushOptions,
    PushPlan, PushReport, RegistryOptions, RepositorySettings, Target, TargetCheck, plan,
};

/// What was made of the repositories that a push needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreatedRepositories {
    /// Those that were missing, and were made as asked.
    pub made: Vec<Destination>,
    /// Those whose registry has no API for it.
    pub left_to_registry: Vec<Destination>,
}

/// Publishes images. Holds what was learnt about registries and credentials; one serves a whole run.
#[derive(Debug)]
pub struct Publisher {
    registries: Arc<Registries>,
}

impl Publisher {
    /// Sets up the client. No file is read but the certificates, and nothing is dialled.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn new(
        options: RegistryOptions,
        environment: &CredentialEnvironment,
    ) -> Result<Self, Error> {
        let registries = Arc::new(Registries::new(options, environment)?);
        Ok(Self { registries })
    }

    /// One that fetches, with the same tokens and connections.
    pub fn puller(&self) -> Puller {
        Puller::of(Arc::clone(&self.registries))
    }

    /// Finds out before anything is run whether every target could be published to: credentials resolve, the
    /// repository answers, and nothing says that it may not be written, nor that a tag is immutable and not at
    /// `digest`, the image's where it is known already. Leaves nothing behind.
    ///
    /// # Errors
    /// The first target that cannot be published to.
    pub async fn check_targets(
        &self,
        targets: &[Target],
        digest: Option<&Digest>,
    ) -> Result<Vec<TargetCheck>, Error> {
        let mut checks = Vec::new();
        let mut writable: Vec<&Destination> = Vec::new();
        for target in targets {
            let destination = target.destination();
            let current = match destination {
                Destination::Repository { .. } => {
                    let repository = self.repository(destination)?;
                    let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
                    let current = repository.resolve_tag(target.tag(), algorithm).await?;
                    self.check_mutable(&repository, target.tag(), &current, digest)
                        .await?;
                    if !writable.contains(&destination) {
                        repository.check_writable().await?;
                        writable.push(destination);
                    }
                    current
                }
                Destination::Layout(path) => {
                    let (layout, tag) = (LayoutTarget::new(path), target.tag().to_owned());
                    blocking(move || {
                        layout.check()?;
                        layout.resolve(&tag)
                    })
                    .await?
                }
                Destination::Archive(path) => {
                    let archive = ArchiveTarget::new(path);
                    blocking(move || archive.check()).await?;
                    None
                }
            };
            checks.push(TargetCheck {
                target: target.clone(),
                current,
            });
        }
        Ok(checks)
    }

    /// Makes the repositories of targets that do not exist, where the registry has an API for that: Amazon ECR.
    /// Others make them at the first push, or have people for it; `settings` mean nothing to them.
    ///
    /// # Errors
    /// When one cannot be made. Those made before stay.
    pub async fn create_repositories(
        &self,
        targets: &[Target],
        settings: &RepositorySettings,
    ) -> Result<CreatedRepositories, Error> {
        let mut created = CreatedRepositories::default();
        let mut seen: Vec<&Destination> = Vec::new();
        for destination in targets.iter().map(Target::destination) {
            let Destination::Repository { .. } = destination else {
                continue;
            };
            if seen.contains(&destination) {
                continue;
            }
            seen.push(destination);
            let repository = self.repository(destination)?;
            let Some(host) = repository.registry.ecr() else {
                created.left_to_registry.push(destination.clone());
                continue;
            };
            match repository.exists().await {
                Ok(()) => continue,
                Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
            if self
                .ecr()
                .create_repository(&host, &repository.name, settings)
                .await?
            {
                created.made.push(destination.clone());
            }
        }
        Ok(created)
    }

    /// Refuses a tag that points elsewhere in an immutable repository, where the registry has a way to say so.
    async fn check_mutable(
        &self,
        repository: &Repository,
        tag: &str,
        current: &Option<Digest>,
        digest: Option<&Digest>,
    ) -> Result<(), Error> {
        let (Some(host), Some(current), Some(wanted)) =
            (repository.registry.ecr(), current, digest)
        else {
            return Ok(());
        };
        if current == wanted || !self.ecr().is_immutable(&host, &repository.name).await {
            return Ok(());
        }
        Err(repository.immutable(tag, current.clone(), wanted, WireError::default()))
    }

    /// Looks, plans and carries out.
    ///
    /// # Errors
    /// When the push fails, with where every tag is now.
    pub async fn push(
        &self,
        image: &Image,
        targets: &[Target],
        options: &PushOptions,
        observer: Arc<dyn PushObserver>,
    ) -> Result<PushReport, PushError> {
        let began = Instant::now();
        let plan = self.plan(image, targets, options).await;
        let plan = plan.map_err(|error| PushError::before_any_tag(targets, error))?;
        let planned = began.elapsed();
        let done = Box::pin(self.execute(image, &plan, options, Arc::clone(&observer))).await;
        match done {
            Ok(mut report) => {
                report.timings.plan = planned;
                Ok(report)
            }
            // A blob that was there when it was asked for, a while ago, may have been removed since.
            Err(error) if error.may_miss_a_blob() && options.forget_ahead() => {
                tracing::debug!(error = %error.source, "asking again what is there");
                Box::pin(self.push(image, targets, options, observer)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Looks and plans.
    ///
    /// # Errors
    /// When a destination does not answer, or not well.
    pub async fn plan(
        &self,
        image: &Image,
        targets: &[Target],
        options: &PushOptions,
    ) -> Result<PushPlan, Error> {
        let mut state = self
            .remote_state(image, targets, options.ahead.as_ref())
            .await?;
        if let Some(source) = &options.source {
            let (repository, has) = source.state(image);
            state.destinations.entry(repository).or_insert(has);
        }
        Ok(plan(image, targets, &state))
    }

    /// Amazon's API.
    pub(crate) fn ecr(&self) -> &Ecr {
        &self.registries.ecr
    }

    pub(crate) fn repository(&self, destination: &Destination) -> Result<Repository, Error> {
        let Destination::Repository {
            registry,
            repository,
        } = destination
        else {
            unreachable!("only a repository has a registry")
        };
        self.registries.repository(registry, repository)
    }
}
