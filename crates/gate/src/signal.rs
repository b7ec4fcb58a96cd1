//! Signals by name and number, as STOPSIGNAL and people write them (signal(7), x86 and ARM numbers).

/// The standard signals that Linux has on x86 and ARM.
const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// SIGRTMIN and SIGRTMAX as the C library gives them to programs.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// What `docker stop` sends where the image names nothing.
pub(crate) const SIGTERM: i32 = 15;

/// Reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` and `RTMAX-1`.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        REAL_TIME.start() + offset_of(offset, '+')?
    } else {
        REAL_TIME.end() - offset_of(name.strip_prefix("RTMAX")?, '-')?
    };
    REAL_TIME.contains(&number).then_some(number)
}

fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        Some(0)
    } else {
        text.strip_prefix(sign)?.parse().ok()
    }
}

/// `SIGKILL (9)`, or `signal 40`.
pub(crate) fn describe(signal: i32) -> String {
    match NAMES.iter().find(|(_, number)| *number == signal) {
        Some((name, number)) => format!("SIG{name} ({number})"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_read_as_docker_reads_them() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("RTMAX+1", None),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
        assert_eq!(describe(9), "SIGKILL (9)");
        assert_eq!(describe(40), "signal 40");
    }
}
