//! The other side: `exec`, `logs` and `stop` find the run and ask it.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smokegate_sandbox::Wire;

use super::stream::Streams;
use super::terminal::{self, Terminal};
use super::{Ask, ContainerRecord, PodRecord, Tell, socket_in};
use crate::args::{CommonArgs, ExecArgs, LogsArgs, StopArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::{Printer, harmless};
use crate::run_dir;
use crate::settings;

/// How often `logs --follow` looks for more.
const LOOK: Duration = Duration::from_millis(200);

/// A run that keeps pods.
struct Run {
    id: String,
    dir: PathBuf,
    pods: Vec<PodRecord>,
}

/// Runs a command in a kept pod; its exit code, as `docker exec` has it.
pub(crate) fn exec(args: &ExecArgs, common: &CommonArgs, printer: Printer) -> Result<u8, Failure> {
    let (run, pod) = find(&args.variant, args.run.as_deref(), common)?;
    let container = container(&pod, args.container.as_deref())?;
    if !container.is_running {
        printer.step(format!(
            "container {} does not run: the command is alone with its files and network",
            container.name
        ));
    }
    let ask = Ask::Exec {
        variant: pod.variant.clone(),
        container: container.name.clone(),
        args: args.command.clone(),
        terminal: terminal::size(),
    };
    match run_command(&run.dir, &ask).map_err(|error| lost(&run, &error))? {
        Tell::Exited { code } => Ok(code),
        Tell::NotRun { code, cause } => {
            Failure::new(ExitStatus::Host, cause).show(printer, None);
            Ok(code)
        }
        _ => Err(lost(&run, &io::ErrorKind::InvalidData.into())),
    }
}

fn run_command(run_dir: &Path, ask: &Ask) -> io::Result<Tell> {
    let wire = connect(run_dir)?;
    let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
    let told = || wire.receive::<Tell>()?.ok_or_else(gone);
    if let Ask::Exec {
        terminal: Some(_), ..
    } = ask
    {
        let (ours, theirs) = Wire::pair()?;
        let theirs = theirs.into_fd();
        wire.send(ask, &[theirs.as_fd()])?;
        drop(theirs);
        // None comes where the command cannot be run.
        let controller = ours.receive::<()>()?.and_then(|(_, mut fds)| fds.pop());
        let terminal = controller.map(Terminal::connect).transpose()?;
        let (told, _) = told()?;
        if let Some(terminal) = terminal {
            terminal.finish();
        }
        return Ok(told);
    }
    let (streams, fds) = Streams::open()?;
    wire.send(ask, &fds.each_ref().map(AsFd::as_fd))?;
    drop(fds);
    let (told, _) = told()?;
    streams.finish();
    Ok(told)
}

/// Shows what a container of a kept pod wrote.
pub(crate) fn logs(args: &LogsArgs, common: &CommonArgs, printer: Printer) -> Result<(), Failure> {
    let (run, pod) = find(&args.variant, args.run.as_deref(), common)?;
    let container = container(&pod, args.container.as_deref())?;
    let path = &container.log;
    let file = match File::open(path) {
        Ok(file) => file,
        // It was not started, and has written nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let cause = format!("cannot read the log `{}`: {error}", path.display());
            return Err(Failure::new(ExitStatus::Host, cause));
        }
    };
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        // Asked before the last look: what was written until the pod ended is shown.
        let goes_on = args.follow && connect(&run.dir).is_ok();
        // A line that is not complete yet is read on the next time.
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
            && line.ends_with(b"\n")
        {
            printer.data(harmless(&text(&line)));
            line.clear();
        }
        if !goes_on {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// A line without its time and stream.
fn text(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let rest = line
        .trim_start()
        .split_once(' ')
        .map_or("", |(_, rest)| rest);
    let text = rest.strip_prefix("out ").or(rest.strip_prefix("err "));
    text.unwrap_or(&line).trim_end_matches('\n').to_owned()
}

/// Ends kept pods.
pub(crate) fn stop(args: &StopArgs, common: &CommonArgs, printer: Printer) -> Result<(), Failure> {
    let mut runs = runs(common)?;
    if let Some(id) = &args.run {
        runs.retain(|run| run.id == *id);
    }
    if let Some(variant) = &args.variant {
        let (run, _) = choose(runs, variant, args.run.as_deref())?;
        runs = vec![run];
    }
    if runs.is_empty() {
        return Err(nothing_kept(args.run.as_deref()));
    }
    for run in runs {
        let variant = args.variant.clone();
        let told = ask(&run.dir, &Ask::Stop { variant }).map_err(|error| lost(&run, &error))?;
        if let Tell::Stopped(variants) = told {
            let names = variants.join(", ");
            printer.step(format!("run {}: ended the pod of {names}", run.id));
        }
    }
    Ok(())
}

fn find(
    variant: &str,
    run: Option<&str>,
    common: &CommonArgs,
) -> Result<(Run, PodRecord), Failure> {
    choose(runs(common)?, variant, run)
}

/// The run that keeps a pod of that variant, if it is the only one or was named.
fn choose(
    mut runs: Vec<Run>,
    variant: &str,
    id: Option<&str>,
) -> Result<(Run, PodRecord), Failure> {
    if let Some(id) = id {
        runs.retain(|run| run.id == id);
    }
    if runs.is_empty() {
        return Err(nothing_kept(id));
    }
    let kept: Vec<String> = runs.iter().flat_map(Run::describe).collect();
    let mut found = Vec::new();
    for mut run in runs {
        let at = run.pods.iter().position(|pod| pod.variant == variant);
        found.extend(at.map(|at| run.pods.swap_remove(at)).map(|pod| (run, pod)));
    }
    let mut failure = match found.len() {
        0 => Failure::usage(format!("no pod of variant `{variant}` is kept")),
        1 => return Ok(found.remove(0)),
        count => Failure::usage(format!("{count} runs keep a pod of variant `{variant}`"))
            .hint("say which with --run ID"),
    };
    failure.evidence.extend(kept);
    Err(failure)
}

impl Run {
    /// A line for each of its pods.
    fn describe(&self) -> impl Iterator<Item = String> {
        self.pods.iter().map(|pod| {
            let names = pod.containers.iter().map(|c| c.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            format!("run {} keeps `{}`: {names}", self.id, pod.variant)
        })
    }
}

fn container<'a>(pod: &'a PodRecord, name: Option<&str>) -> Result<&'a ContainerRecord, Failure> {
    let name = name.unwrap_or(smokegate_gate::APP);
    let found = pod.containers.iter().find(|found| found.name == name);
    found.ok_or_else(|| {
        let names = pod.containers.iter().map(|c| format!("`{}`", c.name));
        let names = names.collect::<Vec<_>>().join(", ");
        let variant = &pod.variant;
        Failure::usage(format!(
            "the pod of variant `{variant}` has no container `{name}`; it has {names}"
        ))
    })
}

/// The runs of this store that keep pods.
fn runs(common: &CommonArgs) -> Result<Vec<Run>, Failure> {
    let store = settings::store(common)?;
    let mut runs = Vec::new();
    for (id, dir) in run_dir::all(&store) {
        // Where nobody listens, a run is still going on, or was killed.
        if let Ok(Tell::Pods(pods)) = ask(&dir, &Ask::Pods) {
            runs.push(Run { id, dir, pods });
        }
    }
    Ok(runs)
}

fn connect(run_dir: &Path) -> io::Result<Wire> {
    let (socket, address, _dir) = socket_in(run_dir)?;
    rustix::net::connect(&socket, &address)?;
    Ok(Wire::from_fd(socket))
}

fn ask(run_dir: &Path, ask: &Ask) -> io::Result<Tell> {
    let wire = connect(run_dir)?;
    wire.send(ask, &[])?;
    let told = wire.receive::<Tell>()?;
    told.map(|(told, _)| told)
        .ok_or_else(|| io::ErrorKind::ConnectionReset.into())
}

fn nothing_kept(run: Option<&str>) -> Failure {
    let cause = match run {
        Some(id) => format!("no run `{id}` keeps a pod"),
        None => "no pod is kept".to_owned(),
    };
    Failure::usage(cause).hint(
        "`smokegate gate --keep-on-failure` keeps the pods of variants that do not pass, for as long as it runs; --store must be the same here",
    )
}

fn lost(run: &Run, error: &io::Error) -> Failure {
    let cause = format!("run {} does not answer any more: {error}", run.id);
    Failure::new(ExitStatus::Host, cause)
}
