//! Whether a container can be given what its [`HostConfig`] asks for, at this isolation level and on this host.

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;

use crate::capabilities;
use crate::error::StartError;
use crate::host_config::{HostConfig, Ulimit};
use crate::isolation::Isolation;

/// What a container's processes get.
pub(super) struct Rights {
    /// The bounding set that was asked for; Docker's where nothing was.
    pub(super) bounding: CapabilitySet,
    /// What this isolation level makes less of, each a sentence.
    pub(super) not_given: Vec<String>,
}

/// Decides before anything of the container exists.
pub(super) fn rights(host: &HostConfig, isolation: Isolation) -> Result<Rights, StartError> {
    let bounding = capabilities::bounding(&host.cap_add, &host.cap_drop);
    let added = bounding.difference(capabilities::DEFAULT);
    let mut not_given = Vec::new();
    if isolation == Isolation::Root {
        check_capabilities(added)?;
    } else {
        let less = capabilities::beyond_a_namespace(added);
        if !less.is_empty() {
            not_given.push(format!(
                "what capability {} allows on the host: at isolation level `{isolation}` it holds in the \
                 container's user namespace only",
                capabilities::list(less)
            ));
        }
    }
    let may_raise = isolation == Isolation::Root
        && capabilities::own().is_ok_and(|own| own.contains(CapabilitySet::SYS_RESOURCE));
    for ulimit in &host.ulimits {
        check_ulimit(ulimit, may_raise)?;
    }
    Ok(Rights {
        bounding,
        not_given,
    })
}

/// At the level of the real root a capability is the host's own.
fn check_capabilities(added: CapabilitySet) -> Result<(), StartError> {
    // Under Docker a cgroup keeps devices closed to a container that may mount, and AppArmor mostly forbids the
    // mounts themselves. Neither exists here, so the container could open the host's disks.
    if added.contains(CapabilitySet::SYS_ADMIN) && is_initial_user_namespace() {
        return Err(StartError::NotGiven {
            cause: "capability SYS_ADMIN is not given to a container at isolation level `root`, where it would \
                    reach the host's devices and mounts"
                .to_owned(),
            hint: "run as an ordinary user or with --isolation subuid or single, where it holds within the \
                   container's user namespace, or do not add it"
                .to_owned(),
        });
    }
    let own = capabilities::own().unwrap_or(CapabilitySet::empty());
    let missing = added.difference(own);
    if missing.is_empty() {
        return Ok(());
    }
    let missing = capabilities::list(missing);
    Err(StartError::NotGiven {
        cause: format!(
            "capability {missing} cannot be added to a container: smokegate has it not itself"
        ),
        hint: format!(
            "start the runner with {missing} too (docker run --cap-add), or do not add it"
        ),
    })
}

/// Whether ids here are the host's: the map of the initial user namespace is the whole range onto itself
/// (user_namespaces(7)).
fn is_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A hard limit is raised by CAP_SYS_RESOURCE of the initial user namespace only, and that of open files never
/// above a limit of the kernel's (setrlimit(2), proc(5)).
fn check_ulimit(ulimit: &Ulimit, may_raise: bool) -> Result<(), StartError> {
    let name = &ulimit.name;
    let Some(resource) = ulimit.resource() else {
        return Err(StartError::NotGiven {
            cause: format!("this host knows no limit `{name}`"),
            hint: "leave it out of `ulimits`".to_owned(),
        });
    };
    let or_none = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let here = or_none(getrlimit(resource).maximum);
    let (most, why) = if may_raise {
        let nr_open = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
        let nr_open = nr_open.and_then(|text| text.trim().parse().ok());
        match nr_open {
            Some(most) if resource == Resource::Nofile => {
                (most, "the kernel's limit, fs.nr_open, is")
            }
            _ => (u64::MAX, ""),
        }
    } else {
        (here, "only CAP_SYS_RESOURCE of the host may raise it above")
    };
    if ulimit.hard <= most {
        return Ok(());
    }
    let wanted = match ulimit.hard {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    Err(StartError::NotGiven {
        cause: format!("the hard limit of `ulimits: {name}` cannot be {wanted} here: {why} {most}"),
        hint: format!(
            "raise the limit of whoever starts smokegate (limits.conf, systemd's Limit{}=, docker run --ulimit), \
             or ask for at most {most}",
            name.to_ascii_uppercase()
        ),
    })
}
