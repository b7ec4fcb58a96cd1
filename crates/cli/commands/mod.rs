//! The subcommands. Each settles its arguments, calls the pipeline and reports.

mod cache;
mod doctor;
mod gate;
mod inspect;
mod judged;
mod lint;
mod promote;
mod push;
mod run_target;
mod ship;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{AnyCommand, Arguments, Command, CommonArgs, Format, KeptCommand};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::kept;
use crate::printer::Printer;
use crate::report::{github, publishing};
use crate::settings;

/// How long an interrupted run may take to end its pods.
const GRACE: Duration = Duration::from_secs(5);
/// How long a failed one may take to remove the files that it was writing.
const TIDYING: Duration = Duration::from_secs(1);

/// Parses, runs, reports; the process's exit code.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitStatus::Success,
                _ => ExitStatus::Usage,
            }
            .into();
        }
    };
    let printer = Printer::new(&arguments.common, settings::no_color());
    ask_for_reports_of_bugs(printer);
    let command = match arguments.command {
        AnyCommand::Own(command) => command,
        AnyCommand::Kept(command) => {
            return look_into_kept_pods(&command, &arguments.common, printer);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(ExitStatus::Host, format!("cannot start threads: {error}"));
            failure.show(printer, None);
            return failure.status.into();
        }
    };
    let status = runtime.block_on(async {
        // Dropping the command's future ends its pods and removes its directories.
        let mut command = std::pin::pin!(run(command, &arguments.common, printer));
        let mut deferred = false;
        loop {
            let status = tokio::select! {
                status = &mut command => return status,
                status = interrupted() => status,
            };
            // The run is over, and its verdict stands: only kept pods end now.
            if let Some(verdict) = kept::verdict_while_keeping() {
                return verdict;
            }
            let word = match status {
                ExitStatus::Interrupted => "interrupted",
                _ => "terminated",
            };
            if !publishing::tags_are_moving() || deferred {
                printer.always(format!("{word}: everything that ran was stopped and removed"));
                return status;
            }
            // Half-moved tags are worse than a late end, and only the end can say where they are.
            deferred = true;
            printer.always(format!(
                "{word}: the tags are being moved; ending after the last one (interrupt again to end at once)"
            ));
        }
    });
    match status {
        ExitStatus::Success => runtime.shutdown_background(),
        ExitStatus::Interrupted | ExitStatus::Terminated => runtime.shutdown_timeout(GRACE),
        _ => runtime.shutdown_timeout(TIDYING),
    }
    status.into()
}

async fn run(command: Command, common: &CommonArgs, printer: Printer) -> ExitStatus {
    let result = match command {
        Command::Lint(args) => lint::run(args, common, printer).await,
        _ if common.format == Format::Sarif => Err(Failure::usage(
            "`--format sarif` is for `smokegate lint`, whose findings it holds",
        )
        .hint("use `--format json`")),
        Command::Ship(args) => ship::run(args, common, printer).await,
        Command::Gate(args) => gate::run(args, common, printer).await,
        Command::Push(args) => push::run(args, common, printer).await,
        Command::Promote(args) => promote::run(args, common, printer).await,
        Command::Verify(args) => verify::run(args, common, printer).await,
        Command::Inspect(args) => inspect::run(args, common, printer).await,
        Command::Doctor(args) => doctor::run(args, common, printer).await,
        Command::Cache(command) => cache::run(&command, common, printer).await,
    };
    match result {
        Ok(status) => status,
        Err(failure) => {
            let fence = settings::actions().and_then(|_| github::Fence::new().ok());
            failure.show(printer, fence.as_ref());
            failure.status
        }
    }
}

/// They wait for another process and do nothing else meanwhile, so that they need no runtime.
fn look_into_kept_pods(command: &KeptCommand, common: &CommonArgs, printer: Printer) -> ExitCode {
    let done = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    let result = match command {
        KeptCommand::Exec(args) => kept::exec(args, common, printer).map(ExitCode::from),
        KeptCommand::Logs(args) => done(kept::logs(args, common, printer)),
        KeptCommand::Stop(args) => done(kept::stop(args, common, printer)),
    };
    result.unwrap_or_else(|failure| {
        failure.show(printer, None);
        failure.status.into()
    })
}

async fn interrupted() -> ExitStatus {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals.map(signal) else {
        // Without handlers the signals' default action ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => ExitStatus::Interrupted,
        _ = terminate.recv() => ExitStatus::Terminated,
        _ = hangup.recv() => ExitStatus::Terminated,
    }
}

fn ask_for_reports_of_bugs(printer: Printer) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        printer.always(
            "error: this is a bug in smokegate\n\nhint: please report it with the text above, the command line and `uname -a`",
        );
    }));
}
