//! Arguments and environment, settled into what they mean. The only reader of the environment and of $HOME.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use smokegate_gate::GateRequest;
use smokegate_gate::gate_file::Secret;
use smokegate_image::OpenOptions;
use smokegate_registry::{
    AwsEnvironment, CredentialEnvironment, PushOptions, RegistryOptions, RepositorySettings,
};
use smokegate_sandbox::{IdMap, SecretValue};

use crate::args::{CommonArgs, RegistryArgs, RepositorySetting, RunArgs, SourceArgs, TagArgs};
use crate::failure::Failure;
use crate::limits::Limit;
use crate::registry_file;

/// The most of an env file that is read.
const MAX_ENV_FILE: u64 = 1 << 20;

/// Docker's most for a secret.
const MAX_SECRET: u64 = 500 << 10;

/// Where the layer store is.
pub(crate) fn store(common: &CommonArgs) -> Result<PathBuf, Failure> {
    if let Some(store) = &common.store {
        return std::path::absolute(store)
            .map_err(|error| Failure::usage(format!("cannot use --store: {error}")));
    }
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("smokegate"))
        .ok_or_else(|| {
            Failure::usage("neither XDG_CACHE_HOME nor HOME names a directory for the layer store")
                .hint("choose one with --store DIR")
        })
}

/// How the image is read.
///
/// `may_be_foreign` lets an image in that has not the host's platform.
pub(crate) fn open_options(source: &SourceArgs, may_be_foreign: bool) -> OpenOptions {
    let mut options = OpenOptions::new(env::temp_dir());
    options.require_platform = !may_be_foreign;
    if let Some(platform) = &source.platform {
        options.platform = platform.clone();
        options.require_platform = true;
    }
    apply(&source.limit, &mut options);
    options
}

/// How an image is read of which nothing is run.
pub(crate) fn any_platform() -> OpenOptions {
    let mut options = OpenOptions::new(env::temp_dir());
    options.require_platform = false;
    options
}

/// How the images of services are read: for the host's platform, within the limits of all images.
pub(crate) fn service_open_options(limits: &[Limit]) -> OpenOptions {
    let mut options = OpenOptions::new(env::temp_dir());
    apply(limits, &mut options);
    options
}

fn apply(limits: &[Limit], options: &mut OpenOptions) {
    for limit in limits {
        limit.apply(&mut options.limits);
    }
}

/// What the run is asked for.
pub(crate) fn gate_request(run: &RunArgs) -> Result<GateRequest, Failure> {
    let mut variables = Vec::new();
    for file in &run.env_file {
        variables.extend(env_file(file).map_err(Failure::usage)?);
    }
    for entry in &run.env {
        variables.extend(variable(entry).map_err(|e| Failure::usage(format!("--env {e}")))?);
    }
    Ok(GateRequest {
        publish: run.publish.clone(),
        http: run.http.clone(),
        interval: run.interval,
        within: run.within,
        env: variables,
        user: run.user.clone(),
        entrypoint: run.entrypoint.clone(),
        args: run.args.clone(),
    })
}

/// The variables of an env file: one `NAME=VALUE` a line, `#` begins a comment.
pub(crate) fn env_file(file: &Path) -> Result<Vec<String>, String> {
    let shown = file.display();
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_ENV_FILE).read_to_string(&mut text))
        .map_err(|error| format!("cannot read the env file `{shown}`: {error}"))?;
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if !line.is_empty() && !line.starts_with('#') {
            // The line may hold a secret, so that the message names its place only.
            let read = variable(line)
                .map_err(|_| format!("`{shown}` line {} is not NAME=VALUE", number + 1));
            variables.extend(read?);
        }
    }
    Ok(variables)
}

/// A variable of the caller's, for `${NAME}` in the gate file; one that is not UTF-8 counts as unset.
pub(crate) fn variable_of_caller(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// The value of a secret; what is said where there is none does not hold any part of it.
pub(crate) fn secret(secret: &Secret, dir: &Path) -> Result<SecretValue, String> {
    use std::os::unix::ffi::OsStringExt;
    let (value, what) = match secret {
        Secret::Environment(name) => {
            let what = format!("the environment variable `{}`", name.value);
            let value = env::var_os(&name.value).ok_or_else(|| format!("{what} is not set"))?;
            (value.into_vec(), what)
        }
        Secret::File(file) => {
            let what = format!("the file `{}`", file.value);
            let mut value = Vec::new();
            std::fs::File::open(dir.join(&file.value))
                .and_then(|opened| opened.take(MAX_SECRET + 1).read_to_end(&mut value))
                .map_err(|error| format!("cannot read {what}: {error}"))?;
            (value, what)
        }
    };
    if value.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if value.len() as u64 > MAX_SECRET {
        return Err(format!(
            "{what} is larger than 500 KiB, the most a secret may have"
        ));
    }
    Ok(SecretValue::new(value))
}

/// The level of x86-64 that this machine has (x86-64 psABI, "Micro-Architecture Levels"); `None` on others.
pub(crate) fn cpu_level() -> Option<u8> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! has {
            ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
        }
        let v2 = has!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
        let v3 = v2
            && has!(
                "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"
            );
        let v4 = v3 && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
        Some(1 + u8::from(v2) + u8::from(v3) + u8::from(v4))
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// How many variants run side by side where nobody says.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// `NAME=VALUE`; or `NAME`, which takes the caller's value and is left out when there is none (docker run).
fn variable(entry: &str) -> Result<Option<String>, String> {
    let name = entry.split('=').next().unwrap_or_default();
    if name.is_empty() || entry.contains('\0') {
        return Err(format!("`{entry}` is not NAME=VALUE"));
    }
    if entry.contains('=') {
        return Ok(Some(entry.to_owned()));
    }
    match env::var(name) {
        Ok(value) => Ok(Some(format!("{name}={value}"))),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("`{name}`: its value is not UTF-8")),
    }
}

/// The isolation level of a run, and what maps its ids.
pub(crate) fn id_map(run: &RunArgs) -> Result<IdMap, Failure> {
    let Some(level) = run.isolation else {
        return Ok(best_id_map());
    };
    IdMap::at(level, &search_path()).map_err(Failure::from)
}

/// The best id map that this process can have.
pub(crate) fn best_id_map() -> IdMap {
    IdMap::best(&search_path())
}

/// Where programs are looked for.
pub(crate) fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_default()
}

/// How registries are reached.
pub(crate) fn registry_options(args: &RegistryArgs) -> Result<RegistryOptions, Failure> {
    let named = args.registry_config.clone();
    let default = || {
        let absolute = |name: &str| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))
            .map(|config| config.join("smokegate/registries.toml"))
            .filter(|file| file.is_file())
    };
    let registries = match named.or_else(default) {
        Some(file) => registry_file::read(&file)?,
        None => BTreeMap::new(),
    };
    Ok(RegistryOptions {
        registries,
        ca_file: args
            .ca_file
            .clone()
            .or_else(|| env::var_os("SSL_CERT_FILE").map(PathBuf::from)),
        plain_http: args.plain_http,
        ..RegistryOptions::default()
    })
}

/// How tags are moved, with the journal in `report_dir`.
pub(crate) fn push_options(tags: &TagArgs, report_dir: &Path) -> PushOptions {
    PushOptions {
        rollback: !tags.no_rollback,
        journal_dir: Some(report_dir.to_owned()),
        ..PushOptions::default()
    }
}

/// What repositories are made with; none where none is to be made.
pub(crate) fn repository_settings(tags: &TagArgs) -> Option<RepositorySettings> {
    let wanted = tags.create_repository.as_ref()?;
    Some(RepositorySettings {
        immutable: wanted.contains(&RepositorySetting::Immutable),
        scan_on_push: wanted.contains(&RepositorySetting::Scan),
    })
}

/// Where credentials may be.
pub(crate) fn credential_environment() -> CredentialEnvironment {
    let var = |name: &str| -> Option<OsString> { env::var_os(name).filter(|v| !v.is_empty()) };
    CredentialEnvironment {
        path: var("PATH"),
        docker_auth_config: var("DOCKER_AUTH_CONFIG"),
        registry_auth_file: var("REGISTRY_AUTH_FILE"),
        xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
        xdg_config_home: var("XDG_CONFIG_HOME"),
        docker_config: var("DOCKER_CONFIG"),
        home: var("HOME").map(PathBuf::from),
        uid: rustix::process::geteuid().as_raw(),
        aws: AwsEnvironment {
            variables: env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .filter(|(name, _)| AwsEnvironment::reads(name))
                .collect(),
            home: var("HOME").map(PathBuf::from),
        },
    }
}

/// Where small files and spooled archives go.
pub(crate) fn temporary() -> PathBuf {
    env::temp_dir()
}

/// The proxies that are set, without user and password.
pub(crate) fn proxies() -> Vec<(String, String)> {
    let names = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"];
    let names = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_lowercase()]);
    names
        .filter_map(|name| {
            let value = env::var_os(&name).filter(|value| !value.is_empty())?;
            let value = value.to_string_lossy();
            let shown = match value.rsplit_once('@') {
                Some((_, host)) => format!("<user and password hidden>@{host}"),
                None => value.into_owned(),
            };
            Some((name, shown))
        })
        .collect()
}

/// Whether the user wants no colour anywhere (no-color.org).
pub(crate) fn no_color() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Where GitHub's or Gitea's runner reads from, when this is one of its jobs.
#[derive(Clone, Debug)]
pub(crate) struct ActionsEnvironment {
    pub(crate) step_summary: Option<PathBuf>,
    pub(crate) output: Option<PathBuf>,
    /// Gitea knows groups and outputs, and no annotations.
    pub(crate) is_gitea: bool,
}

/// Whether this is a CI job: GitHub, Gitea, GitLab and most others say so with `CI`.
pub(crate) fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !(value.is_empty() || value == "false" || value == "0"))
}

/// `None` outside GitHub and Gitea Actions.
pub(crate) fn actions() -> Option<ActionsEnvironment> {
    env::var_os("GITHUB_ACTIONS").filter(|value| value == "true")?;
    let path = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    Some(ActionsEnvironment {
        step_summary: path("GITHUB_STEP_SUMMARY"),
        output: path("GITHUB_OUTPUT"),
        is_gitea: env::var_os("GITEA_ACTIONS").is_some_and(|value| value == "true"),
    })
}

/// Whether this is a job of GitLab's.
pub(crate) fn is_gitlab() -> bool {
    env::var_os("GITLAB_CI").is_some_and(|value| value == "true")
}
