//! What the gate file says of a container's rights and limits, laid over those it has.

use smokegate_sandbox::{Capability, HostConfig, Ulimit};

use crate::gate_file::{Container, Spanned};

/// A key that is there replaces what was said before; one that is not changes nothing.
pub(super) fn lay_over(host: &mut HostConfig, part: &Container) {
    let words = |list: &[Spanned<Capability>]| list.iter().map(|word| word.value).collect();
    if let Some(list) = &part.cap_add {
        host.cap_add = words(list);
    }
    if let Some(list) = &part.cap_drop {
        host.cap_drop = words(list);
    }
    if let Some(options) = &part.security_opt {
        // There is one option, and no way to write that it does not hold but an empty list.
        host.no_new_privileges = !options.is_empty();
    }
    if let Some(read_only) = &part.read_only {
        host.read_only = read_only.value;
    }
    if let Some(init) = &part.init {
        host.init = init.value;
    }
    if let Some(size) = &part.shm_size {
        host.shm_size = Some(size.value.0);
    }
    if let Some(ulimits) = &part.ulimits {
        let limits = ulimits.0.iter().map(|(name, limit)| Ulimit {
            name: name.value.clone(),
            soft: limit.soft.0,
            hard: limit.hard.0,
        });
        host.ulimits = limits.collect();
    }
    if let Some(hosts) = &part.extra_hosts {
        let lines = hosts.0.iter().map(|host| &host.value);
        host.extra_hosts = lines
            .map(|line| (line.name.0.clone(), line.address))
            .collect();
    }
}
