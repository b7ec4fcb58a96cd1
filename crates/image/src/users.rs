//! `USER` as Docker resolves it: names and numbers, by the image's own /etc/passwd and /etc/group.

/// The largest id that Docker's runtime accepts; 4294967295 means "no change" to setresuid(2).
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// The identity a process gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups of the image's /etc/group; none when the group was named.
    pub groups: Vec<u32>,
    /// Home directory: what /etc/passwd says, else `/`.
    pub home: String,
}

/// Why a `USER` has no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The image names a user or group that its files do not have.
    #[error("the image has no {kind} `{name}` in its {file}")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// No process can have this id.
    #[error("USER `{user}`: the {kind} id {id} is larger than {MAX_ID}")]
    TooLarge {
        /// As the image says it.
        user: String,
        /// `user` or `group`.
        kind: &'static str,
        /// The id, of any length.
        id: String,
    },
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid` and the mixed forms (Dockerfile reference, USER).
///
/// A number that no file knows is taken as it is, with group 0.
///
/// # Errors
/// A name that no file knows, or an id that no process can have.
pub fn resolve_user(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    // name:password:uid:gid:comment:home:shell (passwd(5))
    let entry = passwd.lines().map(fields).find(|entry| {
        let uid = field(entry, 2);
        field(entry, 0) == user_part || (!uid.is_empty() && uid == user_part)
    });
    let (name, uid, gid, home) = match &entry {
        Some(entry) => (
            Some(field(entry, 0)),
            number(user, "user", field(entry, 2), "/etc/passwd")?,
            number(user, "group", field(entry, 3), "/etc/passwd")?,
            field(entry, 5),
        ),
        None => (None, number(user, "user", user_part, "/etc/passwd")?, 0, ""),
    };
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    let Some(group_part) = group_part.filter(|part| !part.is_empty()) else {
        let groups = name.map_or_else(Vec::new, |name| supplementary(name, gid, group));
        return Ok(Identity {
            uid,
            gid,
            groups,
            home,
        });
    };
    // name:password:gid:members (group(5))
    let listed = group.lines().map(fields).find(|entry| {
        let gid = field(entry, 2);
        field(entry, 0) == group_part || (!gid.is_empty() && gid == group_part)
    });
    let text = listed.as_ref().map_or(group_part, |entry| field(entry, 2));
    Ok(Identity {
        uid,
        gid: number(user, "group", text, "/etc/group")?,
        groups: Vec::new(),
        home,
    })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn field<'a>(entry: &[&'a str], at: usize) -> &'a str {
    entry.get(at).copied().unwrap_or_default().trim()
}

fn number(
    user: &str,
    kind: &'static str,
    text: &str,
    file: &'static str,
) -> Result<u32, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UserError::Unknown {
            kind,
            name: text.to_owned(),
            file,
        });
    }
    let id = text.parse().ok().filter(|id| *id <= MAX_ID);
    id.ok_or_else(|| UserError::TooLarge {
        user: user.to_owned(),
        kind,
        id: text.to_owned(),
    })
}

fn supplementary(name: &str, primary: u32, group: &str) -> Vec<u32> {
    let mut found: Vec<u32> = group
        .lines()
        .map(fields)
        .filter(|entry| field(entry, 3).split(',').any(|member| member == name))
        .filter_map(|entry| field(&entry, 2).parse().ok())
        .filter(|gid| *gid != primary && *gid <= MAX_ID)
        .collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbad:x:y:0::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nweb:x:33:app,other\nlog:x:4:app\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn users_resolve_as_docker_resolves_them() {
        for (user, expected) in [
            ("", identity(0, 0, &[], "/root")),
            ("root", identity(0, 0, &[], "/root")),
            ("app", identity(1000, 1001, &[33, 4], "/home/app")),
            ("1000", identity(1000, 1001, &[33, 4], "/home/app")),
            ("app:web", identity(1000, 33, &[], "/home/app")),
            ("1000:55", identity(1000, 55, &[], "/home/app")),
            ("4242", identity(4242, 0, &[], "/")),
            ("4242:web", identity(4242, 33, &[], "/")),
            (":web", identity(0, 33, &[], "/root")),
        ] {
            assert_eq!(
                resolve_user(user, PASSWD, GROUP).unwrap(),
                expected,
                "{user}"
            );
        }
        assert_eq!(
            resolve_user("7:8", "", "").unwrap(),
            identity(7, 8, &[], "/")
        );
    }

    #[test]
    fn unknown_names_are_errors_that_name_them() {
        for (user, what) in [("nobody", "user `nobody`"), ("app:wheel", "group `wheel`")] {
            let error = resolve_user(user, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn ids_that_no_process_can_have_are_the_images_fault() {
        let passwd = "big:x:4294967295:0::/:\nbig-group:x:1:2147483648::/:\n";
        for (user, what) in [
            ("2147483648", "user id 2147483648"),
            ("4294967295", "user id 4294967295"),
            ("99999999999999999999", "user id 99999999999999999999"),
            ("0:4294967295", "group id 4294967295"),
            ("big", "user id 4294967295"),
            ("big-group", "group id 2147483648"),
        ] {
            let error = resolve_user(user, passwd, "").unwrap_err();
            assert!(matches!(error, UserError::TooLarge { .. }), "{error:?}");
            let expected = format!("USER `{user}`: the {what} is larger than 2147483647");
            assert_eq!(error.to_string(), expected);
        }
        let groups = "all:x:4294967295:app\n";
        let largest = resolve_user("2147483647", passwd, "").unwrap();
        assert_eq!(largest.uid, 2_147_483_647);
        assert_eq!(resolve_user("app", PASSWD, groups).unwrap().groups, [0; 0]);
    }
}
