//! The resolved plan as JSON, with secrets masked: what `--plan` shows, and what the receipt's digest is of.
//!
//! Every field of a plan is named here, so that a new one cannot be left out.

use std::time::Duration;

use serde_json::{Map, Value, json};
use smokegate_gate::gate_file::{Egress, Network};
use smokegate_gate::{
    BodyCheck, ContainerPlan, ExpectPlan, HostPort, HttpProbe, PortMap, Probe, ProbePlan, Scheme,
    ServicePlan, Timing, VariantPlan, VolumeContent, VolumePlan,
};
use smokegate_image::{Digest, Image};
use smokegate_sandbox::ResourceLimits;

use crate::gate_file::Prepared;

/// Stands for a secret.
const MASK: &str = "***";

/// The whole document: what is tested, the digest of it, and how it is run.
pub(crate) fn whole(prepared: &Prepared, image: &Image, tags: &[String]) -> Value {
    json!({
        "digest": digest(prepared).to_string(),
        "fail_fast": prepared.plan.fail_fast,
        "image": image.digest().to_string(),
        "parallel": prepared.plan.parallel,
        "partial": prepared.partial,
        "publish": tags,
        "variants": variants(prepared),
    })
}

/// Digest of `variants` of the document, as JSON without spaces and with sorted keys. Secrets are masked in it, so that
/// a short one cannot be guessed from the digest.
pub(crate) fn digest(prepared: &Prepared) -> Digest {
    Digest::sha256(variants(prepared).to_string().as_bytes())
}

fn variants(prepared: &Prepared) -> Value {
    let variants = prepared.plan.variants.iter();
    variants.map(|plan| variant(plan, prepared)).collect()
}

fn variant(plan: &VariantPlan, prepared: &Prepared) -> Value {
    let VariantPlan {
        name,
        platform,
        services,
        app,
        ports,
        network,
        egress,
        expect,
    } = plan;
    let services = services.iter().map(|plan| service(plan, prepared));
    json!({
        "name": name,
        "platform": prepared.platforms[*platform],
        "services": services.collect::<Vec<_>>(),
        "app": container(app, prepared),
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "network": match network {
            Network::Bridge => "bridge",
            Network::Shared => "shared",
        },
        "egress": match egress {
            Egress::None => "none",
            Egress::Host => "host",
        },
        "expect": expectations(expect),
    })
}

fn expectations(plan: &ExpectPlan) -> Value {
    let ExpectPlan {
        stays_healthy,
        logs_never,
        stops_within,
        completion,
    } = plan;
    json!({
        "stays_healthy": stays_healthy.map(time),
        "logs_never": logs_never.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "stops_within": stops_within.map(time),
        "exit_code": completion.map(|completion| completion.exit_code),
        "exits_within": completion.map(|completion| time(completion.within)),
    })
}

fn service(plan: &ServicePlan, prepared: &Prepared) -> Value {
    let ServicePlan {
        container: own,
        depends_on,
        one_shot,
        post_ready,
        ports,
        within,
    } = plan;
    let post_ready: Vec<Vec<String>> = post_ready.iter().map(|args| masked(args)).collect();
    json!({
        "container": container(own, prepared),
        "depends_on": depends_on,
        "one_shot": one_shot,
        "post_ready": post_ready,
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "within": time(*within),
    })
}

fn container(plan: &ContainerPlan, prepared: &Prepared) -> Value {
    let ContainerPlan {
        name,
        image,
        args,
        env,
        user,
        working_dir,
        volumes,
        secrets,
        limits,
        hostname,
        host_config,
        stop_signal,
        stop_grace_period,
        probes,
    } = plan;
    let image = match image.checked_sub(1) {
        None => json!("app"),
        Some(place) => {
            let service = &prepared.services[place];
            json!({"platform": service.platform, "manifest": service.manifest.to_string()})
        }
    };
    let environment: Map<String, Value> = env.iter().map(|entry| variable(entry)).collect();
    json!({
        "name": name,
        "image": image,
        "args": masked(args),
        "environment": environment,
        "user": user,
        "working_dir": working_dir,
        "volumes": volumes.iter().map(volume).collect::<Vec<_>>(),
        "secrets": secrets.iter().map(|secret| &secret.name).collect::<Vec<_>>(),
        "limits": resource_limits(*limits),
        "hostname": hostname,
        "host_config": serde_json::to_value(host_config).expect("it crosses the process boundary as JSON too"),
        "stop_signal": stop_signal,
        "stop_grace_period": time(*stop_grace_period),
        "probes": probes.iter().map(probe).collect::<Vec<_>>(),
    })
}

fn volume(plan: &VolumePlan) -> Value {
    let VolumePlan {
        content,
        target,
        read_only,
    } = plan;
    let source = match content {
        VolumeContent::Image => json!("image"),
        VolumeContent::Named(name) => json!({"volume": name}),
        VolumeContent::Tmpfs { size, mode } => json!({"tmpfs": {"size": size, "mode": mode}}),
        VolumeContent::Bind(path) => json!({"bind": path.path()}),
    };
    json!({"source": source, "target": target, "read_only": read_only})
}

fn resource_limits(limits: ResourceLimits) -> Value {
    let ResourceLimits { memory, cpus, pids } = limits;
    json!({"memory": memory, "millicpus": cpus, "pids": pids})
}

fn probe(plan: &ProbePlan) -> Value {
    let ProbePlan {
        name,
        probe,
        timing,
    } = plan;
    let Timing {
        interval,
        first_delay: _,
        growth: _,
        timeout,
        within,
        retries,
        successes,
    } = timing;
    let question = match probe {
        Probe::Http(http) => json!({"http": self::http(http)}),
        Probe::Tcp { port } => json!({"tcp": port}),
        Probe::Exec { args, expect } => json!({"exec": masked(args), "expect": expect}),
        Probe::Log { pattern, count } => {
            json!({"log": {"regex": pattern.to_string(), "count": count}})
        }
        Probe::Healthcheck { args } => json!({"healthcheck": masked(args)}),
    };
    let mut document = json!({
        "name": name,
        "interval": time(*interval),
        "timeout": time(*timeout),
        "within": time(*within),
        "retries": retries.as_ref().map(|retries| retries.count),
        "start_period": retries.as_ref().map(|retries| time(retries.start_period)),
        "successes": successes,
    });
    if let (Value::Object(document), Value::Object(question)) = (&mut document, question) {
        document.extend(question);
    }
    document
}

fn http(plan: &HttpProbe) -> Value {
    let HttpProbe {
        port,
        path,
        method,
        scheme,
        headers,
        status,
        body,
    } = plan;
    let headers = headers.iter().map(|(name, value)| {
        let word = name.to_ascii_lowercase();
        let is_secret = is_secret(&name.replace('-', "_"))
            || matches!(
                word.as_str(),
                "authorization" | "proxy-authorization" | "cookie"
            );
        let value = if is_secret {
            MASK.to_owned()
        } else {
            masked_text(value)
        };
        json!({"name": name, "value": value})
    });
    let body = body.iter().map(|check| match check {
        BodyCheck::Contains(text) => json!({"contains": text}),
        BodyCheck::Matches(pattern) => json!({"regex": pattern.to_string()}),
        BodyCheck::Json { pointer, equals } => json!({"json": pointer, "equals": equals}),
    });
    let status = status
        .iter()
        .map(|range| format!("{}-{}", range.start(), range.end()));
    json!({
        "port": port,
        "path": masked_text(path),
        "method": method,
        "scheme": if *scheme == Scheme::Http { "http" } else { "https" },
        "insecure": *scheme == Scheme::HttpsInsecure,
        "headers": headers.collect::<Vec<_>>(),
        "status": status.collect::<Vec<_>>(),
        "body": body.collect::<Vec<_>>(),
    })
}

fn port(map: &PortMap) -> Value {
    let PortMap {
        ip,
        host,
        container,
    } = map;
    let host = match host {
        HostPort::Exactly(port) => format!("{ip}:{port}"),
        HostPort::Rather(port) => format!("{ip}:{port}, or a free one"),
        HostPort::Any => format!("{ip}, a free one"),
    };
    json!({"host": host, "container": container})
}

/// Milliseconds where it is no whole number of seconds.
fn time(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

fn variable(entry: &str) -> (String, Value) {
    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
    let value = if is_secret(name) && !value.is_empty() {
        MASK.to_owned()
    } else {
        masked_text(value)
    };
    (name.to_owned(), value.into())
}

/// Whether a variable of this name holds a secret; one that ends in `_FILE` names a file that does.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 8] = [
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "SECRET",
        "TOKEN",
        "CREDENTIAL",
        "API_KEY",
        "PRIVATE_KEY",
    ];
    let name = name.to_ascii_uppercase();
    let named = WORDS.iter().any(|word| name.contains(word));
    (named || name.ends_with("_KEY") || name.ends_with("APIKEY") || name.ends_with("_PWD"))
        && !name.ends_with("_FILE")
}

fn masked(args: &[String]) -> Vec<String> {
    args.iter().map(|arg| masked_text(arg)).collect()
}

/// Text with the passwords of its URLs masked: `postgres://user:***@host`.
fn masked_text(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        masked.push_str(before);
        let end = after
            .find(['/', '?', '#', ' ', '"', '\''])
            .unwrap_or(after.len());
        let (authority, others) = after.split_at(end);
        match authority
            .rsplit_once('@')
            .and_then(|(user, host)| Some((user.split_once(':')?.0, host)))
        {
            Some((user, host)) => masked.push_str(&format!("{user}:{MASK}@{host}")),
            None => masked.push_str(authority),
        }
        rest = others;
    }
    masked + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_by_name_and_in_urls() {
        for (entry, shown) in [
            ("POSTGRES_PASSWORD=smoketest", MASK),
            ("API_TOKEN=x", MASK),
            ("AWS_SECRET_ACCESS_KEY=x", MASK),
            ("POSTGRES_PASSWORD_FILE=/run/secrets/db", "/run/secrets/db"),
            ("EMPTY_TOKEN=", ""),
            ("KEYBOARD=de", "de"),
            ("PWD=/srv", "/srv"),
            (
                "URL=postgres://smoke:p:w@db:5432/x?a=b",
                "postgres://smoke:***@db:5432/x?a=b",
            ),
            ("URL=redis://:pw@redis:6379/0", "redis://:***@redis:6379/0"),
            ("URL=http://user@host/a@b:c", "http://user@host/a@b:c"),
            ("TWO=a://b:c@d e://f:g@h", "a://b:***@d e://f:***@h"),
        ] {
            assert_eq!(variable(entry).1, shown, "{entry}");
        }
    }

    #[test]
    fn times_are_as_the_gate_file_writes_them() {
        for (millis, text) in [(2_000, "2s"), (1_500, "1500ms"), (0, "0s")] {
            assert_eq!(time(Duration::from_millis(millis)), text);
        }
    }
}
