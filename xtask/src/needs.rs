//! What a step needs beyond cargo: installed where that can be done, else named.

use std::{env, process::Command};

use crate::command::{Step, succeeds};

/// A part of the toolchain, installed where `rustup` can.
pub(crate) fn need_component(subcommand: &str, component: &str) -> Step {
    let there = || succeeds(Command::new(env!("CARGO")).args([subcommand, "--version"]));
    if there() || (succeeds(Command::new("rustup").args(["component", "add", component])) && there()) {
        return Ok(());
    }
    Err(format!("missing: `cargo {subcommand}`; install it with `rustup component add {component}`"))
}

/// A real redis-server, which the tests start themselves on free ports.
pub(crate) fn need_redis() -> Step {
    need_program("redis-server", &Packages { debian: &["redis-server"], others: &["redis"] })
        .map_err(|missing| format!("{missing}. The tests start one of their own"))
}

/// A browser and its driver, by which the tests see the pages.
pub(crate) fn need_browser() -> Step {
    need_program("chromium", &Packages { debian: &["chromium"], others: &["chromium"] })?;
    need_program("chromedriver", &Packages { debian: &["chromium-driver"], others: &["chromedriver"] })
}

/// Counts instructions.
pub(crate) fn need_valgrind() -> Step {
    need_program("valgrind", &Packages { debian: &["valgrind"], others: &["valgrind"] })
}

/// Loads a server over sockets; it and the server are kept apart by `taskset`.
pub(crate) fn need_wrk() -> Step {
    need_program("taskset", &Packages { debian: &["util-linux"], others: &["util-linux"] })?;
    need_program("wrk", &Packages { debian: &["wrk"], others: &["wrk"] })
}

/// What a program comes in.
struct Packages {
    /// For `apt-get`.
    debian: &'static [&'static str],
    /// For `dnf`, `apk`, `pacman` and `brew`.
    others: &'static [&'static str],
}

/// A program, installed by the system's package manager where that can be done.
fn need_program(program: &str, packages: &Packages) -> Step {
    // Whether it starts: not each succeeds at telling its version.
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
