//! Devices that other tools need, so that people look for them here.

use std::fs::File;
use std::io;

use super::check::{Check, Noun, Status};
use crate::error::errno_text;

pub(super) fn checks() -> [Check; 2] {
    let fuse = "layers are joined by the kernel's overlayfs, or copied; fuse-overlayfs is not used";
    let tun =
        "ports are mapped by sockets opened inside the pod; neither slirp4netns nor pasta is used";
    [
        device(Noun::Fuse, "/dev/fuse", fuse),
        device(Noun::Tun, "/dev/net/tun", tun),
    ]
}

fn device(noun: Noun, path: &str, means: &str) -> Check {
    let opened = File::options().read(true).write(true).open(path);
    let result = match opened {
        Ok(_) => "it can be opened".to_owned(),
        Err(error) => said(&error),
    };
    Check::fine(noun, format!("open({path}, O_RDWR)"), result, means)
        .behind(Status::NotNeeded, None)
}

fn said(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), errno_text)
}
