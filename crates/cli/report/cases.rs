//! A variant's verdict as single cases, as test reports want them: that it runs, each probe, service and expectation.

use smokegate_gate::{
    Decision, ExpectPlan, Inconclusive, Instability, Outcome, Reason, VariantVerdict,
};
use std::time::Duration;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) took: Duration,
    pub(crate) end: End,
}

/// How it ended. Exactly one case of a variant that did not pass is to blame, and it has the variant's cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Passed,
    /// The image is at fault.
    Failed,
    /// Something else is.
    Inconclusive,
    /// Another case ended the variant, or another variant did.
    Undecided,
}

#[derive(PartialEq, Eq)]
enum Blamed<'a> {
    Nobody,
    Run,
    Probe(usize),
    Service(&'a str),
    Expectation(&'static str),
}

/// The cases of a variant, in the order in which they were decided.
pub(crate) fn cases(variant: &VariantVerdict, expect: Option<&ExpectPlan>) -> Vec<Case> {
    let blamed = blamed(&variant.decision);
    let of_blamed = match variant.decision {
        Decision::Failed(_) => End::Failed,
        _ => End::Inconclusive,
    };
    let service_is_blamed = matches!(blamed, Blamed::Service(_));
    let nothing_ran = variant.timings.start.is_none();
    let mut cases = Vec::new();
    for service in &variant.services {
        let end = match &blamed {
            Blamed::Service(name) if *name == service.name => of_blamed,
            Blamed::Service(_) => End::Undecided,
            _ if variant.decision.was_stopped() || nothing_ran => End::Undecided,
            _ => End::Passed,
        };
        cases.push(Case {
            name: format!("service {}", service.name),
            took: Duration::ZERO,
            end,
        });
    }
    cases.push(Case {
        name: "runs".to_owned(),
        took: variant.timings.total,
        end: match &blamed {
            Blamed::Run => of_blamed,
            Blamed::Service(_) => End::Undecided,
            _ if variant.decision.was_stopped() => End::Undecided,
            _ => End::Passed,
        },
    });
    for (number, probe) in variant.probes.iter().enumerate() {
        let last = probe.attempts.last();
        let passed = last.is_some_and(|last| last.outcome == Outcome::Passed);
        let took = last.map_or(Duration::ZERO, |last| last.at + last.took);
        let end = match &blamed {
            Blamed::Nobody if variant.decision.passed() => End::Passed,
            Blamed::Probe(at) if *at == number => of_blamed,
            _ if passed && !service_is_blamed => End::Passed,
            _ => End::Undecided,
        };
        let name = format!("probe {probe}");
        cases.push(Case { name, took, end });
    }
    let mut expected = expect.map(expectations).unwrap_or_default();
    if let Blamed::Expectation(name) = blamed
        && !expected.contains(&name)
    {
        expected.push(name);
    }
    for name in expected {
        let end = match &blamed {
            Blamed::Expectation(blamed) if *blamed == name => of_blamed,
            Blamed::Nobody if variant.decision.passed() => End::Passed,
            _ => End::Undecided,
        };
        cases.push(Case {
            name: format!("expect {name}"),
            took: Duration::ZERO,
            end,
        });
    }
    cases
}

fn blamed(decision: &Decision) -> Blamed<'_> {
    match decision {
        Decision::Passed | Decision::Inconclusive(Inconclusive::Stopped { .. }) => Blamed::Nobody,
        Decision::Inconclusive(Inconclusive::Service { name, .. }) => Blamed::Service(name),
        Decision::Failed(Reason::NotHealthy { probe, .. }) => Blamed::Probe(*probe),
        Decision::Failed(Reason::NotStable {
            why: Instability::Probe { .. } | Instability::Exited(_),
            ..
        }) => Blamed::Expectation("stays_healthy"),
        Decision::Failed(Reason::Logged(_)) => Blamed::Expectation("logs_never"),
        Decision::Failed(Reason::Completed { .. } | Reason::StillRunning(_)) => {
            Blamed::Expectation("exit_code")
        }
        Decision::Failed(Reason::NotStopped { .. }) => Blamed::Expectation("stops_within"),
        Decision::Failed(_) | Decision::Inconclusive(_) => Blamed::Run,
    }
}

fn expectations(expect: &ExpectPlan) -> Vec<&'static str> {
    [
        ("stays_healthy", expect.stays_healthy.is_some()),
        ("logs_never", !expect.logs_never.is_empty()),
        ("stops_within", expect.stops_within.is_some()),
        ("exit_code", expect.completion.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, asked)| asked.then_some(name))
    .collect()
}
