//! Docker's default capabilities (moby, oci/caps/defaults.go): what a process may regain by a file or as root.

use std::io;

use rustix::thread::CapabilitySet;

/// The bounding set of a container; also permitted and effective where its user is 0.
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What of it this process can pass on: a runner that lacks some itself cannot give them to a container.
pub(crate) fn granted() -> io::Result<CapabilitySet> {
    Ok(rustix::thread::capabilities(None)?
        .permitted
        .intersection(DEFAULT))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_set_is_the_mask_docker_shows_in_proc() {
        assert_eq!(super::DEFAULT.bits(), 0xa804_25fb);
    }
}
