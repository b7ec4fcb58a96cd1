//! The clock, as far as it can be judged without a network.

use std::fs;
use std::time::{Duration, SystemTime};

use super::check::{Check, Noun, Status};
use super::wall::Wall;

/// A file from another machine may be a little ahead without either clock being wrong.
const TOLERATED: Duration = Duration::from_secs(120);

pub(super) fn check() -> Check {
    let newest = ["/proc/self/exe", "/etc/hostname", "/etc/resolv.conf"]
        .into_iter()
        .filter_map(|file| fs::metadata(file).ok()?.modified().ok())
        .max();
    judge(newest, SystemTime::now(), is_synchronised())
}

fn judge(newest: Option<SystemTime>, now: SystemTime, synchronised: bool) -> Check {
    let line = |result: String| {
        Check::fine(
            Noun::Clock,
            "comparing it with the times of smokegate's own file and of /etc, and asking adjtimex(2)",
            result,
            "certificates, tokens and signatures of registries are valid for a while by the clock",
        )
    };
    let ahead = newest.and_then(|time| time.duration_since(now).ok());
    if let Some(ahead) = ahead.filter(|ahead| *ahead > TOLERATED) {
        let result = format!("it is at least {} s behind", ahead.as_secs());
        return line(result).behind(Status::Limited, Wall::ClockBehind);
    }
    line(if synchronised {
        "not behind, and the kernel is told the time".to_owned()
    } else {
        "not behind; whether it is ahead is not known, as nothing here tells the kernel the time (as usual in containers)".to_owned()
    })
}

/// Whether something adjusts the kernel's clock (adjtimex(2), STA_UNSYNC).
fn is_synchronised() -> bool {
    // SAFETY: all fields of `timex` are numbers, for which zero is a value; `modes` 0 changes nothing.
    let (state, time) = unsafe {
        let mut time: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut time), time)
    };
    state != -1 && state != libc::TIME_ERROR && time.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_what_exists_is_behind() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| Some(now + Duration::from_secs(seconds));
        for (newest, status) in [
            (None, Status::Fine),
            (at(0), Status::Fine),
            (at(60), Status::Fine),
            (at(3600), Status::Limited),
        ] {
            let check = judge(newest, now, false);
            assert_eq!(check.status, status, "{newest:?}");
        }
        assert!(judge(at(3600), now, true).result.contains("3600 s behind"));
    }
}
