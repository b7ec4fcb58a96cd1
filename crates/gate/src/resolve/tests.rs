//! How file, flags and images combine.

use std::time::Duration;

use smokegate_image::ImageConfig;
use smokegate_sandbox::{Capability, HostConfig};

use super::*;
use crate::draft::{FIRST_DELAY, REQUEST_GROWTH};
use crate::gate_file::ParseOptions;

const FILE: &str = r#"
version: 1
services:
  db:
    image: oci:db
    command: [db, --fast]
    environment: {DB: "1"}
  migrate: {image: app, command: [migrate], one_shot: true, depends_on: [db]}
app:
  entrypoint: [/start]
  environment: {SHARED: app, GONE: app}
  ports: ["18080:8080", "0:9100"]
  working_dir: /srv/../app
  depends_on: [db]
  probes:
    - {http: {port: 8080, path: /health}, interval: 5s, within: 90s}
variants:
  one:
    environment: {SHARED: one, GONE: null}
    probes: [{tcp: 9100}]
  two:
    command: [--slow]
    ports: ["0:8080"]
    services: []
"#;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn config(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
    ImageConfig {
        entrypoint: strings(entrypoint),
        cmd: strings(cmd),
        env: strings(&["IMAGE=1", "SHARED=image"]),
        ..ImageConfig::default()
    }
}

fn resolved(text: &str, request: &GateRequest, only: &[String]) -> Result<GatePlan, ResolveError> {
    resolved_for(&config(&["/app"], &["serve"]), text, request, only)
}

fn resolved_for(
    app: &ImageConfig,
    text: &str,
    request: &GateRequest,
    only: &[String],
) -> Result<GatePlan, ResolveError> {
    let source = Source::read("smokegate.yaml", text.as_bytes()).unwrap();
    let options = ParseOptions {
        lookup: &|_| None,
        fill_publish: false,
    };
    let file = GateFile::parse(&source, &options).unwrap();
    let db = config(&["/db-entrypoint"], &["db"]);
    let services: Vec<&ImageConfig> = service_images(&file).iter().map(|_| &db).collect();
    resolve(&ResolveInput {
        file: &file,
        source: &source,
        request,
        platforms: &[
            ("linux/amd64", app),
            ("linux/arm64", app),
            ("linux/arm/v7", app),
        ],
        selected: Some(0),
        platform_is_asked: false,
        services: &services,
        env_file: &|name| Err(format!("no file {name}")),
        bind: &|path| HostPath::find(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), path),
        secret: &|secret| match secret {
            Secret::Environment(name) if name.value == "SET" => {
                Ok(SecretValue::new(b"hunter2".to_vec()))
            }
            _ => Err("it is not there".to_owned()),
        },
        only,
        parallel: 3,
    })
}

#[test]
fn a_variant_lies_over_the_app_and_the_app_over_the_image() {
    let plan = resolved(FILE, &GateRequest::default(), &[]).unwrap();
    let [one, two] = &plan.variants[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(plan.parallel, 3);
    // The file's entrypoint drops the image's CMD; the variant's command goes with it.
    assert_eq!(one.app.args, ["/start"]);
    assert_eq!(two.app.args, ["/start", "--slow"]);
    assert_eq!(one.app.env, ["IMAGE=1", "SHARED=one"]);
    assert_eq!(two.app.env, ["IMAGE=1", "SHARED=app", "GONE=app"]);
    assert_eq!(one.app.working_dir, "/app");
    let asked = |variant: &VariantPlan| {
        variant
            .app
            .probes
            .iter()
            .map(|p| p.probe.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        asked(one),
        ["GET /health on port 8080", "a TCP connection to port 9100"]
    );
    assert_eq!(asked(two), ["GET /health on port 8080"]);
    assert_eq!(one.app.probes[0].timing.within, Duration::from_secs(90));
}

#[test]
fn services_come_in_order_with_their_images_and_the_apps_environment_where_it_is_the_app() {
    let plan = resolved(FILE, &GateRequest::default(), &[]).unwrap();
    let [db, migrate] = &plan.variants[0].services[..] else {
        panic!("{plan:?}")
    };
    assert_eq!((db.container.name.as_str(), db.container.image), ("db", 1));
    assert_eq!(db.container.args, ["/db-entrypoint", "db", "--fast"]);
    assert_eq!(db.container.env, ["IMAGE=1", "SHARED=image", "DB=1"]);
    assert_eq!((migrate.container.image, migrate.one_shot), (0, true));
    assert_eq!(migrate.container.args, ["/app", "migrate"]);
    assert_eq!(migrate.container.env, ["IMAGE=1", "SHARED=one"]);
    assert_eq!(migrate.depends_on, ["db"]);
    assert!(plan.variants[1].services.is_empty());
}

#[test]
fn of_the_apps_keys_a_service_with_its_image_gets_the_environment_only() {
    let file = FILE
        .replace(
            "[migrate], ",
            "[migrate], environment: {OWN: own, SHARED: null}, ",
        )
        .replace("app:\n", "app:\n  user: other\n  read_only: true\n");
    let request = GateRequest {
        env: ["FLAG=flag", "OWN=flag"].map(str::to_owned).to_vec(),
        user: Some("flag".to_owned()),
        ..GateRequest::default()
    };
    let plan = resolved(&file, &request, &[]).unwrap();
    let migrate = &plan.variants[0].services[1].container;
    assert_eq!(migrate.env, ["IMAGE=1", "FLAG=flag", "OWN=own"]);
    let app = &plan.variants[0].app;
    assert_eq!(
        (app.user.as_str(), app.host_config.read_only),
        ("flag", true)
    );
    assert_eq!(app.working_dir, "/app");
    assert_eq!(
        (migrate.user.as_str(), migrate.host_config.read_only),
        ("", false)
    );
    assert_eq!(migrate.working_dir, "/");
    assert_eq!(migrate.args, ["/app", "migrate"]);
}

#[test]
fn host_ports_are_the_first_variants() {
    let file = FILE.replace(
        "image: oci:db\n",
        "image: oci:db\n    ports: [\"15432:5432\"]\n",
    );
    let file = file.replace("    services: []\n", "");
    let plan = resolved(&file, &GateRequest::default(), &[]).unwrap();
    let of_db = |variant: &VariantPlan| {
        let [map] = &variant.services[0].ports[..] else {
            panic!("{variant:?}")
        };
        (map.host, map.container)
    };
    assert_eq!(of_db(&plan.variants[0]), (HostPort::Exactly(15432), 5432));
    assert_eq!(of_db(&plan.variants[1]), (HostPort::Any, 5432));

    let plan = resolved(FILE, &GateRequest::default(), &[]).unwrap();
    let hosts = |variant: &VariantPlan| variant.ports.iter().map(|p| p.host).collect::<Vec<_>>();
    assert_eq!(
        hosts(&plan.variants[0]),
        [HostPort::Exactly(18080), HostPort::Any]
    );
    let only_two = resolved(
        &FILE.replace("    ports: [\"0:8080\"]\n", ""),
        &GateRequest::default(),
        &[],
    )
    .unwrap();
    assert_eq!(hosts(&only_two.variants[1]), [HostPort::Any, HostPort::Any]);
}

#[test]
fn flags_win() {
    let request = GateRequest {
        publish: vec!["7000:7001".parse().unwrap()],
        http: Some("/flag".into()),
        within: Some(Duration::from_secs(3)),
        env: strings(&["SHARED=flag"]),
        user: Some("flag".into()),
        args: strings(&["x"]),
        ..GateRequest::default()
    };
    let plan = resolved(FILE, &request, &strings(&["one"])).unwrap();
    let [one] = &plan.variants[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(one.app.args, ["/start", "x"]);
    assert_eq!(one.app.user, "flag");
    assert!(one.app.env.contains(&"SHARED=flag".to_owned()));
    assert_eq!(one.app.probes.len(), 1);
    assert_eq!(one.app.probes[0].probe, Probe::get(7001, "/flag"));
    assert_eq!(one.app.probes[0].timing.within, Duration::from_secs(3));
}

#[test]
fn volumes_replace_a_list_and_the_images_own_where_they_stand() {
    let file = FILE
        .replace(
            "  working_dir: /srv/../app",
            "  volumes: [\"data:/data\", \"./src:/src/:ro\"]\n  mem_limit: 64m\n  secrets: {pw: {environment: SET}}",
        )
        .replace(
            "    command: [--slow]",
            "    volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1k}}]\n    pids_limit: 7\n    secrets: {}",
        );
    let image = ImageConfig {
        volumes: strings(&["/data", "/var"]),
        ..config(&["/app"], &["serve"])
    };
    let plan = resolved_for(&image, &file, &GateRequest::default(), &[]).unwrap();
    let [one, two] = &plan.variants[..] else {
        panic!("{plan:?}")
    };
    let targets = |variant: &VariantPlan| {
        let volumes = variant.app.volumes.iter();
        volumes
            .map(|volume| (volume.target.clone(), volume.read_only))
            .collect::<Vec<_>>()
    };
    let at = |target: &str, read_only| (target.to_owned(), read_only);
    assert_eq!(
        targets(one),
        [at("/var", false), at("/data", false), at("/src", true)]
    );
    // The variant's list has nothing at `/data`, so that the image's own is there again.
    assert_eq!(
        targets(two),
        [at("/data", false), at("/var", false), at("/t", false)]
    );
    assert_eq!(one.app.limits.memory, Some(64 << 20));
    assert_eq!(
        (two.app.limits.memory, two.app.limits.pids),
        (Some(64 << 20), Some(7))
    );
    assert_eq!((one.app.secrets.len(), two.app.secrets.len()), (1, 0));
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn what_cannot_be_run_yet_is_refused_with_its_place() {
    for (from, to, place) in [
        (
            "  working_dir: /srv/../app",
            "  mem_limit: 5m",
            "smokegate.yaml:13:14: the least memory is 6m",
        ),
        (
            "  entrypoint: [/start]",
            "  volumes: [\"./no-such:/x:ro\"]",
            "there is no `./no-such` below the gate file's directory",
        ),
        (
            "  entrypoint: [/start]",
            "  secrets: {x: {environment: SET}}\n  volumes: [\"v:/run/secrets\"]",
            "`/run/secrets` is where the container's secrets are",
        ),
        (
            "  entrypoint: [/start]",
            "  secrets: {x: {environment: UNSET}}",
            "smokegate.yaml:10:30: it is not there",
        ),
        (
            "tcp: 9100",
            "healthcheck: true",
            "the image has no HEALTHCHECK",
        ),
        (
            "path: /health}",
            "path: /health, insecure: true}",
            "HTTP has no certificate to accept",
        ),
        (
            "  entrypoint: [/start]",
            "  env_file: missing.env",
            "no file missing.env",
        ),
    ] {
        assert!(FILE.contains(from), "{from}");
        let error = resolved(&FILE.replace(from, to), &GateRequest::default(), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains(place), "{place}:\n{error}");
    }
    let unknown = resolved(FILE, &GateRequest::default(), &strings(&["three"]))
        .unwrap_err()
        .to_string();
    assert_eq!(
        unknown,
        "the gate file has no variant `three`; it has one, two"
    );
}

#[test]
fn rights_and_limits_are_replaced_key_by_key_and_services_have_their_own() {
    const FILE: &str = r#"
version: 1
services:
  db: {image: oci:db, read_only: true, cap_drop: [ALL]}
app:
  depends_on: [db]
  cap_add: [NET_ADMIN]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  read_only: true
  shm_size: 1m
  ulimits: {nofile: {soft: 1, hard: -1}, core: 0}
  extra_hosts: {db.internal: "::1"}
variants:
  same:
  other:
    cap_add: [cap_chown, KILL]
    cap_drop: []
    security_opt: []
    read_only: false
    ulimits: {nproc: 9}
    extra_hosts: []
"#;
    let plan = resolved(FILE, &GateRequest::default(), &[]).unwrap();
    let words = |list: &[Capability]| {
        let words = list.iter().map(Capability::to_string);
        words.collect::<Vec<_>>().join(" ")
    };
    let limits = |host: &HostConfig| {
        let limits = host.ulimits.iter();
        let limits = limits.map(|limit| (limit.name.clone(), limit.soft, limit.hard));
        limits.collect::<Vec<_>>()
    };
    let same = &plan.variants[0].app.host_config;
    assert_eq!(
        (words(&same.cap_add), words(&same.cap_drop)),
        ("NET_ADMIN".into(), "ALL".into())
    );
    assert!(same.no_new_privileges && same.read_only);
    assert_eq!(same.shm_size, Some(1 << 20));
    assert_eq!(
        limits(same),
        [("nofile".into(), 1, u64::MAX), ("core".into(), 0, 0)]
    );
    assert_eq!(
        same.extra_hosts,
        [("db.internal".to_owned(), "::1".parse().unwrap())]
    );

    let other = &plan.variants[1].app.host_config;
    assert_eq!(words(&other.cap_add), "CHOWN KILL");
    assert_eq!(limits(other), [("nproc".into(), 9, 9)]);
    let rest = HostConfig {
        cap_add: Vec::new(),
        ulimits: Vec::new(),
        shm_size: None,
        ..other.clone()
    };
    assert_eq!(rest, HostConfig::default());

    let service = &plan.variants[0].services[0].container.host_config;
    assert!(service.read_only && !service.no_new_privileges);
    assert_eq!(
        (words(&service.cap_add), words(&service.cap_drop)),
        (String::new(), "ALL".into())
    );
}

#[test]
fn every_key_of_a_probe_is_in_the_plan() {
    let probe = r#"{
        http: {port: 8443, path: /login, method: POST, scheme: https, insecure: true, status: [200, 300-399],
          headers: {Host: shop}, body: {contains: ok, regex: "^o", json: {/a: 1}}},
        name: login, interval: 1s, timeout: 3s, within: 4s, start_period: 5s, retries: 6, successes: 7}"#;
    let plan = resolved(
        &FILE.replace("{tcp: 9100}", probe),
        &GateRequest::default(),
        &[],
    );
    let probe = plan.unwrap().variants[0].app.probes[1].clone();
    assert_eq!(probe.name.as_deref(), Some("login"));
    let Probe::Http(http) = probe.probe else {
        panic!("{:?}", probe.probe)
    };
    assert_eq!(
        (http.port, http.path.as_str(), http.method.as_str()),
        (8443, "/login", "POST")
    );
    assert_eq!(http.scheme, Scheme::HttpsInsecure);
    assert_eq!(http.status, [200..=200, 300..=399]);
    assert_eq!(http.headers, [("Host".to_owned(), "shop".to_owned())]);
    assert_eq!(http.body.len(), 3);
    let second = Duration::from_secs(1);
    assert_eq!(
        probe.timing,
        Timing {
            interval: second,
            first_delay: FIRST_DELAY,
            growth: REQUEST_GROWTH,
            timeout: 3 * second,
            within: 4 * second,
            retries: Some(Retries {
                count: 6,
                start_period: 5 * second,
            }),
            successes: 7,
        }
    );
}

#[test]
fn a_variant_that_is_to_end_needs_no_probe() {
    let file = FILE
        .replace(
            "    services: []",
            "    expect: {exit_code: 3, logs_never: [panic], stops_within: 1s}",
        )
        .replace(
            "  probes:\n    - {http: {port: 8080, path: /health}, interval: 5s, within: 90s}\n",
            "",
        );
    let plan = resolved(&file, &GateRequest::default(), &[]).unwrap();
    assert_eq!(plan.variants[0].expect, ExpectPlan::default());
    let two = &plan.variants[1];
    assert!(two.app.probes.is_empty(), "{:?}", two.app.probes);
    let within = DEFAULT_WITHIN;
    let completion = Completion {
        exit_code: 3,
        within,
    };
    assert_eq!(two.expect.completion, Some(completion));
    assert_eq!(two.expect.stops_within, Some(Duration::from_secs(1)));
    assert_eq!(two.expect.logs_never[0].to_string(), "panic");
    let asked = GateRequest {
        http: Some("/up".into()),
        within: Some(Duration::from_secs(9)),
        ..GateRequest::default()
    };
    let two = &resolved(&file, &asked, &[]).unwrap().variants[1];
    assert_eq!(two.app.probes.len(), 1);
    assert_eq!(
        two.expect.completion.unwrap().within,
        Duration::from_secs(9)
    );
}

#[test]
fn variants_run_on_the_platforms_that_are_wanted() {
    let run = |top: &str, one: &str| {
        let file = FILE
            .replace("version: 1", &format!("version: 1\n{top}"))
            .replace("  one:", &format!("  one:\n    {one}"));
        let plan = resolved(&file, &GateRequest::default(), &[]);
        plan.map(|plan| {
            let variants = plan.variants.iter();
            let variants = variants.map(|variant| (variant.name.clone(), variant.platform));
            variants.collect::<Vec<_>>()
        })
        .map_err(|error| error.to_string())
    };
    let names = |list: &[(&str, usize)]| {
        let owned = list
            .iter()
            .map(|(name, place)| ((*name).to_owned(), *place));
        Ok::<_, String>(owned.collect::<Vec<_>>())
    };
    assert_eq!(run("", ""), names(&[("one", 0), ("two", 0)]));
    assert_eq!(
        run("platforms: [linux/arm64]", ""),
        names(&[("one", 1), ("two", 1)])
    );
    assert_eq!(
        run(
            "platforms: [linux/arm64, linux/amd64]",
            "platform: linux/arm/v7"
        ),
        names(&[("one", 2), ("two@linux-amd64", 0), ("two@linux-arm64", 1)])
    );
    assert_eq!(run("platforms: all", "").unwrap().len(), 6);
    for (top, one, place) in [
        (
            "platforms: [linux/s390x]",
            "",
            "smokegate.yaml:3:13: the image has no linux/s390x",
        ),
        ("", "platform: linux/s390x", "the image has no linux/s390x"),
    ] {
        let error = run(top, one).unwrap_err();
        assert!(error.contains(place), "{error}");
        assert!(
            error.contains("it has linux/amd64, linux/arm64, linux/arm/v7"),
            "{error}"
        );
    }
    let file = "version: 1\nplatforms: [linux/arm64]\nvariants: {one: {platform: linux/amd64}}\n";
    let error = resolved(file, &GateRequest::default(), &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`platforms` wants linux/arm64 tested"),
        "{error}"
    );
}
