//! The pod of a variant: its containers' network and ports, served from outside.

use std::sync::Arc;

use smokegate_sandbox::{HostError, IdRefusal, NetworkMode, PodSpec, Sandbox};
use tokio::task::JoinSet;

use crate::gate_file::{Egress, Network};
use crate::kept::{KeptContainer, KeptPod};
use crate::mounts;
use crate::network::RunningNetwork;
use crate::plan::VariantPlan;
use crate::port_map::BoundPorts;
use crate::runner::RunEnvironment;
use crate::verdict::Inconclusive;

/// A pod that was launched.
pub(super) struct Pod<'a> {
    plan: &'a VariantPlan,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) network: RunningNetwork,
    /// Ends the forwarding of ports.
    forwarding: Vec<JoinSet<()>>,
}

/// Host ports of a pod, bound.
pub(super) struct PodPorts {
    pub(super) app: BoundPorts,
    /// In the order of the plan's services.
    pub(super) services: Vec<BoundPorts>,
}

impl PodPorts {
    pub(super) async fn bind(plan: &VariantPlan) -> Result<Self, Inconclusive> {
        let bind = async |maps| {
            BoundPorts::bind(maps)
                .await
                .map_err(|error| Inconclusive::Port {
                    address: error.address,
                    error: error.source.to_string(),
                })
        };
        let app = bind(&plan.ports).await?;
        let mut services = Vec::new();
        for service in &plan.services {
            services.push(bind(&service.ports).await?);
        }
        Ok(Self { app, services })
    }
}

impl<'a> Pod<'a> {
    /// Makes the pod. No container of it runs yet.
    pub(super) async fn launch(
        plan: &'a VariantPlan,
        environment: &RunEnvironment,
    ) -> Result<Self, Inconclusive> {
        let run_dir = environment.run_dir.join(&plan.name);
        std::fs::create_dir_all(&run_dir)
            .map_err(|error| Inconclusive::Host(HostError::store("mkdir(run directory)", error)))?;
        let containers = mounts::containers(plan).map(|c| c.name.clone()).collect();
        let limits = mounts::limits(plan);
        let pod = PodSpec {
            isolation: environment.id_map.isolation(),
            store: environment.store.clone(),
            run_dir,
            containers,
            binds: mounts::binds(plan),
            writes_to_disk: limits.iter().any(|(_, limits)| limits.memory.is_some()),
            limits,
            network: match plan.network {
                Network::Bridge => NetworkMode::Bridge,
                Network::Shared => NetworkMode::Shared,
            },
            egress: plan.egress == Egress::Host,
        };
        let launched = Sandbox::launch(pod, &environment.id_map).await;
        let (sandbox, network) = launched.map_err(Inconclusive::Host)?;
        let network = RunningNetwork::serve(network, plan).map_err(Inconclusive::Host)?;
        Ok(Self {
            plan,
            sandbox: Arc::new(sandbox),
            network,
            forwarding: Vec::new(),
        })
    }

    /// Passes on what comes to the ports, to one of its containers.
    pub(super) fn forward(&mut self, ports: BoundPorts, container: &str) {
        self.forwarding
            .push(ports.forward(&self.sandbox, container));
    }

    /// What its containers could not do, as the ids that they asked for are not mapped.
    pub(super) fn refused_ids(&self) -> Vec<String> {
        let refused = mounts::containers(self.plan).flat_map(|container| {
            let name = &container.name;
            let refusals = self.sandbox.id_refusals(name).into_iter();
            refusals.map(move |IdRefusal { call, program, .. }| {
                format!("what `{call}` of `{program}` in container `{name}` is for: its ids are not mapped")
            })
        });
        refused.collect()
    }

    /// Goes on with the pod as it is, for somebody to look into.
    pub(super) fn keep(self, containers: Vec<KeptContainer>) -> KeptPod {
        let served = (self.network, self.forwarding);
        KeptPod::new(self.plan.name.clone(), containers, self.sandbox, served)
    }

    /// Ends every process, and with them the pipes of the logs.
    pub(super) async fn end(self) {
        for mut forwarding in self.forwarding {
            forwarding.shutdown().await;
        }
        self.network.shutdown().await;
        // Waiting for the helper blocks for a moment; other variants must not wait with it.
        let _ = tokio::task::spawn_blocking(move || drop(self.sandbox)).await;
    }
}
