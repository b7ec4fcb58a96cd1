//! The words behind `cargo xtask bench`.

use crate::{Result, USAGE};

use super::contender::Peer;

/// Where nothing is said.
const RUNS: usize = 5;
/// The workload of `--quick`.
const QUICK: &str = "debian/gzip";

/// What is to be measured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Workloads by name; all where there is none.
    pub(crate) workloads: Vec<String>,
    /// How often everyone runs, the warm-up not counted.
    pub(crate) runs: usize,
    /// The same for those that go all the way with other tools, which take ten times as long.
    pub(crate) peer_runs: usize,
    pub(crate) peers: Vec<Peer>,
    /// Count instructions instead of taking times.
    pub(crate) instructions: Option<Counts>,
}

/// What happens to counts of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// They are compared with the kept ones.
    Compare,
    /// They are kept.
    Keep,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let (mut workloads, mut runs, mut peer_runs) = (Vec::new(), RUNS, None);
        let (mut peers, mut instructions) = (Peer::ALL.to_vec(), None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or(USAGE);
            match *word {
                "--quick" => workloads.push(QUICK.to_owned()),
                "--runs" => runs = count(value()?)?,
                "--peer-runs" => peer_runs = Some(count(value()?)?),
                "--peers" => peers = peers_named(value()?)?,
                "--instructions" => instructions = instructions.or(Some(Counts::Compare)),
                "--keep" => instructions = Some(Counts::Keep),
                option if option.starts_with('-') => return Err(USAGE.into()),
                name => workloads.push(name.to_owned()),
            }
        }
        Ok(Self {
            workloads,
            runs,
            peer_runs: peer_runs.unwrap_or(runs).min(runs),
            peers,
            instructions,
        })
    }
}

fn count(text: &str) -> Result<usize> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("`{text}` is no number of runs").into())
}

fn peers_named(list: &str) -> Result<Vec<Peer>> {
    if list == "none" {
        return Ok(Vec::new());
    }
    let named = |name: &str| {
        let found = Peer::ALL.into_iter().find(|peer| peer.word() == name);
        found.ok_or_else(|| {
            let known = Peer::ALL.map(Peer::word).join(", ");
            format!("no peer `{name}`; there are {known}, and none").into()
        })
    };
    list.split(',').map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_run_as_often_as_everyone_unless_told_otherwise() {
        let options = Options::parse(&["--runs", "3", "debian"]).unwrap();
        assert_eq!((options.runs, options.peer_runs), (3, 3));
        assert_eq!(options.peers, Peer::ALL);
        assert_eq!(options.workloads, ["debian"]);
        let options = Options::parse(&["--peer-runs", "1", "--peers", "docker,umoci"]).unwrap();
        assert_eq!((options.runs, options.peer_runs), (RUNS, 1));
        assert_eq!(options.peers, [Peer::Docker, Peer::Umoci]);
        let options = Options::parse(&["--peers", "none"]).unwrap();
        assert_eq!(options.peers, []);
    }

    #[test]
    fn nobody_unknown_is_left_out_silently() {
        let said = |words: &[&str]| Options::parse(words).unwrap_err().to_string();
        assert!(said(&["--peers", "docker,kaniko"]).starts_with("no peer `kaniko`"));
        assert_eq!(said(&["--runs", "0"]), "`0` is no number of runs");
        assert!(said(&["--faster"]).starts_with("usage:"));
        assert!(said(&["--runs"]).starts_with("usage:"));
    }
}
