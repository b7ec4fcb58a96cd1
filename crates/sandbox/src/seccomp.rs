//! Docker's default seccomp profile, as facts: which calls a container may make.
//!
//! Source: moby, profiles/seccomp/default.json, for kernels from 4.8 on; what it allows with a capability follows
//! the container's bounding set, as there. The profile is compiled to BPF here, so that no system library is linked (docs/decisions/0005-seccomp.md).

use std::collections::BTreeMap;
use std::io;

use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Allowed whatever the arguments, on every architecture.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_adjtimex, libc::SYS_bind, libc::SYS_brk, libc::SYS_capget,
    libc::SYS_capset, libc::SYS_chdir, libc::SYS_clock_adjtime,
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_connect, libc::SYS_copy_file_range, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_execve, libc::SYS_execveat,
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fanotify_mark, libc::SYS_fchdir,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fcntl,
    libc::SYS_fdatasync, libc::SYS_fgetxattr, libc::SYS_flistxattr, libc::SYS_flock,
    libc::SYS_fremovexattr, libc::SYS_fsetxattr, libc::SYS_fstat, libc::SYS_fstatfs,
    libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_futex, libc::SYS_futex_waitv,
    libc::SYS_get_robust_list, libc::SYS_getcpu, libc::SYS_getcwd, libc::SYS_getdents64,
    libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getgroups,
    libc::SYS_getitimer, libc::SYS_getpeername, libc::SYS_getpgid, libc::SYS_getpid,
    libc::SYS_getppid, libc::SYS_getpriority, libc::SYS_getrandom, libc::SYS_getresgid,
    libc::SYS_getresuid, libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_getsid,
    libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_gettid, libc::SYS_gettimeofday,
    libc::SYS_getuid, libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch, libc::SYS_io_cancel, libc::SYS_io_destroy,
    libc::SYS_io_getevents, libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_ioctl,
    libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_kill, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self, libc::SYS_lgetxattr,
    libc::SYS_linkat, libc::SYS_listen, libc::SYS_listxattr, libc::SYS_llistxattr,
    libc::SYS_lremovexattr, libc::SYS_lseek, libc::SYS_lsetxattr, libc::SYS_madvise,
    libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_mincore,
    libc::SYS_mkdirat, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall,
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_mq_getsetattr, libc::SYS_mq_notify,
    libc::SYS_mq_open, libc::SYS_mq_timedreceive, libc::SYS_mq_timedsend, libc::SYS_mq_unlink,
    libc::SYS_mremap, libc::SYS_msgctl, libc::SYS_msgget, libc::SYS_msgrcv, libc::SYS_msgsnd,
    libc::SYS_msync, libc::SYS_munlock, libc::SYS_munlockall, libc::SYS_munmap,
    libc::SYS_name_to_handle_at, libc::SYS_nanosleep, libc::SYS_newfstatat, libc::SYS_openat,
    libc::SYS_openat2, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_pipe2,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_ppoll,
    libc::SYS_prctl, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_prlimit64, libc::SYS_process_mrelease, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_pselect6, libc::SYS_ptrace, libc::SYS_pwrite64,
    libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmmsg,
    libc::SYS_recvmsg, libc::SYS_remap_file_pages, libc::SYS_removexattr, libc::SYS_renameat,
    libc::SYS_renameat2, libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_sched_getaffinity, libc::SYS_sched_getattr,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler, libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_semctl,
    libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_sendfile,
    libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_set_robust_list,
    libc::SYS_set_tid_address, libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid,
    libc::SYS_setgroups, libc::SYS_setitimer, libc::SYS_setpgid, libc::SYS_setpriority,
    libc::SYS_setregid, libc::SYS_setresgid, libc::SYS_setresuid, libc::SYS_setreuid,
    libc::SYS_setrlimit, libc::SYS_setsid, libc::SYS_setsockopt, libc::SYS_setuid,
    libc::SYS_setxattr, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_shmget,
    libc::SYS_shutdown, libc::SYS_sigaltstack, libc::SYS_signalfd4, libc::SYS_socketpair,
    libc::SYS_splice, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlinkat, libc::SYS_sync,
    libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_sysinfo, libc::SYS_tee,
    libc::SYS_tgkill, libc::SYS_timer_create, libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun, libc::SYS_timer_gettime, libc::SYS_timer_settime,
    libc::SYS_timerfd_create, libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime,
    libc::SYS_times, libc::SYS_tkill, libc::SYS_truncate, libc::SYS_umask, libc::SYS_uname,
    libc::SYS_unlinkat, libc::SYS_utimensat, libc::SYS_vmsplice, libc::SYS_wait4,
    libc::SYS_waitid, libc::SYS_write, libc::SYS_writev,
];

/// Allowed where the architecture still has them.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_LEGACY: &[libc::c_long] = &[
    libc::SYS_access, libc::SYS_alarm, libc::SYS_arch_prctl, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_creat, libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_ctl_old,
    libc::SYS_epoll_wait, libc::SYS_epoll_wait_old, libc::SYS_eventfd, libc::SYS_fork,
    libc::SYS_futimesat, libc::SYS_get_thread_area, libc::SYS_getdents, libc::SYS_getpgrp, libc::SYS_inotify_init,
    libc::SYS_lchown, libc::SYS_link, libc::SYS_lstat, libc::SYS_mkdir, 
    libc::SYS_modify_ldt, libc::SYS_open, libc::SYS_pause, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir, libc::SYS_select, libc::SYS_set_thread_area, libc::SYS_signalfd,
    libc::SYS_stat, libc::SYS_symlink, libc::SYS_time, libc::SYS_unlink, libc::SYS_utime,
    libc::SYS_utimes, libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_LEGACY: &[libc::c_long] = &[];

/// Allowed, but too new for the libc crate; these numbers are the same everywhere: cachestat, fchmodat2,
/// map_shadow_stack, futex_wake, futex_wait, futex_requeue.
const ALLOWED_NEW: &[libc::c_long] = &[451, 452, 453, 454, 455, 456];
/// The newest call that the profile knows of. A C library that tries a newer one falls back on ENOSYS, and on nothing
/// else; runc, which Docker runs, answers so for that reason.
const LAST_KNOWN: u32 = 456;

/// Allowed to who has the capability. bpf and perf_event_open are in two rows: either capability will do.
#[rustfmt::skip]
const ALLOWED_WITH: &[(CapabilitySet, &[libc::c_long])] = &[
    (CapabilitySet::DAC_READ_SEARCH, &[libc::SYS_open_by_handle_at]),
    (CapabilitySet::SYS_ADMIN, &[
        libc::SYS_bpf, libc::SYS_fanotify_init, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fsopen,
        libc::SYS_fspick, libc::SYS_lookup_dcookie, libc::SYS_mount, libc::SYS_mount_setattr,
        libc::SYS_move_mount, libc::SYS_open_tree, libc::SYS_perf_event_open, libc::SYS_quotactl,
        libc::SYS_quotactl_fd, libc::SYS_setdomainname, libc::SYS_sethostname, libc::SYS_setns,
        libc::SYS_syslog, libc::SYS_umount2, libc::SYS_unshare,
    ]),
    (CapabilitySet::SYS_BOOT, &[libc::SYS_reboot]),
    (CapabilitySet::SYS_CHROOT, &[libc::SYS_chroot]),
    (CapabilitySet::SYS_MODULE, &[libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module]),
    (CapabilitySet::SYS_PACCT, &[libc::SYS_acct]),
    (CapabilitySet::SYS_PTRACE, &[libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_process_madvise]),
    #[cfg(target_arch = "x86_64")]
    (CapabilitySet::SYS_RAWIO, &[libc::SYS_ioperm, libc::SYS_iopl]),
    (CapabilitySet::SYS_TIME, &[libc::SYS_clock_settime, libc::SYS_settimeofday]),
    (CapabilitySet::SYS_TTY_CONFIG, &[libc::SYS_vhangup]),
    (CapabilitySet::SYS_NICE, &[
        libc::SYS_get_mempolicy, libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_set_mempolicy_home_node,
    ]),
    (CapabilitySet::SYSLOG, &[libc::SYS_syslog]),
    (CapabilitySet::BPF, &[libc::SYS_bpf]),
    (CapabilitySet::PERFMON, &[libc::SYS_perf_event_open]),
];

#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: libc::c_long = 333;
#[cfg(not(target_arch = "x86_64"))]
const IO_PGETEVENTS: libc::c_long = 292;

/// Flags of clone(2) that make namespaces; without CAP_SYS_ADMIN a call with any of them is refused.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Address family that reaches the hypervisor, and through it possibly the host.
const AF_VSOCK: u64 = 40;
/// File types that mknod may make: Docker allows devices too and keeps them from being opened by a device
/// cgroup, which the sandbox does not have.
const NODE_TYPES: [u64; 4] = [
    0,
    libc::S_IFREG as u64,
    libc::S_IFIFO as u64,
    libc::S_IFSOCK as u64,
];
/// Personas that change nothing dangerous: Linux, 32-bit, UNAME26 and both, and the query.
const PERSONAS: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile, compiled; loading it needs CAP_SYS_ADMIN or no_new_privs.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    programs: Vec<BpfProgram>,
}

impl Filter {
    /// Docker's default profile for this architecture and a bounding set.
    pub(crate) fn docker_default(bounding: CapabilitySet) -> Self {
        let allow_list = program(
            allow_rules(bounding),
            SeccompAction::Errno(libc::EPERM as u32),
            SeccompAction::Allow,
        );
        let fallback = not_implemented(!bounding.contains(CapabilitySet::SYS_ADMIN));
        // Of two errors the kernel gives that of the program that was loaded last.
        let programs = vec![allow_list, fallback];
        Self { programs }
    }

    /// Puts the calling thread under the filter, for good.
    pub(crate) fn load(&self) -> io::Result<()> {
        for program in &self.programs {
            let filter = libc::sock_fprog {
                len: u16::try_from(program.len()).map_err(io::Error::other)?,
                filter: program.as_ptr().cast_mut().cast(),
            };
            // SAFETY: seccompiler's sock_filter has the kernel's layout (linux/filter.h); the kernel copies
            // the program before the call returns.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    &raw const filter,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allow_rules(bounding: CapabilitySet) -> Rules {
    let given = ALLOWED_WITH
        .iter()
        .filter(|(capability, _)| bounding.contains(*capability));
    let plain = [ALLOWED, ALLOWED_LEGACY, ALLOWED_NEW]
        .into_iter()
        .chain(given.map(|(_, calls)| *calls))
        .flatten();
    let mut rules: Rules = plain.map(|number| (*number, Vec::new())).collect();
    rules.insert(IO_PGETEVENTS, Vec::new());
    rules.insert(libc::SYS_clone3, Vec::new()); // the second program answers it
    let clone = if bounding.contains(CapabilitySet::SYS_ADMIN) {
        Vec::new()
    } else {
        vec![rule(0, SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)]
    };
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_socket, vec![rule(0, SeccompCmpOp::Ne, AF_VSOCK)]);
    let personas = PERSONAS
        .iter()
        .map(|persona| rule(0, SeccompCmpOp::Eq, *persona))
        .collect();
    rules.insert(libc::SYS_personality, personas);
    let node = |argument| {
        let masked = SeccompCmpOp::MaskedEq(u64::from(libc::S_IFMT));
        NODE_TYPES
            .iter()
            .map(|kind| rule(argument, masked.clone(), *kind))
            .collect()
    };
    rules.insert(libc::SYS_mknodat, node(2));
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, node(1));
    rules
}

/// A rule on one argument, counted from 0.
fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompRule {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .expect("the arguments exist and one condition is not none")
}

/// Answers ENOSYS to calls that are newer than the profile, and to `clone3` where `clone`, whose flags a filter can read,
/// is to be called instead. By hand, as seccompiler compares no numbers of calls.
fn not_implemented(clone3: bool) -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // `nr` is the first field of struct seccomp_data (linux/seccomp.h). Numbers of clone3 are the same everywhere.
    let refused = if clone3 {
        libc::SYS_clone3 as u32
    } else {
        LAST_KNOWN + 1
    };
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K,
            1,
            0,
            LAST_KNOWN,
        ),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, refused),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> BpfProgram {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .expect("built for an architecture seccompiler knows");
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(TryInto::try_into)
        .expect("the profile is constant and compiles, as the test below shows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::DEFAULT;

    #[test]
    fn the_profile_compiles_and_fits_the_kernels_limit() {
        for bounding in [CapabilitySet::empty(), DEFAULT, CapabilitySet::all()] {
            let filter = Filter::docker_default(bounding);
            assert_eq!(filter.programs.len(), 2);
            // BPF_MAXINSNS
            assert!(
                filter
                    .programs
                    .iter()
                    .all(|program| (1..=4096).contains(&program.len()))
            );
        }
    }

    #[test]
    fn the_newest_call_listed_is_the_last_that_is_known() {
        let last = *allow_rules(CapabilitySet::all())
            .last_key_value()
            .unwrap()
            .0;
        assert_eq!(last, i64::from(LAST_KNOWN));
    }

    #[test]
    fn calls_that_docker_refuses_are_not_listed() {
        let rules = allow_rules(DEFAULT);
        for number in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_reboot,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_open_by_handle_at,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_move_mount,
            libc::SYS_pivot_root,
        ] {
            assert!(!rules.contains_key(&number), "{number}");
        }
    }

    #[test]
    fn capabilities_open_their_calls_and_no_other() {
        let none = allow_rules(CapabilitySet::empty());
        for (capability, calls) in ALLOWED_WITH {
            let rules = allow_rules(*capability);
            for number in *calls {
                assert!(!none.contains_key(number), "{number} without a capability");
                assert!(rules[number].is_empty(), "{number} with {capability:?}");
            }
            assert_eq!(rules.len(), none.len() + calls.len(), "{capability:?}");
        }
        // Whatever is given: keys, kexec and the like stay closed, and mknod makes no devices.
        let all = allow_rules(CapabilitySet::all());
        for number in [
            libc::SYS_keyctl,
            libc::SYS_kexec_load,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_pivot_root,
        ] {
            assert!(!all.contains_key(&number), "{number}");
        }
        assert!(!all[&libc::SYS_mknodat].is_empty());
        assert!(all[&libc::SYS_clone].is_empty() && !none[&libc::SYS_clone].is_empty());
    }
}
