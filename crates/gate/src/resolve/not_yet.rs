//! What a gate file may say and this version cannot run yet. Each goes from here with the change that runs it.

use super::Resolver;
use crate::gate_file::Span;

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
        for (_, service) in file.services.iter() {
            let ports = service
                .container
                .ports
                .as_ref()
                .and_then(|ports| ports.first());
            self.not_yet("ports of a service", ports.map(|port| port.span));
        }
    }
}
