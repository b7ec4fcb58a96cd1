//! All rules, in the order in which a container would run into them.

use std::collections::BTreeSet;

use smokegate_image::{Identity, ImageConfig, resolve_user};

use crate::access::{Who, Wish};
use crate::finding::{Finding, Severity};
use crate::index::Content;
use crate::linker::text;
use crate::program::{Caller, Programs};
use crate::script::{Last, Script};
use crate::tree::{Found, ImageTree, Missing, NodeKind};
use crate::words::{first_command, is_builtin, simple_command};
use crate::wrapper::{interpreted_file, wrapped};

/// More wrappers and scripts than anyone puts in front of a program.
const MAX_STEPS: usize = 12;

/// What is asked about an image: its configuration, with what the user sets instead.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The image's layers as one tree.
    pub tree: &'a ImageTree,
    /// The configuration.
    pub config: &'a ImageConfig,
    /// The command line that would run, entrypoint and arguments.
    pub argv: Vec<String>,
    /// `NAME=value`, the image's and the user's.
    pub env: Vec<String>,
    /// `USER`, or what is run instead.
    pub user: String,
    /// The directory it would run in.
    pub working_dir: String,
    /// Names of the environment variables that any variant sets, where it is known which variants there are.
    pub variables: Option<BTreeSet<String>>,
    /// The level of x86-64, 1 to 4, of the machine that runs it; `None` asks about no machine.
    pub cpu_level: Option<u8>,
}

impl<'a> Subject<'a> {
    /// The image as it is, with nothing set by a user.
    pub fn new(tree: &'a ImageTree, config: &'a ImageConfig) -> Self {
        Self {
            tree,
            config,
            argv: [config.entrypoint.as_slice(), &config.cmd].concat(),
            env: config.env.clone(),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            variables: None,
            cpu_level: None,
        }
    }
}

/// Applies every rule. Findings come in the order of their severity, errors first.
pub fn lint(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let identity = identity(subject, &mut findings);
    configuration(subject, &mut findings);
    let who = Who {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
    };
    let working_dir = if subject.working_dir.is_empty() {
        "/"
    } else {
        &subject.working_dir
    };
    let programs = Programs {
        tree: subject.tree,
        env: &subject.env,
        working_dir,
        who: &who,
        architecture: &subject.config.architecture,
        cpu_level: subject.cpu_level,
    };
    if subject.argv.is_empty() {
        findings.push(
            Finding::error(
                "no-command",
                "the image has neither an entrypoint nor a command",
            )
            .at("config", "Entrypoint and Cmd are empty")
            .fix("add `ENTRYPOINT` or `CMD` to the Dockerfile, or pass a command"),
        );
    } else {
        Walk {
            subject,
            programs: &programs,
            findings: &mut findings,
            is_sure: true,
        }
        .command(&subject.argv, Caller::Entrypoint, 0);
    }
    healthcheck(subject, &programs, &mut findings);
    findings.dedup();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn identity(subject: &Subject<'_>, findings: &mut Vec<Finding>) -> Identity {
    let read = |path: &str| {
        String::from_utf8_lossy(text(subject.tree, path).unwrap_or_default()).into_owned()
    };
    match resolve_user(&subject.user, &read("/etc/passwd"), &read("/etc/group")) {
        Ok(identity) => identity,
        Err(error) => {
            findings.push(
                Finding::error("user-unknown", error.to_string())
                    .at("config.User", &subject.user)
                    .fix("create it with `RUN useradd`, or write the id as a number"),
            );
            Identity {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                home: "/".to_owned(),
            }
        }
    }
}

fn configuration(subject: &Subject<'_>, findings: &mut Vec<Finding>) {
    let dir = &subject.working_dir;
    if !dir.is_empty() {
        let problem = match subject.tree.find(dir) {
            Ok(found) if found.node.is_dir() => None,
            Ok(found) => Some(found.path),
            Err(Missing::NotDirectory(path)) => Some(path),
            // What does not exist is made.
            Err(Missing::Absent(_)) => None,
            Err(_) => Some(dir.clone()),
        };
        if let Some(path) = problem {
            findings.push(
                Finding::error(
                    "workdir-not-directory",
                    format!("WORKDIR `{dir}` is no directory"),
                )
                .at("config.WorkingDir", dir)
                .at(path, "is no directory")
                .fix("name a directory"),
            );
        }
    }
    for pair in &subject.config.env {
        if !pair.contains('=') {
            findings.push(
                Finding::new(
                    "env-malformed",
                    Severity::Warning,
                    format!("the environment has `{pair}`, which is no NAME=value"),
                )
                .at("config.Env", pair)
                .fix("give it a value, or leave it out"),
            );
        }
    }
}

fn healthcheck(subject: &Subject<'_>, programs: &Programs<'_>, findings: &mut Vec<Finding>) {
    let Some(argv) = subject.config.healthcheck_args() else {
        return;
    };
    Walk {
        subject,
        programs,
        findings,
        is_sure: true,
    }
    .command(&argv, Caller::Healthcheck, 0);
}

/// Follows a command line through wrappers, shells and scripts to what it runs in the end.
struct Walk<'w, 'a> {
    subject: &'w Subject<'a>,
    programs: &'w Programs<'a>,
    findings: &'w mut Vec<Finding>,
    /// Nothing on the way here changed PATH, files or the like.
    is_sure: bool,
}

impl<'a> Walk<'_, 'a> {
    fn command(&mut self, argv: &[String], caller: Caller, steps: usize) {
        let Some(program) = argv.first().filter(|_| steps < MAX_STEPS) else {
            return;
        };
        let found = match self.programs.locate(program, caller) {
            Ok(found) => found,
            // Where PATH may be another by now, nothing is known of a bare name.
            Err(_) if !self.is_sure && !program.contains('/') => return,
            Err(finding) => return self.report(*finding),
        };
        let mut problems = self.programs.check(&found, caller);
        // A shell reads such a file itself where the kernel refuses it (POSIX.1-2024, XCU 2.9.1.6), and so does execvp(3).
        if steps > 0 {
            problems.retain(|finding| finding.id != "script-no-shebang");
        }
        if !problems.is_empty() {
            return problems
                .into_iter()
                .for_each(|finding| self.report(finding));
        }
        if let Some(inner) = wrapped(argv) {
            let before = &argv[..argv.len() - inner.len()];
            self.is_sure &= !before.iter().any(|word| word.contains("PATH="));
            return self.command(&inner, caller, steps + 1);
        }
        if let Some(text) = shell_text(argv) {
            return self.shell(argv, text, caller, steps);
        }
        if let Some(file) = interpreted_file(argv) {
            self.interpreted(program, file, caller);
            let path = self.programs.absolute(file);
            if is_shell(argv)
                && let Ok(script) = self.subject.tree.find(&path)
            {
                let at = argv.iter().position(|word| word == file).unwrap_or(0);
                self.script(&script, &argv[at + 1..], caller, steps);
            }
        } else {
            self.script(&found, &argv[1..], caller, steps);
        }
        if caller == Caller::Entrypoint {
            self.arguments(argv);
        }
    }

    /// Keeps a finding, as a warning where a script before it may have put things right.
    fn report(&mut self, finding: Finding) {
        let severity = if self.is_sure {
            finding.severity
        } else {
            finding.severity.min(Severity::Warning)
        };
        self.findings.push(Finding {
            severity,
            ..finding
        });
    }

    /// `sh -c TEXT`.
    fn shell(&mut self, argv: &[String], text: &str, caller: Caller, steps: usize) {
        let command = text.trim();
        let replaced = command.strip_prefix("exec ").unwrap_or(command);
        if let Some(words) = simple_command(replaced) {
            if let Some(first) = words.first()
                && !is_builtin(first)
                && !crate::words::is_assignment(first)
            {
                self.command(&words, caller, steps + 1);
            }
            return;
        }
        if let Some(words) = first_command(command)
            && !is_builtin(&words[0])
            && let Err(mut finding) = self.programs.locate(&words[0], caller)
        {
            finding.evidence.insert(
                0,
                crate::finding::Evidence {
                    path: "shell".to_owned(),
                    line: None,
                    text: argv.join(" "),
                },
            );
            self.report(*finding);
            return;
        }
        let last = command
            .rsplit(['\n', ';', '&', '|'])
            .next()
            .unwrap_or_default()
            .trim();
        if caller == Caller::Entrypoint && !last.starts_with("exec ") && steps == 0 {
            self.findings.push(
                Finding::new(
                    "shell-keeps-signals",
                    Severity::Hint,
                    "the shell stays the first process and does not pass the stop signal on",
                )
                .at("config.Entrypoint", argv.join(" "))
                .fix("begin the last command with `exec`, or use the JSON form"),
            );
        }
    }

    fn interpreted(&mut self, program: &str, file: &str, caller: Caller) {
        let path = self.programs.absolute(file);
        match self.subject.tree.find(&path) {
            Ok(found) => {
                if let Some(at) = self.programs.who.refused(&found, Wish::Read) {
                    self.report(self.unreadable(&found, &at));
                }
            }
            Err(Missing::Absent(_)) if self.is_found_otherwise(program, file) => {}
            Err(Missing::Absent(_) | Missing::NotDirectory(_)) => {
                let name = file.rsplit('/').next().unwrap_or(file);
                let others = self.subject.tree.named(name);
                let key = if caller == Caller::Entrypoint {
                    "config.Cmd"
                } else {
                    "config.Healthcheck"
                };
                let finding = Finding::error(
                    "script-missing",
                    format!("`{program}` would run `{path}`, which the image has not"),
                )
                .at(key, file);
                self.report(match others.first() {
                    Some(other) => finding.at(other, "has this name").fix(format!(
                        "the image has `{other}`; correct the path, or WORKDIR"
                    )),
                    None => finding.fix(format!("copy `{name}` into the image")),
                });
            }
            Err(Missing::Dangling { link, target }) => self.report(
                Finding::error(
                    "link-dangling",
                    format!("`{path}` is a link to `{target}`, which the image has not"),
                )
                .at(link, format!("-> {target}"))
                .fix(format!("copy `{target}` into the image too")),
            ),
            Err(Missing::Loop) => {}
        }
    }

    /// node adds endings, and shells look in PATH.
    fn is_found_otherwise(&self, program: &str, file: &str) -> bool {
        let tree = self.subject.tree;
        if is_shell(&[program.to_owned()]) {
            let path = self.programs.variable("PATH").unwrap_or_default();
            return !file.contains('/')
                && path
                    .split(':')
                    .any(|dir| tree.exists(&format!("{dir}/{file}")));
        }
        let path = self.programs.absolute(file);
        program
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("node"))
            && [".js", ".json", ".node"]
                .iter()
                .any(|ending| tree.exists(&format!("{path}{ending}")))
    }

    fn unreadable(&self, found: &Found<'_>, at: &str) -> Finding {
        let who = self.programs.who;
        let node = self.subject.tree.find(at).map_or(found.node, |at| at.node);
        Finding::error(
            "file-not-readable",
            format!("user {}:{} may not read `{}`", who.uid, who.gid, found.path),
        )
        .at(
            at,
            format!("mode {:04o}, owner {}:{}", node.mode, node.uid, node.gid),
        )
        .fix(format!(
            "`COPY --chown={}:{}` it, or let others read it",
            who.uid, who.gid
        ))
    }

    /// Arguments that are files of the image which the user could not read.
    fn arguments(&mut self, argv: &[String]) {
        for argument in &argv[1..] {
            let path = argument
                .split_once('=')
                .map_or(argument.as_str(), |(_, value)| value);
            if !path.starts_with('/') || path.len() < 2 {
                continue;
            }
            let Ok(found) = self.subject.tree.find(path) else {
                continue;
            };
            if !matches!(found.node.kind, NodeKind::File(_)) {
                continue;
            }
            if let Some(at) = self.programs.who.refused(&found, Wish::Read) {
                let finding = self.unreadable(&found, &at);
                if !self.findings.contains(&finding) {
                    self.findings.push(Finding {
                        severity: Severity::Warning,
                        ..finding
                    });
                }
            }
        }
    }

    /// What a shell script says it runs.
    fn script(&mut self, found: &Found<'a>, arguments: &[String], caller: Caller, steps: usize) {
        let NodeKind::File(summary) = &found.node.kind else {
            return;
        };
        let Content::Text(bytes) = &summary.content else {
            return;
        };
        // Of a part nobody can say how it ends.
        if summary.size > bytes.len() as u64 {
            return;
        }
        let first = bytes
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        if !["sh", "bash", "dash", "ash"]
            .iter()
            .any(|shell| first.split([' ', '/']).any(|word| word == *shell))
        {
            return;
        }
        let script = Script::new(bytes);
        for called in script.called() {
            if self.subject.tree.exists(&called.program) {
                continue;
            }
            let goes_on = if called.in_background {
                " in the background, and goes on without it"
            } else {
                ""
            };
            self.findings.push(
                Finding::new(
                    "script-program-missing",
                    Severity::Warning,
                    format!(
                        "the script `{}` runs `{}`{goes_on}, which the image has not",
                        found.path, called.program
                    ),
                )
                .at_line(&found.path, called.line.number, called.line.text)
                .fix(format!(
                    "copy `{}` into the image, or take the line out",
                    called.program
                )),
            );
        }
        self.is_sure &= !script.changes_surroundings();
        if caller == Caller::Entrypoint
            && let Some(variables) = &self.subject.variables
        {
            for (name, line) in script.tested_variables() {
                let is_set = self.programs.variable(&name).is_some() || variables.contains(&name);
                if !is_set {
                    self.findings.push(
                        Finding::new(
                            "variable-never-set",
                            Severity::Hint,
                            format!("the script `{}` asks for ${name}, which no variant sets: one branch is never run", found.path),
                        )
                        .at_line(&found.path, line.number, line.text)
                        .fix(format!("add a variant that sets {name} as production does")),
                    );
                }
            }
        }
        match script.last() {
            // Options alone are for a program that the script puts in front of them.
            Last::ExecArguments if arguments.first().is_some_and(|word| word.starts_with('-')) => {}
            Last::ExecArguments => self.command(arguments, caller, steps + 1),
            Last::Exec(words) => {
                if !is_builtin(&words[0]) {
                    self.command(&words, caller, steps + 1);
                }
            }
            Last::Other => {}
        }
    }
}

fn is_shell(argv: &[String]) -> bool {
    let name = argv.first().and_then(|program| program.rsplit('/').next());
    matches!(name, Some("sh" | "bash" | "dash" | "ash"))
}

/// The text of `sh -c TEXT`, also with options in front.
fn shell_text(argv: &[String]) -> Option<&str> {
    if !is_shell(argv) {
        return None;
    }
    let at = argv
        .iter()
        .position(|word| word.starts_with('-') && !word.starts_with("--") && word.ends_with('c'))?;
    argv.get(at + 1).map(String::as_str)
}
