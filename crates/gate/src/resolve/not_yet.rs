//! What a gate file may say and this version cannot run yet. Each goes from here with the change that runs it.

use super::Resolver;
use crate::gate_file::{Container, Platforms, Span};

impl Resolver<'_> {
    pub(super) fn not_yet(&mut self, key: &str, span: Option<Span>) {
        if let Some(span) = span {
            let message = format!("this version does not run `{key}` yet");
            self.problem(
                span,
                &message,
                Some("leave it out, or run without the gate file (--no-file)"),
            );
        }
    }

    pub(super) fn refuse_what_is_not_run_yet(&mut self) {
        let file = self.input.file;
        if let Some(platforms) = &file.platforms {
            let span = match platforms {
                Platforms::All => Span::default(),
                Platforms::These(list) => list.first().map_or(Span::default(), |one| one.span),
            };
            self.not_yet("platforms", Some(span));
        }
        for (_, service) in file.services.iter() {
            self.refuse_in_container(&service.container);
            let ports = service
                .container
                .ports
                .as_ref()
                .and_then(|ports| ports.first());
            self.not_yet("ports of a service", ports.map(|port| port.span));
        }
        self.refuse_in_container(&file.app);
        for (_, variant) in file.variants.iter() {
            self.refuse_in_container(&variant.container);
            self.not_yet(
                "platform",
                variant.platform.as_ref().map(|platform| platform.span),
            );
        }
    }

    fn refuse_in_container(&mut self, container: &Container) {
        let volumes = container
            .volumes
            .as_ref()
            .and_then(|volumes| volumes.first());
        self.not_yet("volumes", volumes.map(|volume| volume.span));
        let secrets = container
            .secrets
            .as_ref()
            .and_then(|secrets| secrets.iter().next());
        self.not_yet("secrets", secrets.map(|(name, _)| name.span));
        self.not_yet(
            "mem_limit",
            container.mem_limit.as_ref().map(|size| size.span),
        );
        self.not_yet("cpus", container.cpus.as_ref().map(|cpus| cpus.span));
        self.not_yet(
            "pids_limit",
            container.pids_limit.as_ref().map(|count| count.span),
        );
    }
}
