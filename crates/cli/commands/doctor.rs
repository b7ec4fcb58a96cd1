//! `smokegate doctor`: what this host can do for a run, found out by trying it.

use smokegate_registry::{ConfiguredCredential, configured_credentials};
use smokegate_sandbox::{Check, Examination, HostReport, Noun, Refusal, Status, Wall, examine};

use crate::args::{CommonArgs, DoctorArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::report::doctor as report;
use crate::run_dir::RunDir;
use crate::settings;

pub(crate) async fn run(
    args: DoctorArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let store = settings::store(common)?;
    let temporary = settings::temporary();
    let search_path = settings::search_path();
    // Without a store everything else can be tried all the same.
    let run_dir = RunDir::below(&store);
    let elsewhere = match &run_dir {
        Ok(_) => None,
        Err(_) => tempfile::tempdir().ok(),
    };
    let scratch = match (&run_dir, &elsewhere) {
        (Ok(run_dir), _) => run_dir.path(),
        (Err(_), Some(elsewhere)) => elsewhere.path().to_owned(),
        (Err(error), None) => return Err(error.clone().into()),
    };
    let mut host = examine(&Examination {
        store: &store,
        scratch: &scratch,
        temporary: &temporary,
        search_path: &search_path,
        level: args.isolation,
    })
    .await;
    host.checks.push(proxies(&settings::proxies()));
    let environment = settings::credential_environment();
    host.checks
        .push(credentials(&configured_credentials(&environment)));
    report::show(&host, common.format, printer);
    match refusal(host) {
        Some(failure) => Err(failure),
        None => Ok(ExitStatus::Success),
    }
}

/// The failure that a run would end with.
fn refusal(host: HostReport) -> Option<Failure> {
    Some(match host.refusal? {
        Refusal::Step(error) => Failure::from(error),
        Refusal::Level(unavailable) => Failure::from(unavailable),
    })
}

fn proxies(found: &[(String, String)]) -> Check {
    let tried = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in either case";
    let means = "registries are reached through them; containers get none of them";
    let result = match found {
        [] => "none is set".to_owned(),
        found => {
            let found = found.iter().map(|(name, value)| format!("{name}={value}"));
            found.collect::<Vec<_>>().join(", ")
        }
    };
    let means = if found.is_empty() {
        "registries are reached directly"
    } else {
        means
    };
    Check::fine(Noun::Proxies, tried, result, means)
}

fn credentials(found: &[ConfiguredCredential]) -> Check {
    let tried = "the files of docker and podman, their helpers' names, and where AWS's tools look; no value was read out, no helper run, nothing dialled";
    let told = found.iter().map(|one| {
        let registry = one.registry.as_deref().unwrap_or("every other registry");
        match &one.problem {
            None => format!("{registry}: {}", one.source),
            Some(problem) => format!(
                "{registry}: {}, which cannot be used: {problem}",
                one.source
            ),
        }
    });
    let result = told.collect::<Vec<_>>().join("; ");
    let means = "`ship`, `push` and images in registries use them, the first that names a registry; `gate` of local images none";
    let check = Check::fine(Noun::Credentials, tried, result, means);
    if found.iter().any(|one| one.problem.is_some()) {
        return check.behind(Status::Limited, Wall::CredentialUnusable);
    }
    check
}
