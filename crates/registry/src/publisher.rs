//! What a run needs to publish, and the look at the targets before anything is run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use smokegate_image::{Algorithm, Image};

use crate::archive_target::ArchiveTarget;
use crate::auth::CredentialStore;
use crate::layout_target::LayoutTarget;
use crate::tasks::blocking;
use crate::transport::{Clients, Registry, Repository};
use crate::{
    CredentialEnvironment, Destination, Error, PushError, PushObserver, PushReport,
    RegistryOptions, Target, TargetCheck, plan,
};

/// Publishes images. Holds what was learnt about registries and credentials; one serves a whole run.
#[derive(Debug)]
pub struct Publisher {
    pub(crate) options: Arc<RegistryOptions>,
    clients: Clients,
    store: Arc<CredentialStore>,
    registries: Mutex<HashMap<String, Arc<Registry>>>,
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
        let clients = Clients::new(&options)?;
        let store = Arc::new(CredentialStore::new(environment));
        Ok(Self {
            options: Arc::new(options),
            clients,
            store,
            registries: Mutex::default(),
        })
    }

    /// Finds out before anything is run whether every target could be published to: credentials resolve, the
    /// repository answers, and nothing says that it may not be written. Leaves nothing behind.
    ///
    /// # Errors
    /// The first target that cannot be published to.
    pub async fn check_targets(&self, targets: &[Target]) -> Result<Vec<TargetCheck>, Error> {
        let mut checks = Vec::new();
        let mut writable: Vec<&Destination> = Vec::new();
        for target in targets {
            let destination = target.destination();
            let current = match destination {
                Destination::Repository { .. } => {
                    let repository = self.repository(destination)?;
                    let current = repository
                        .resolve_tag(target.tag(), Algorithm::Sha256)
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

    /// Looks, plans and carries out.
    ///
    /// # Errors
    /// When the push fails, with where every tag is now.
    pub async fn push(
        &self,
        image: &Image,
        targets: &[Target],
        observer: Arc<dyn PushObserver>,
    ) -> Result<PushReport, PushError> {
        match self.remote_state(image, targets).await {
            Ok(state) => {
                self.execute(image, &plan(image, targets, &state), observer)
                    .await
            }
            Err(error) => Err(PushError::before_any_tag(targets, error)),
        }
    }

    pub(crate) fn repository(&self, destination: &Destination) -> Result<Repository, Error> {
        let Destination::Repository {
            registry: name,
            repository,
        } = destination
        else {
            unreachable!("only a repository has a registry")
        };
        let mut registries = self.registries.lock().expect("no panic while held");
        let registry = match registries.get(name) {
            Some(registry) => Arc::clone(registry),
            None => {
                let (clients, store) = (&self.clients, Arc::clone(&self.store));
                let registry = Registry::new(name, clients, store, Arc::clone(&self.options))?;
                let registry = Arc::new(registry);
                registries.insert(name.clone(), Arc::clone(&registry));
                registry
            }
        };
        Ok(registry.repository(repository))
    }
}
