//! What smokegate is meant to reach, and what the recorded figures of a day say to it.

use std::fmt;

use serde_json::{Value, json};

use super::contender::{Contender, Peer};
use super::smokegate::Ship;
use super::workload::{Packing, SHAPES};

/// Those whose figures the targets are about.
const COLD: Contender = Contender::Ship(Ship::Cold);
const WARM: Contender = Contender::Ship(Ship::Warm);
const COMPRESSED: Contender = Contender::Ship(Ship::Compressed);
const AHEAD: Contender = Contender::Ship(Ship::Ahead);
/// What most targets are about.
const DEBIAN: &str = "debian/gzip";
/// Bytes of a MiB in KiB.
const MIB: f64 = 1024.0;

/// On which side of its limit a figure is good.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// One target.
#[derive(Debug)]
pub(crate) struct Target {
    what: String,
    unit: &'static str,
    limit: Limit,
    /// `None` where something it takes was not measured.
    measured: Option<f64>,
}

impl Target {
    fn new(
        what: impl Into<String>,
        limit: Limit,
        unit: &'static str,
        measured: Option<f64>,
    ) -> Self {
        Self {
            what: what.into(),
            unit,
            limit,
            measured,
        }
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.measured.is_some()
    }

    fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.limit {
            Limit::AtLeast(limit) => measured >= limit,
            Limit::AtMost(limit) => measured <= limit,
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        let (side, limit) = match self.limit {
            Limit::AtLeast(limit) => ("at_least", limit),
            Limit::AtMost(limit) => ("at_most", limit),
        };
        let measured = self.measured.map(|one| (one * 1e3).round() / 1e3);
        json!({
            "what": self.what, side: limit, "unit": self.unit,
            "measured": measured, "met": self.is_met(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.is_met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not measured",
        };
        let (side, limit) = match self.limit {
            Limit::AtLeast(limit) => (">=", limit),
            Limit::AtMost(limit) => ("<=", limit),
        };
        let measured = self
            .measured
            .map_or("-".to_owned(), |one| format!("{one:.2}"));
        let Self { what, unit, .. } = self;
        write!(
            f,
            "{word:>12}  {measured:>8} {side} {limit:<4} {unit:4} {what}"
        )
    }
}

/// All that can be told from the document of a day; where workloads or contenders are missing, some are not measured.
pub(crate) fn all(document: &Value) -> Vec<Target> {
    let day = Day(document);
    let mut targets = Vec::new();
    day.against_peers(&mut targets);
    for shape in SHAPES {
        day.unpacking(&format!("{shape}/gzip"), &mut targets);
    }
    day.starting(&mut targets);
    for shape in SHAPES {
        day.pushing(&format!("{shape}/gzip"), &mut targets);
        day.pushing(&format!("{shape}/zstd"), &mut targets);
    }
    day.memory(&mut targets);
    day.shapes(&mut targets);
    targets
}

/// The figures of a day.
struct Day<'a>(&'a Value);

impl Day<'_> {
    fn figure(&self, workload: &str, contender: Contender, path: &[&str]) -> Option<f64> {
        let all = self.0["workloads"][workload]["contenders"].as_array()?;
        let one = all
            .iter()
            .find(|one| one["contender"] == contender.name())?;
        path.iter().fold(one, |value, key| &value[*key]).as_f64()
    }

    fn wall(&self, workload: &str, contender: Contender) -> Option<f64> {
        self.figure(workload, contender, &["wall_ms"])
    }

    fn cpu(&self, workload: &str, contender: Contender) -> Option<f64> {
        self.figure(workload, contender, &["cpu_ms"])
    }

    fn stage(&self, workload: &str, contender: Contender, stage: &str) -> Option<f64> {
        self.figure(workload, contender, &["stages_ms", stage])
    }

    fn against_peers(&self, targets: &mut Vec<Target>) {
        for (peer, limit) in [
            (Peer::Docker, 10.0),
            (Peer::Podman, 8.0),
            (Peer::Umoci, 5.0),
        ] {
            let theirs = Contender::Peer(peer);
            let what = format!("{DEBIAN}: ship, empty store, than {}", theirs.name());
            let times = ratio(self.wall(DEBIAN, theirs), self.wall(DEBIAN, COLD));
            targets.push(Target::new(what, Limit::AtLeast(limit), "x", times));
        }
        let (workload, docker) = ("debian/docker-archive", Contender::Peer(Peer::Docker));
        let what = format!("{workload}: ship --compress zstd, than {}", docker.name());
        let times = ratio(self.wall(workload, docker), self.wall(workload, COMPRESSED));
        targets.push(Target::new(what, Limit::AtLeast(10.0), "x", times));
    }

    fn unpacking(&self, workload: &str, targets: &mut Vec<Target>) {
        let unpack = self.stage(workload, COLD, "unpack");
        let times = ratio(unpack, self.wall(workload, Contender::Igzip));
        let what = format!("{workload}: verified cold unpack, of igzip -dc");
        targets.push(Target::new(what, Limit::AtMost(1.5), "x", times));
        // Both runs do all else.
        let (cold, warm) = (self.cpu(workload, COLD), self.cpu(workload, WARM));
        let own = cold.zip(warm).map(|(cold, warm)| cold - warm);
        let times = ratio(own, self.cpu(workload, Contender::Stages));
        let what =
            format!("{workload}: processor time of it (cold less warm), of its stages alone");
        targets.push(Target::new(what, Limit::AtMost(1.2), "x", times));
    }

    fn starting(&self, targets: &mut Vec<Target>) {
        let version = self.0["program"]["version_ms"].as_f64();
        let what = "smokegate --version";
        targets.push(Target::new(what, Limit::AtMost(5.0), "ms", version));
        // What the receipt cannot know, the process's own start, is what `--version` takes.
        let stages = ["open", "layers", "variant sandbox", "variant start"];
        let stages = stages.map(|stage| self.stage(DEBIAN, WARM, stage));
        let exec = stages.into_iter().sum::<Option<f64>>();
        let exec = exec.zip(version).map(|(exec, version)| exec + version);
        let what = format!("{DEBIAN}: warm store, from process start to entrypoint exec");
        targets.push(Target::new(what, Limit::AtMost(60.0), "ms", exec));
        let healthy = self.stage(DEBIAN, Contender::Variants(1), "variant probe");
        let times = ratio(healthy, self.wall(DEBIAN, Contender::AppsAlone(1)));
        let what =
            format!("{DEBIAN}: Python app's exec to first 200, of the same outside a container");
        targets.push(Target::new(what, Limit::AtMost(1.15), "x", times));
        let publish = self.stage(DEBIAN, AHEAD, "publish");
        let what = format!("{DEBIAN}: verdict to last tag with --upload-ahead");
        targets.push(Target::new(what, Limit::AtMost(50.0), "ms", publish));
    }

    fn pushing(&self, workload: &str, targets: &mut Vec<Target>) {
        let skopeo = self.wall(workload, Contender::SkopeoPush);
        let times = ratio(skopeo, self.wall(workload, Contender::Push));
        let what = format!("{workload}: smokegate push, than skopeo copy");
        targets.push(Target::new(what, Limit::AtLeast(1.8), "x", times));
        let times = ratio(skopeo, self.stage(workload, COLD, "publish"));
        let what = format!("{workload}: the publishing of ship, than skopeo copy");
        targets.push(Target::new(what, Limit::AtLeast(1.8), "x", times));
    }

    /// The largest of all workloads that were measured.
    fn memory(&self, targets: &mut Vec<Target>) {
        let workloads = self.0["workloads"].as_object();
        let names: Vec<&String> = workloads
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .collect();
        for (key, whose) in [
            ("peak_kib", "the parent"),
            ("peak_below_kib", "all helpers"),
        ] {
            let peaks = names.iter().flat_map(|name| {
                [COLD, WARM, COMPRESSED, AHEAD]
                    .map(|one| Some((self.figure(name, one, &[key])?, name)))
            });
            let largest = peaks
                .flatten()
                .max_by(|(one, _), (other, _)| one.total_cmp(other));
            let at = largest.map_or(String::new(), |(_, name)| format!(", largest with {name}"));
            let mib = largest.map(|(peak, _)| peak / MIB);
            let what = format!("peak memory of {whose}{at}");
            targets.push(Target::new(what, Limit::AtMost(64.0), "MiB", mib));
        }
    }

    fn shapes(&self, targets: &mut Vec<Target>) {
        let per_entry = |workload: &str| {
            let entries = self.0["workloads"][workload]["holds"]["entries"].as_f64();
            ratio(self.stage(workload, COLD, "unpack"), entries)
        };
        let times = ratio(per_entry("tiny-files/gzip"), per_entry(DEBIAN));
        let what = "tiny-files/gzip: unpack per entry, of that of debian/gzip";
        targets.push(Target::new(what, Limit::AtMost(1.0), "x", times));
        for packing in Packing::ALL.map(Packing::name) {
            let unpack = |shape| self.stage(&format!("{shape}/{packing}"), COLD, "unpack");
            let times = ratio(unpack("sixty-layers"), unpack("one-layer"));
            let what = format!("sixty-layers/{packing}: unpack, of that of one-layer/{packing}");
            targets.push(Target::new(what, Limit::AtMost(1.15), "x", times));
        }
        let wall = |count| self.wall(DEBIAN, Contender::Variants(count));
        let apps = |count| self.cpu(DEBIAN, Contender::AppsAlone(count));
        let more = |figure: &dyn Fn(usize) -> Option<f64>, count| Some(figure(count)? - figure(1)?);
        let cores = self.0["machine"]["cores"].as_f64();
        for count in [2, 4, 8] {
            // Each takes more when it shares cores and caches with others, outside as well as inside.
            let own = ratio(more(&apps, count), cores);
            let what = format!(
                "{DEBIAN}: what {count} variants take longer than 1, of the processor time that as many apps take more"
            );
            targets.push(Target::new(
                what,
                Limit::AtMost(1.0),
                "x",
                ratio(more(&wall, count), own),
            ));
        }
    }
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.zip(other)
        .filter(|(_, other)| *other > 0.0)
        .map(|(one, other)| one / other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_not_met_or_not_measured() {
        let document = json!({
            "machine": {"cores": 2},
            "program": {"version_ms": 4.0},
            "workloads": {"debian/gzip": {
                "holds": {"entries": 1000},
                "contenders": [
                    {"contender": COLD.name(), "wall_ms": 2000.0, "cpu_ms": 2500.0,
                     "peak_kib": 65 * 1024, "peak_below_kib": 1024,
                     "stages_ms": {"unpack": 1200.0}},
                    {"contender": WARM.name(), "wall_ms": 700.0, "cpu_ms": 100.0,
                     "peak_kib": 1024, "peak_below_kib": 1024,
                     "stages_ms": {"open": 1.0, "layers": 2.0, "variant sandbox": 30.0, "variant start": 8.0}},
                    {"contender": "docker load+run+push", "wall_ms": 24000.0},
                    {"contender": "podman pull+run+push", "not_here": "`podman` is not installed"},
                    {"contender": "igzip -dc, one thread", "wall_ms": 750.0},
                ],
            }},
        });
        let lines: Vec<String> = all(&document).iter().map(Target::to_string).collect();
        let said = |end: &str| {
            let line = lines.iter().find(|line| line.ends_with(end)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        for (end, begin) in [
            ("than docker load+run+push", "met 12.00 >= 10 x"),
            ("than podman pull+run+push", "not measured - >= 8 x"),
            (
                "debian/gzip: verified cold unpack, of igzip -dc",
                "NOT MET 1.60 <= 1.5 x",
            ),
            ("to entrypoint exec", "met 45.00 <= 60 ms"),
            (
                "the parent, largest with debian/gzip",
                "NOT MET 65.00 <= 64 MiB",
            ),
            (
                "all helpers, largest with debian/gzip",
                "met 1.00 <= 64 MiB",
            ),
        ] {
            let line = said(end);
            assert!(line.starts_with(begin), "{line}");
        }
    }
}
