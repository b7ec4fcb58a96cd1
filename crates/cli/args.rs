//! The command line, as typed. What it means is settled in `settings.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use smokegate_gate::PortMap;
use smokegate_image::{Digest, ImageSource, Platform};
use smokegate_registry::Target;
use smokegate_sandbox::Isolation;

use crate::limits::Limit;

/// Run a freshly built image the way production will, watch its health, publish the same bytes
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: AnyCommand,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub(crate) enum AnyCommand {
    #[command(flatten)]
    Own(Command),
    #[command(flatten)]
    Kept(KeptCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Gate an image, then publish it to every tag; publishes nothing unless it passed
    Ship(ShipArgs),
    /// Run an image and judge it; no registry is contacted but those that IMAGE and services name
    Gate(GateArgs),
    /// Publish an image without running it
    Push(PushArgs),
    /// Move tags to an image that is in a registry, without changing a byte of it
    Promote(PromoteArgs),
    /// Check a receipt, attached to an image or in a file, against a key and a digest
    Verify(VerifyArgs),
    /// Explain, without running anything, why the entrypoint could not start
    Lint(LintArgs),
    /// Show an image's manifests, config, layers and platforms
    Inspect(InspectArgs),
    /// Try what this host can do for a run, and say how to put right what it cannot
    Doctor(DoctorArgs),
    /// List or prune the layer store
    #[command(subcommand)]
    Cache(CacheCommand),
}

#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Directory of the layer store [default: $XDG_CACHE_HOME/smokegate]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// What goes to standard output
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Show every attempt of every probe
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Show failures only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Do not colour the output
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text; for commands that publish, one `REF@sha256:…` line per tag
    Human,
    /// JSON; for commands that run or publish, the receipt
    Json,
    /// SARIF 2.1.0, of `lint` alone
    Sarif,
}

#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    #[arg(
        value_name = "IMAGE",
        help = "OCI layout directory, OCI archive or `docker save` archive; `-` for standard input; \
                oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:TAG]; \
                docker://REGISTRY/REPO[:TAG][@DIGEST]"
    )]
    pub(crate) image: ImageSource,
    /// Choose this platform of an index, as os/arch[/variant] [default: the host's]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<Platform>,
    /// Set how much of an image is taken (repeatable): layer-size (128g), layer-entries (4000000),
    /// file-size (128g), archive-size (256g), archive-members (200000)
    #[arg(long, value_name = "NAME=VALUE", value_parser = Limit::parse)]
    pub(crate) limit: Vec<Limit>,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Speak HTTP to registries that are not on loopback
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Trust the certificates in this PEM file too
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Settings of single registries [default: $XDG_CONFIG_HOME/smokegate/registries.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Map a host port to a container port (repeatable); host port 0, or none, takes a free one
    #[arg(long, value_name = "[[IP:]HOST:]CONTAINER")]
    pub(crate) publish: Vec<PortMap>,
    /// GET this path until it answers 200 [default: the image's HEALTHCHECK, else /healthz]
    #[arg(long, value_name = "PATH")]
    pub(crate) http: Option<String>,
    /// Time between attempts [default: 2s, or the gate file's]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) interval: Option<std::time::Duration>,
    /// Wall clock until the probe must have passed [default: 120s, or the gate file's]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) within: Option<std::time::Duration>,
    /// Set a variable in the container; without a value, the caller's (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file, one NAME=VALUE a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Run as this user instead of the image's USER
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Run this instead of the image's ENTRYPOINT and CMD
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Run at this isolation level [default: the best this host allows]
    #[arg(long, value_name = "root|subuid|single")]
    pub(crate) isolation: Option<Isolation>,
    /// Directory for the receipt, the summary and the logs
    #[arg(long, value_name = "DIR", default_value = "smokegate-report")]
    pub(crate) report_dir: PathBuf,
    /// Read variants, services and probes from this gate file [default: ./smokegate.yaml, if it is there]
    #[arg(short, long, value_name = "FILE", conflicts_with = "no_file")]
    pub(crate) file: Option<PathBuf>,
    /// Ignore ./smokegate.yaml
    #[arg(long)]
    pub(crate) no_file: bool,
    /// Do not lint the images that are run
    #[arg(long)]
    pub(crate) no_lint: bool,
    /// Run only this variant of the gate file (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Vec<String>,
    /// Stop all variants when one does not pass
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Show what would be run, with secrets masked, and run nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// How many variants run side by side [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) parallel: Option<usize>,
    /// Leave the pods of variants that do not pass running, for smokegate exec, logs and stop
    #[arg(long)]
    pub(crate) keep_on_failure: bool,
    /// Arguments for the entrypoint, instead of the image's CMD
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

/// Where tags are moved, and how.
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Publish to this tag (repeatable): REGISTRY/REPO:TAG, oci:DIR:TAG or oci-archive:FILE:TAG
    #[arg(short, long, value_name = "REF")]
    pub(crate) tag: Vec<Target>,
    /// Show what would be published, and publish nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave moved tags where they are when another one cannot be moved
    #[arg(long)]
    pub(crate) no_rollback: bool,
    /// Make the repository first where there is none (Amazon ECR); `immutable` and `scan` are settings of it
    #[arg(long, value_enum, value_name = "SETTING", num_args = 0.., value_delimiter = ',', require_equals = true)]
    pub(crate) create_repository: Option<Vec<RepositorySetting>>,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) tags: TagArgs,
    /// Compress the layers of a `docker save` archive, which has no manifest of its own
    #[arg(long, value_enum, default_value_t = Compress::None)]
    pub(crate) compress: Compress,
    /// Publish although only some of the variants were run
    #[arg(long)]
    pub(crate) allow_partial: bool,
    /// Attach the receipt to the image, without logs, values of variables or names of hosts
    #[arg(long)]
    pub(crate) attach_receipt: bool,
    /// Sign the attached receipt with this key: a PEM file, ECDSA on P-256
    #[arg(long, value_name = "FILE", requires = "attach_receipt")]
    pub(crate) sign_key: Option<PathBuf>,
}

/// Whose receipts are believed.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Believe receipts that this key has signed: a PEM file, ECDSA on P-256
    #[arg(long, value_name = "FILE", conflicts_with = "allow_unsigned")]
    pub(crate) verify_key: Option<PathBuf>,
    /// Believe receipts whoever wrote them
    #[arg(long)]
    pub(crate) allow_unsigned: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RequireArgs {
    /// Publish only if a receipt is attached that is a complete pass; needs --verify-key or --allow-unsigned
    #[arg(long)]
    pub(crate) require_receipt: bool,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// Publish the layers as they are
    None,
    /// Compress them with gzip
    Gzip,
    /// Compress them with zstd
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RepositorySetting {
    /// A tag can be set once only
    Immutable,
    /// What is pushed is scanned for known vulnerabilities
    Scan,
}

#[derive(Debug, Args)]
pub(crate) struct ShipArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) publish: PublishArgs,
    /// Send blobs to registries while the image runs, so that only manifests and tags are left for after the verdict.
    /// Where it does not pass, the blobs stay there, and nothing refers to them
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) upload_ahead: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) source: Option<SourceArgs>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) publish: PublishArgs,
    /// Finish the push that left this journal, without an IMAGE: move the tags that were not moved yet
    #[arg(long, value_name = "JOURNAL", conflicts_with_all = ["image", "tag", "receipt", "dry_run", "create_repository", "attach_receipt", "require_receipt"])]
    pub(crate) resume: Option<PathBuf>,
    /// With --resume: put the tags back that were moved
    #[arg(long, requires = "resume")]
    pub(crate) undo: bool,
    /// Directory for the journal of a push that is not finished
    #[arg(long, value_name = "DIR", default_value = "smokegate-report")]
    pub(crate) report_dir: PathBuf,
    /// Publish only if this receipt is a complete pass for exactly this digest
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) require: RequireArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The image: `[docker://]REGISTRY/REPO[:TAG][@DIGEST]`
    #[arg(value_name = "SRC", value_parser = in_registry)]
    pub(crate) source: ImageSource,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tags: TagArgs,
    #[command(flatten)]
    pub(crate) require: RequireArgs,
    /// Directory for the journal of a promotion that is not finished
    #[arg(long, value_name = "DIR", default_value = "smokegate-report")]
    pub(crate) report_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// An image with a receipt attached (`[docker://]REGISTRY/REPO[:TAG][@DIGEST]`, or any other IMAGE), or a file: the
    /// receipt.json of a run, or a Sigstore bundle
    #[arg(value_name = "REF|RECEIPT")]
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// The receipt must be for this digest [default: the image's]
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Option<Digest>,
}

#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Take the variables that variants set from this gate file [default: ./smokegate.yaml, if it is there]
    #[arg(short, long, value_name = "FILE", conflicts_with = "no_file")]
    pub(crate) file: Option<PathBuf>,
    /// Ignore ./smokegate.yaml
    #[arg(long)]
    pub(crate) no_file: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// What asks another run, the one that keeps a pod.
#[derive(Debug, Subcommand)]
pub(crate) enum KeptCommand {
    /// Run a command in a pod that --keep-on-failure left
    #[command(
        after_help = "The command has the user, environment, files, network and rights of the container. Where the container's own process has ended, the command runs alone in its files and network. It gets a terminal where standard input and output are one, and its exit code is passed on (127: not found, 126: cannot be executed, 128+N: ended by signal N)."
    )]
    Exec(ExecArgs),
    /// Show what a container of a pod that --keep-on-failure left has written
    Logs(LogsArgs),
    /// End pods that --keep-on-failure left, and with the last one the run that keeps them
    Stop(StopArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The variant whose pod it is
    pub(crate) variant: String,
    /// The container [default: app]
    pub(crate) container: Option<String>,
    /// The run, where several keep a pod of that variant
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The variant whose pod it is
    pub(crate) variant: String,
    /// The container [default: app]
    pub(crate) container: Option<String>,
    /// The run, where several keep a pod of that variant
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
    /// Go on as more is written, until the pod ends
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Only the pod of this variant
    pub(crate) variant: Option<String>,
    /// Only those of this run
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Whether a run is possible at this isolation level [default: the best this host allows]
    #[arg(long, value_name = "root|subuid|single")]
    pub(crate) isolation: Option<Isolation>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the layers in the store
    List,
    /// Remove layers that no run is using
    Prune {
        /// Only those not used for this long
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        older_than: Option<std::time::Duration>,
    },
}

/// Durations as Compose and Go write them, and days: 500ms, 2s, 1m30s, 7d.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let parsed = text
        .parse::<jiff::Span>()
        .and_then(|span| span.to_duration(days));
    let parsed = parsed
        .map_err(|_| format!("`{text}` is not a duration, for example 500ms, 2s or 1m30s"))?;
    match std::time::Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a duration must be longer than zero".to_owned()),
    }
}

/// An image in a registry, with or without its transport. Another transport is refused with better words later.
fn in_registry(text: &str) -> Result<ImageSource, String> {
    if has_transport(text) {
        return text.parse().map_err(|error| format!("{error}"));
    }
    from_registry(text)
}

/// Whether an image is named with its transport.
pub(crate) fn has_transport(text: &str) -> bool {
    ["oci:", "oci-archive:", "docker-archive:", "docker://"]
        .iter()
        .any(|transport| text.starts_with(transport))
}

/// `REGISTRY/REPO[:TAG][@DIGEST]`. The registry must be there, or a slip in the name of a file would dial Docker Hub.
pub(crate) fn from_registry(text: &str) -> Result<ImageSource, String> {
    let host = text.split_once('/').map_or("", |(host, _)| host);
    let is_host = host == "localhost" || host.contains([':', '.']) && !matches!(host, "." | "..");
    if !is_host || std::path::Path::new(text).exists() {
        return Err(format!(
            "`{text}` names no registry; an image in one is written REGISTRY/REPO:TAG or docker://REPO:TAG"
        ));
    }
    format!("docker://{text}")
        .parse()
        .map_err(|error| format!("{error}"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{text}` is not a number of at least 1")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn durations_read_as_in_compose() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("2m", 120_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(super::duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "2", "0s", "-1s", "soon"] {
            assert!(super::duration(text).is_err(), "{text}");
        }
    }
}
