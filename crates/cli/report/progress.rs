//! Plain progress lines on standard error, from the event stream.

use smokegate_gate::{Decision, Event, Inconclusive};

use crate::printer::{Printer, Tone, harmless};

/// Shows one event.
pub(crate) fn show(printer: Printer, event: &Event) {
    match event {
        Event::LayersReady {
            layers,
            cached,
            written,
            not_kept,
        } => {
            let new = layers - cached;
            let new = if new == 0 {
                "all in the store".to_owned()
            } else {
                format!("{new} unpacked ({})", size(*written))
            };
            printer.step(format!("layers: {layers}, {new}"));
            for what in not_kept {
                printer.detail(format!("  not kept at this isolation level: {what}"));
            }
        }
        Event::Started {
            variant,
            args,
            ports,
            probes,
        } => {
            printer.step(format!(
                "variant {variant}: running `{}`",
                harmless(&args.join(" "))
            ));
            for port in ports {
                let instead = match port.replaced {
                    Some(busy) => format!(" (port {busy} is busy)"),
                    None => String::new(),
                };
                printer.step(format!(
                    "variant {variant}: http://{} is port {} of the container{instead}",
                    port.host, port.container
                ));
            }
            for probe in probes {
                let probe = harmless(&probe.to_string());
                printer.step(format!("variant {variant}: asking {probe}"));
            }
        }
        Event::Copied {
            variant,
            container,
            why,
        } => printer.step(format!(
            "variant {variant}: the layers of `{container}` were copied: {why}"
        )),
        Event::ServicePorts {
            variant,
            service,
            ports,
        } => {
            for port in ports {
                printer.step(format!(
                    "variant {variant}: {} is port {} of service {service}",
                    port.host, port.container
                ));
            }
        }
        Event::Service {
            variant,
            service,
            ready,
        } => {
            let word = if *ready { "ready" } else { "failed" };
            printer.step(format!("variant {variant}: service {service}: {word}"));
        }
        Event::Asked {
            variant,
            observation,
        } => printer.detail(format!(
            "variant {variant}: {:.3} s: {}",
            observation.at.as_secs_f64(),
            harmless(&observation.outcome.to_string())
        )),
        Event::Decided(verdict) => {
            let seconds = verdict.timings.total.as_secs_f64();
            let (tone, word) = match verdict.decision {
                Decision::Passed => (Tone::Good, "passed"),
                Decision::Failed(_) => (Tone::Bad, "failed"),
                Decision::Inconclusive(Inconclusive::Stopped { .. }) => (Tone::Hint, "stopped"),
                Decision::Inconclusive(_) => (Tone::Bad, "inconclusive"),
            };
            let variant = format!("variant {}", verdict.name);
            printer.step_ended(&variant, tone, word, &format!("in {seconds:.2} s"));
        }
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (220_400_000, "220.4 MB"),
        ] {
            assert_eq!(super::size(bytes), text);
        }
    }
}
