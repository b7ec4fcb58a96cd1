//! Names of hosts in a static program: resolved without modules of the host's libc.

/// Has names of hosts looked up in `/etc/hosts` and by DNS, whatever `/etc/nsswitch.conf` says, where this program is
/// linked statically; else does nothing. Before the first thread is started.
///
/// glibc's own `files` and `dns` are in the program. Other services of nsswitch.conf(5) are shared libraries, which a static
/// glibc would load with a libc of theirs: of another version they crash the program, and in an image without
/// libraries there are none.
pub fn resolve_hosts_without_modules() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        use std::ffi::{c_char, c_int};
        // nss.h of glibc, since 2.0
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        // SAFETY: both strings are static and end with a zero; there is no other thread yet, see above. It fails only
        // for a database that does not exist, or want of memory; then nsswitch.conf counts.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
