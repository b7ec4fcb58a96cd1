//! What a gate file may say and this version cannot run yet. Each goes from here with the change that runs it.

use super::Resolver;
use crate::gate_file::{Egress, Network, Platforms, Span, Spanned};

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
        let shared =
            |network: &Spanned<Network>| (network.value == Network::Shared).then_some(network.span);
        let host = |egress: &Spanned<Egress>| (egress.value == Egress::Host).then_some(egress.span);
        self.not_yet("network: shared", file.network.as_ref().and_then(shared));
        self.not_yet("egress: host", file.egress.as_ref().and_then(host));
        if let Some(platforms) = &file.platforms {
            let span = match platforms {
                Platforms::All => Span::default(),
                Platforms::These(list) => list.first().map_or(Span::default(), |one| one.span),
            };
            self.not_yet("platforms", Some(span));
        }
        for (_, service) in file.services.iter() {
            let ports = service
                .container
                .ports
                .as_ref()
                .and_then(|ports| ports.first());
            self.not_yet("ports of a service", ports.map(|port| port.span));
        }
        for (_, variant) in file.variants.iter() {
            self.not_yet("network: shared", variant.network.as_ref().and_then(shared));
            self.not_yet("egress: host", variant.egress.as_ref().and_then(host));
            self.not_yet(
                "platform",
                variant.platform.as_ref().map(|platform| platform.span),
            );
        }
    }
}
