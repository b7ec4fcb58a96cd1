//! helper_survives_busy_parent: pods start beside threads that allocate and read the environment.
//!
//! libcontainer clones with a raw clone3 and runs ordinary Rust in the child. In a process with such threads a
//! lock they hold is then never released, and a container in a few hangs. This is why helpers exist.

use std::env;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use smokegate_image::{Image, ImageSource, Limits, OpenOptions};
use smokegate_sandbox::{
    ContainerSpec, ExitStatus, HostConfig, IdMap, NetworkMode, PodSpec, Sandbox, StoreRequest,
    fill_store, run_if_helper,
};
use smokegate_test_support::{ImageFixture, Need, require};

const NAME: &str = "rootless_helper_survives_busy_parent";
const PODS: usize = 30;
/// A pod takes some 30 ms; one that is not done by then hangs.
const HANGS: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    run_if_helper(None);
    // As much of the test harness's command line as cargo and nextest use.
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| words.iter().any(|word| word == flag);
    if has("--list") {
        if !has("--ignored") {
            let _ = writeln!(io::stdout(), "{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted = words.iter().find(|word| !word.starts_with('-'));
    if wanted.is_some_and(|wanted| !NAME.contains(wanted.as_str())) || !require(Need::Rootless) {
        return ExitCode::SUCCESS;
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| be_busy(&done));
        }
        let ends = Ends(&done);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(start_pods());
        drop(ends);
    });
    ExitCode::SUCCESS
}

/// Ends the busy threads, also when a pod failed: the scope waits for them.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes the locks of the allocator and of the environment as often as it can.
fn be_busy(done: &AtomicBool) {
    let mut size = 1;
    while !done.load(Ordering::Relaxed) {
        size = size % 100_000 + 977;
        black_box(vec![1_u8; size]);
        black_box(env::vars_os().count());
        black_box(env::var_os("PATH"));
    }
}

async fn start_pods() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.oci.tar");
    ImageFixture::load("exits-3")
        .build()
        .write_oci_archive(&archive, None);
    let source: ImageSource = archive.to_str().unwrap().parse().unwrap();
    let image = Image::open(&source, &OpenOptions::new(dir.path().to_owned())).unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    // Single also where root runs this: the user namespaces are part of what could hang.
    let id_map = IdMap::Single;
    let filled = fill_store(StoreRequest {
        store: store.clone(),
        id_map: &id_map,
        image: image.selected(),
        limits: Limits::default(),
    });
    let filled = filled.await.unwrap();
    let layers: Vec<PathBuf> = filled
        .layers()
        .iter()
        .rev()
        .map(|layer| layer.path.clone())
        .collect();
    for number in 0..PODS {
        let run_dir = dir.path().join(format!("run-{number}"));
        std::fs::create_dir(&run_dir).unwrap();
        let pod = run_pod(&store, run_dir, &layers, &id_map);
        let status = tokio::time::timeout(HANGS, pod).await;
        assert_eq!(status, Ok(ExitStatus::Code(3)), "pod {number} of {PODS}");
    }
}

async fn run_pod(
    store: &std::path::Path,
    run_dir: PathBuf,
    layers: &[PathBuf],
    id_map: &IdMap,
) -> ExitStatus {
    let pod = PodSpec {
        isolation: id_map.isolation(),
        store: store.to_owned(),
        run_dir,
        containers: vec!["app".to_owned()],
        binds: Vec::new(),
        limits: Vec::new(),
        writes_to_disk: false,
        network: NetworkMode::Bridge,
        egress: false,
    };
    let (sandbox, _network) = Sandbox::launch(pod, id_map).await.unwrap();
    let app = ContainerSpec {
        name: "app".to_owned(),
        layers: layers.to_vec(),
        args: ["/probe-target", "exit", "3"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        user: "1000:1000".to_owned(),
        working_dir: "/".to_owned(),
        mounts: Vec::new(),
        secrets: Vec::new(),
        hostname: "app".to_owned(),
        host_config: HostConfig::default(),
    };
    let null = || {
        OwnedFd::from(
            std::fs::File::options()
                .write(true)
                .open("/dev/null")
                .unwrap(),
        )
    };
    let mut process = sandbox.start(app, null(), null()).await.unwrap();
    process.wait().await.unwrap()
}
