//! The registries of a run, each with what was learnt about it: its credentials, tokens and connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::auth::CredentialStore;
use crate::client::Clients;
use crate::ecr::Ecr;
use crate::transport::{Registry, Repository};
use crate::{CredentialEnvironment, Error, RegistryOptions};

/// Every registry that was named so far.
#[derive(Debug)]
pub(crate) struct Registries {
    options: Arc<RegistryOptions>,
    clients: Clients,
    store: Arc<CredentialStore>,
    pub(crate) ecr: Arc<Ecr>,
    known: Mutex<HashMap<String, Arc<Registry>>>,
}

impl Registries {
    /// Sets up the client. No file is read but the certificates, and nothing is dialled.
    pub(crate) fn new(
        options: RegistryOptions,
        environment: &CredentialEnvironment,
    ) -> Result<Self, Error> {
        let clients = Clients::new(&options)?;
        let options = Arc::new(options);
        let (aws, path) = (environment.aws.clone(), environment.path.clone());
        let ecr = Arc::new(Ecr::new(aws, path, &clients, Arc::clone(&options)));
        let store = CredentialStore::new(environment).with_ecr(Arc::clone(&ecr));
        Ok(Self {
            options,
            clients,
            store: Arc::new(store),
            ecr,
            known: Mutex::default(),
        })
    }

    /// A repository of the registry that references call `name`.
    pub(crate) fn repository(&self, name: &str, repository: &str) -> Result<Repository, Error> {
        let mut known = self.known.lock().expect("no panic while held");
        let registry = match known.get(name) {
            Some(registry) => Arc::clone(registry),
            None => {
                let (clients, store) = (&self.clients, Arc::clone(&self.store));
                let registry = Registry::new(name, clients, store, Arc::clone(&self.options))?;
                let registry = Arc::new(registry);
                known.insert(name.to_owned(), Arc::clone(&registry));
                registry
            }
        };
        Ok(registry.repository(repository))
    }
}
