//! The pod's network: names, what is refused and what is said about it, one namespace for all, and the way out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use smokegate_test_support::{
    Finished, ImageFixture, Need, RunAs, Smokegate, probe_target, require,
};

/// An app that does something and then serves, with a service beside it that listens on 6379.
const GATE_FILE: &str = r#"
version: 1
services:
  redis:
    image: app
    entrypoint: [/probe-target, serve]
    command: [--port, "6379"]
    probes: [{tcp: 6379}]
app:
  entrypoint: [/probe-target]
  command: [@]
  ports: ["0:8080"]
  depends_on: [redis]
  probes:
    - {http: {port: 8080, path: /healthz}, interval: 100ms, within: 20s}
"#;

struct Bench {
    context: Smokegate,
    image: String,
}

impl Bench {
    fn new(run_as: RunAs) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let image = context.archive("serve", &ImageFixture::load("serve").build());
        let image = image.display().to_string();
        Some(Self { context, image })
    }

    fn write(&self, words: &str, top: &str) {
        let words: Vec<_> = words.split(' ').map(|word| format!("{word:?}")).collect();
        let file = GATE_FILE.replace('@', &words.join(", ")) + top;
        self.context.write("smokegate.yaml", file);
    }

    /// Runs an app that does what the words say; `top` is added to the gate file.
    fn gate(&self, words: &str, top: &str) -> Finished {
        self.write(words, top);
        self.context.run(["gate", &self.image])
    }

    /// The network of the last run's only variant.
    fn network(&self) -> Value {
        self.context.receipt()["variants"][0]["network"].clone()
    }

    /// A program that refuses system calls to what it starts, or is the other side of a connection.
    fn helper(&self) -> PathBuf {
        let helper = self.context.place(probe_target());
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        helper
    }
}

fn assert_says(finished: &Finished, text: &str) {
    assert!(
        finished.stderr.contains(text),
        "{text}:\n{}",
        finished.stderr
    );
}

fn localhost_is_the_app_alone(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    let words = "connect localhost:6379 then serve";
    let failed = bench.gate(words, "");
    failed.assert_code(1);
    assert_says(
        &failed,
        "app dialled localhost:6379, nothing listens there; service redis does, on redis:6379",
    );
    assert_says(
        &failed,
        "hint: localhost in a container is that container alone: dial redis:6379",
    );
    let network = bench.network();
    assert_eq!(network["mode"], "bridge");
    assert_eq!(network["not_counted"], Value::Null);
    let [app] = network["reached"].as_array().unwrap().as_slice() else {
        panic!("{network}");
    };
    assert_eq!(app["container"], "app");
    assert_eq!(app["refused"].as_array().unwrap().len(), 1, "{network}");
    assert_eq!(app["refused"][0]["address"], "127.0.0.1:6379");

    // Where production runs all in one pod, the same app is right.
    let passed = bench.gate(words, "network: shared\n");
    passed.assert_code(0);
    assert_eq!(bench.network()["mode"], "shared");
    bench
        .gate("connect redis:6379 then serve", "network: shared\n")
        .assert_code(0);
    bench
        .gate("connect redis:6379 then serve", "")
        .assert_code(0);
}

#[test]
fn root_localhost_of_the_app_differs_between_the_two_networks() {
    localhost_is_the_app_alone(RunAs::Root);
}

#[test]
fn rootless_localhost_of_the_app_differs_between_the_two_networks() {
    localhost_is_the_app_alone(RunAs::OrdinaryUser);
}

#[test]
fn rootless_names_of_the_pod_resolve_and_all_others_do_not_exist() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    let words = "cat /etc/resolv.conf then resolve redis then ask-name udp A redis then ask-name udp AAAA redis \
                 then ask-name tcp A app then ask-name tcp A other then try resolve rediss then serve";
    for top in ["", "network: shared\n"] {
        bench.gate(words, top).assert_code(0);
        let log = bench.context.app_log();
        let ip = if top.is_empty() {
            "10.88.0.2"
        } else {
            "10.88.0.1"
        };
        for line in [
            "nameserver 10.88.0.1",
            &format!("redis is {ip}"),
            "udp A redis: code 0, 1 answers",
            "udp AAAA redis: code 0, 0 answers",
            "tcp A app: code 0, 1 answers",
            "tcp A other: code 3, 0 answers",
        ] {
            assert!(log.iter().any(|found| found == line), "{line}: {log:?}");
        }
        let unresolved = &bench.network()["reached"][0]["unresolved"];
        assert_eq!(
            *unresolved,
            serde_json::json!(["other", "rediss"]),
            "{}",
            bench.network()
        );
    }
    let failed = bench.gate("connect rediss:6379", "");
    failed.assert_code(1);
    assert_says(
        &failed,
        "app asked for the name `rediss`; did you mean `redis`?",
    );
}

fn nothing_leaves(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    for top in ["", "network: shared\n"] {
        let words = "send-udp 192.0.2.2:8125 then try connect [::1]:6 then connect 192.0.2.1:443";
        let failed = bench.gate(words, top);
        failed.assert_code(1);
        assert_says(&failed, "192.0.2.1:443: ConnectionRefused");
        let who = if top.is_empty() {
            "app"
        } else {
            "a container of the pod"
        };
        assert_says(
            &failed,
            &format!(
                "{who} dialled 192.0.2.1:443 (TCP), which is outside the pod: `egress: none` lets nothing out"
            ),
        );
        assert_says(
            &failed,
            &format!("{who} dialled localhost:6, nothing listens there"),
        );
        let network = bench.network();
        let blocked = network["reached"][0]["blocked"].as_array().unwrap();
        let mut blocked: Vec<_> = blocked
            .iter()
            .map(|one| format!("{} {}", one["protocol"], one["address"]).replace('"', ""))
            .collect();
        blocked.sort();
        assert_eq!(blocked, ["tcp 192.0.2.1:443", "udp 192.0.2.2:8125"]);
    }
}

#[test]
fn root_nothing_leaves_the_pod_and_what_was_to_is_named() {
    nothing_leaves(RunAs::Root);
}

#[test]
fn rootless_nothing_leaves_the_pod_and_what_was_to_is_named() {
    nothing_leaves(RunAs::OrdinaryUser);
}

/// Runs smokegate where this machine has no address but one of its own making, with a name server and a server that
/// sends back what it is told, once that is all.
fn egress_to_the_host(run_as: RunAs) {
    if !require(Need::Root) {
        return;
    }
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    let helper = bench.helper().display().to_string();
    bench
        .context
        .write("resolv.conf", "nameserver 198.51.100.1\n");
    let uid = run_as.uid();
    let script = format!(
        "ip link set lo up && ip address add 198.51.100.1/32 dev lo \
         && mount --bind resolv.conf /etc/resolv.conf || exit 99\n\
         {helper} half-close-echo --port 9000 > /dev/null & echo=$!\n\
         {helper} name-server 198.51.100.1:53 api.test 198.51.100.1 & names=$!\n\
         setpriv --reuid {uid} --regid {uid} --clear-groups -- \"$@\"; code=$?\n\
         kill $echo $names; exit $code"
    );
    let run = |words: &str, top: &str| {
        bench.write(words, top);
        let own = bench.context.command(["gate", &bench.image]);
        let mut command = smokegate_test_support::program("unshare");
        command
            .args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &script,
                "sh",
            ])
            .arg(bench.context.dir().join("bin/smokegate"))
            .args(["gate", &bench.image])
            .env_clear()
            .envs(
                own.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(bench.context.dir());
        bench
            .context
            .start_command(command)
            .wait(Duration::from_secs(60))
    };
    for network in ["", "network: shared\n"] {
        let words = "resolve api.test then exchange api.test:9000 hello then ask-name tcp AAAA redis \
                     then try resolve nope.test then send-udp 198.51.100.1:123 \
                     then try connect 198.51.100.1:9 then connect redis:6379 then serve";
        let top = format!("{network}egress: host\n");
        let passed = run(words, &top);
        passed.assert_code(0);
        let log = bench.context.app_log();
        for line in ["api.test is 198.51.100.1", "it said: hello"] {
            assert!(log.iter().any(|found| found == line), "{line}: {log:?}");
        }
        let network = bench.network();
        assert_eq!(network["egress"], "host");
        let reached = &network["reached"][0];
        assert_eq!(reached["unresolved"], serde_json::json!(["nope.test"]));
        assert_eq!(reached["blocked"][0]["address"], "198.51.100.1:123");
        let connected = reached["connected"].as_array().unwrap();
        let of = |address: &str| connected.iter().find(|one| one["address"] == address);
        assert_eq!(of("198.51.100.1:9000").unwrap()["error"], Value::Null);
        let refused = of("198.51.100.1:9").unwrap()["error"].to_string();
        assert!(refused.contains("refused"), "{network}");
    }
    // What the host has on its loopback is no destination, whatever the app calls it.
    let failed = run("connect 127.0.0.1:9000", "egress: host\n");
    failed.assert_code(1);
    assert_says(&failed, "app dialled localhost:9000, nothing listens there");
    run("connect 198.51.100.1:9000", "").assert_code(1);
}

#[test]
fn root_egress_reaches_what_the_host_reaches() {
    egress_to_the_host(RunAs::Root);
}

#[test]
fn rootless_egress_reaches_what_the_host_reaches() {
    egress_to_the_host(RunAs::OrdinaryUser);
}

/// The netlink protocol of nf_tables (NETLINK_NETFILTER).
const NETFILTER: &str = "12";
/// Bytes of the request that makes the bridge.
const BRIDGE_REQUEST: &str = "64";

#[test]
fn rootless_without_nf_tables_nothing_is_counted_and_nothing_leaves_either() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    let helper = bench.helper().display().to_string();
    let wrapper = [helper.as_str(), "refuse-socket-protocol", NETFILTER];
    let run = |words: &str, top: &str| {
        bench.write(words, top);
        let command = bench
            .context
            .command_under(&wrapper, ["gate", &bench.image]);
        bench
            .context
            .start_command(command)
            .wait(Duration::from_secs(60))
    };
    for network in ["", "network: shared\n"] {
        let words = "try connect 192.0.2.1:443 then connect redis:6379 then serve";
        run(words, network).assert_code(0);
        let log = bench.context.app_log();
        assert!(log[0].contains("HostUnreachable"), "{log:?}");
        let why = bench.network()["not_counted"].to_string();
        assert!(why.contains("nft add table inet answered EPERM"), "{why}");
    }
    let refused = run("serve", "egress: host\n");
    refused.assert_code(3);
    assert_says(
        &refused,
        "error: this host refused setting the rules of the sandbox's network: nft add table inet answered EPERM",
    );
    assert_says(
        &refused,
        "hint: `egress: host` redirects connections with nf_tables of the kernel",
    );
}

#[test]
fn rootless_without_a_bridge_a_shared_network_is_what_is_left() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    let helper = bench.helper().display().to_string();
    let wrapper = [helper.as_str(), "refuse-send-of", BRIDGE_REQUEST];
    for (top, code) in [("", 3), ("network: shared\n", 0)] {
        bench.write("connect localhost:6379 then serve", top);
        let command = bench
            .context
            .command_under(&wrapper, ["gate", &bench.image]);
        let finished = bench
            .context
            .start_command(command)
            .wait(Duration::from_secs(60));
        finished.assert_code(code);
        if code == 3 {
            assert_says(
                &finished,
                "error: this host refused setting up the sandbox's network: ip link add type bridge answered EPERM",
            );
            assert_says(
                &finished,
                "`network: shared` in the gate file needs neither",
            );
        }
    }
}

#[test]
fn rootless_a_shared_network_maps_ports_and_tells_probes_from_containers() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    // Nothing listens on 8080 for a while: what is refused then are our own attempts.
    bench
        .gate("serve --after 1", "network: shared\n")
        .assert_code(0);
    assert_eq!(bench.network()["reached"], Value::Null);
    // The service is there first, so the second of the same port cannot be.
    let clash = bench.gate("serve --port 6379", "network: shared\n");
    clash.assert_code(1);
    assert_says(&clash, "Address already in use");
}

#[test]
fn cli_ports_that_clash_in_a_shared_network_are_found_in_the_file() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    for (port, says) in [
        (
            "6379",
            "port 6379 is `app`'s already, and all containers share one address",
        ),
        (
            "53",
            "port 53 is the pod's name server's, and all containers share one address",
        ),
    ] {
        let file = GATE_FILE
            .replace("@", "serve")
            .replace("port: 8080", &format!("port: {port}"));
        context.write("smokegate.yaml", file + "network: shared\n");
        let finished = context.run(["gate", image.to_str().unwrap()]);
        finished.assert_code(2);
        assert_says(&finished, says);
        assert_says(&finished, "take another port, or `network: bridge`");
    }
}
