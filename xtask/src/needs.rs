//! Programs that a step needs besides cargo. A missing one is installed if possible; else the step fails with its name.

use std::{env, fs, process::Command};

use crate::command::{Step, succeeds};

/// A component of the toolchain, which `rustup` may install.
pub(crate) fn need_component(subcommand: &str, component: &str) -> Step {
    let there = || succeeds(Command::new(env!("CARGO")).args([subcommand, "--version"]));
    if there() || (succeeds(Command::new("rustup").args(["component", "add", component])) && there()) {
        return Ok(());
    }
    Err(format!("missing: `cargo {subcommand}`; install it with `rustup component add {component}`"))
}

/// The tests start their own redis-servers on free ports.
pub(crate) fn need_redis() -> Step {
    need_program("redis-server", &Packages { debian: &["redis-server"], others: &["redis"] })
        .map_err(|missing| format!("{missing}. It need not run: the tests start their own"))
}

/// The tests start their own PostgreSQL servers, and PgBouncer before one of them, on free ports.
pub(crate) fn need_postgres() -> Step {
    let in_its_folder = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin/initdb")).any(|program| program.exists())
    };
    if !in_its_folder() {
        need_program("initdb", &Packages { debian: &["postgresql"], others: &["postgresql"] })
            .or_else(|missing| if in_its_folder() { Ok(()) } else { Err(missing) })
            .map_err(|missing| format!("{missing} (PostgreSQL). It need not run: the tests start their own"))?;
    }
    // Debian has it in a folder that only root's search path names.
    if fs::exists("/usr/sbin/pgbouncer").unwrap_or(false) {
        return Ok(());
    }
    need_program("pgbouncer", &Packages { debian: &["pgbouncer"], others: &["pgbouncer"] })
}

/// A browser and its driver, with which the tests open the HTML pages.
pub(crate) fn need_browser() -> Step {
    need_program("chromium", &Packages { debian: &["chromium"], others: &["chromium"] })?;
    need_program("chromedriver", &Packages { debian: &["chromium-driver"], others: &["chromedriver"] })
}

/// The clients of other languages are run by a script.
pub(crate) fn need_python() -> Step {
    need_program("python3", &Packages { debian: &["python3", "python3-venv"], others: &["python3"] })
}

/// Valgrind counts instructions.
pub(crate) fn need_valgrind() -> Step {
    need_program("valgrind", &Packages { debian: &["valgrind"], others: &["valgrind"] })
}

/// `wrk` loads a server over sockets. `taskset` puts the two on different cores.
pub(crate) fn need_wrk() -> Step {
    need_program("taskset", &Packages { debian: &["util-linux"], others: &["util-linux"] })?;
    need_program("wrk", &Packages { debian: &["wrk"], others: &["wrk"] })
}

/// The packages that contain a program.
struct Packages {
    /// For `apt-get`.
    debian: &'static [&'static str],
    /// For `dnf`, `apk`, `pacman` and `brew`.
    others: &'static [&'static str],
}

/// A program, which the system's package manager may install.
fn need_program(program: &str, packages: &Packages) -> Step {
    // Only whether the program starts: some programs exit with an error after `--version`.
    let there = || Command::new(program).arg("--version").output().is_ok();
    if there() {
        return Ok(());
    }
    let sudo: &[&str] = if succeeds(Command::new("sudo").args(["-n", "true"])) { &["sudo", "-n"] } else { &[] };
    let managers: [&[&str]; 5] = [
        &["apt-get", "install", "-y"],
        &["dnf", "install", "-y"],
        &["apk", "add"],
        &["pacman", "-S", "--noconfirm"],
        &["brew", "install"],
    ];
    for manager in managers {
        let (name, prefix) = (manager[0], if manager[0] == "brew" { &[][..] } else { sudo });
        let whole = |arguments: &[&str]| {
            let words: Vec<&str> = prefix.iter().chain(arguments).copied().collect();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        if !succeeds(Command::new(name).arg("--version")) {
            continue;
        }
        println!("== installing {program} with {name}");
        if name == "apt-get" {
            // A new machine has no package lists.
            succeeds(&mut whole(&["apt-get", "update"]));
        }
        let packages = if name == "apt-get" { packages.debian } else { packages.others };
        if succeeds(&mut whole(&[manager, packages].concat())) && there() {
            return Ok(());
        }
    }
    Err(format!("missing: {program}; install it with your system's package manager"))
}
