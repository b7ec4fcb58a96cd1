//! What is looked for in a container's log while it is written: every line is seen once, none is kept for it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::log_capture::LogLine;
use crate::pattern::Pattern;
use crate::plan::{ContainerPlan, Probe};

/// The patterns of a container's log, made before it starts so that no line comes too early.
#[derive(Debug)]
pub(crate) struct LogWatch {
    counted: Vec<(Pattern, watch::Sender<u32>)>,
    never: Vec<Pattern>,
    offence: watch::Sender<Option<Offence>>,
}

/// A line that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offence {
    /// The line.
    pub line: LogLine,
    /// What it matches.
    pub pattern: Pattern,
}

impl LogWatch {
    /// Counts the lines that the container's probes ask for, and looks for those that match one of `never`.
    pub(crate) fn of(plan: &ContainerPlan, never: &[Pattern]) -> Arc<Self> {
        let mut counted: Vec<(Pattern, watch::Sender<u32>)> = Vec::new();
        for probe in &plan.probes {
            if let Probe::Log { pattern, .. } = &probe.probe
                && !counted.iter().any(|(known, _)| known == pattern)
            {
                counted.push((pattern.clone(), watch::channel(0).0));
            }
        }
        Arc::new(Self {
            counted,
            never: never.to_vec(),
            offence: watch::channel(None).0,
        })
    }

    /// Looks for nothing.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self {
            counted: Vec::new(),
            never: Vec::new(),
            offence: watch::channel(None).0,
        })
    }

    /// Takes note of a line: its text as it was written, and what may be kept of it.
    pub(crate) fn see(&self, text: &str, line: &LogLine) {
        for (pattern, count) in &self.counted {
            if pattern.is_match(text) {
                count.send_modify(|count| *count = count.saturating_add(1));
            }
        }
        if self.offence.borrow().is_some() {
            return;
        }
        if let Some(pattern) = self.never.iter().find(|never| never.is_match(text)) {
            let (line, pattern) = (line.clone(), pattern.clone());
            self.offence.send_replace(Some(Offence { line, pattern }));
        }
    }

    /// Waits until so many lines have matched a pattern that a probe asks for.
    pub(crate) async fn wait_for(&self, pattern: &Pattern, count: u32) {
        match self.counted.iter().find(|(known, _)| known == pattern) {
            Some((_, seen)) => {
                // The sender is ours, so that it cannot go away.
                let _ = seen.subscribe().wait_for(|seen| *seen >= count).await;
            }
            None => std::future::pending().await,
        }
    }

    /// How many lines have matched it by now.
    pub(crate) fn count(&self, pattern: &Pattern) -> u32 {
        let counted = self.counted.iter().find(|(known, _)| known == pattern);
        counted.map_or(0, |(_, seen)| *seen.borrow())
    }

    /// The first line that must not be, if there was one by now.
    pub(crate) fn offence(&self) -> Option<Offence> {
        self.offence.borrow().clone()
    }

    /// Waits for it.
    pub(crate) async fn wait_for_offence(&self) -> Offence {
        let mut offence = self.offence.subscribe();
        match offence.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(offence)) => offence.clone(),
            _ => std::future::pending().await,
        }
    }
}
