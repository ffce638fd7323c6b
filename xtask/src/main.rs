//! What this project does to itself: `cargo xtask test`, `cargo xtask bench`.

mod chaos;

use std::{
    env, fs,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

type Step = Result<(), String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(),
        ["bench", ref rest @ ..] => bench(rest),
        ["chaos", ref rest @ ..] => chaos(rest),
        _ => Err("cargo xtask test: everything that this project checks\n\
                  cargo xtask bench [NAME]: the benchmarks, as ratios to bare actix\n\
                  cargo xtask chaos [--minutes N] [--seed S]: crashes and a bad network, for 2 minutes"
            .into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Step {
    need_component("fmt", "rustfmt")?;
    need_component("clippy", "clippy")?;
    need_redis()?;
    cargo("formatting", &["fmt", "--all", "--check"])?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])?;
    for features in ["", "redis", "testing"] {
        let name = format!("lints with features `{features}` alone");
        cargo(&name, &["clippy", "--lib", "--no-default-features", "--features", features, "--", "-D", "warnings"])?;
    }
    with_variable("documentation", &["doc", "--no-deps", "--all-features"], ("RUSTDOCFLAGS", "-D warnings"))?;
    schedules()?;
    // The tests drive them as processes.
    cargo("examples", &["build", "--all-features", "--examples"])?;
    fuzz()?;
    run_chaos(Duration::from_secs(120), 1)?;
    // Last and with nothing behind, so that the run ends with the test runner's own lines.
    println!("== tests");
    succeed("tests", Command::new(env!("CARGO")).args(["test", "--all-features", "--no-fail-fast"]))
}

fn bench(arguments: &[&str]) -> Step {
    need_redis()?;
    let mut all = vec!["bench", "--all-features", "--bench", "ratios", "--"];
    all.extend(arguments);
    cargo("benchmarks", &all)
}

/// The fuzz targets for a moment, without a fuzzer's instruments: any toolchain can do that. Real fuzzing is cargo-fuzz's.
fn fuzz() -> Step {
    if !succeeds(Command::new("c++").arg("--version")) {
        return Err("missing: c++, which libFuzzer is built with; install a C++ compiler (g++ or clang)".into());
    }
    let target = ["--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz"];
    cargo("fuzz targets", &[&["build"][..], &target].concat())?;
    let finds = env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    for name in ["key", "record", "settings", "json"] {
        let found = finds.join(name);
        fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let mut command = Command::new(format!("target/fuzz/debug/{name}"));
        // What it finds goes to the first folder, what it starts from is in the second.
        command.args(["-runs=100000", "-max_len=1000", "-verbosity=0"]).arg(&found).arg(format!("fuzz/seeds/{name}"));
        run(&format!("fuzz {name}"), command.stderr(Stdio::null()))?;
    }
    let _ = fs::remove_dir_all(finds);
    Ok(())
}

/// Schedules of the memory store: built apart, since another mutex is put into it.
fn schedules() -> Step {
    let arguments = ["test", "--test", "schedules", "--target-dir", "target/shuttle"];
    with_variable("schedules", &arguments, ("RUSTFLAGS", "--cfg shuttle"))
}

fn chaos(arguments: &[&str]) -> Step {
    need_redis()?;
    let mut minutes = 2.0;
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    for pair in arguments.chunks(2) {
        match *pair {
            ["--minutes", n] => minutes = n.parse().map_err(|_| format!("--minutes takes a number, not `{n}`"))?,
            ["--seed", s] => seed = s.parse().map_err(|_| format!("--seed takes a whole number, not `{s}`"))?,
            _ => return Err(format!("chaos: what is `{}`?", pair.join(" "))),
        }
    }
    cargo("examples", &["build", "--all-features", "--examples"])?;
    run_chaos(Duration::from_secs_f64(minutes * 60.0), seed)
}

fn run_chaos(length: Duration, seed: u64) -> Step {
    println!("== chaos");
    chaos::run(length, seed).map_err(|broken| format!("chaos, seed {seed}: {broken}"))
}

fn cargo(what: &str, arguments: &[&str]) -> Step {
    run(what, Command::new(env!("CARGO")).args(arguments))
}

fn with_variable(what: &str, arguments: &[&str], (name, value): (&str, &str)) -> Step {
    run(what, Command::new(env!("CARGO")).args(arguments).env(name, value))
}

fn run(what: &str, command: &mut Command) -> Step {
    println!("== {what}");
    let start = Instant::now();
    succeed(what, command)?;
    println!("== {what}: {} s", start.elapsed().as_secs());
    Ok(())
}

fn succeed(what: &str, command: &mut Command) -> Step {
    let status = command.status().map_err(|error| format!("{what}: {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed: {command:?}")) }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A part of the toolchain, installed where `rustup` can.
fn need_component(subcommand: &str, component: &str) -> Step {
    let there = || succeeds(Command::new(env!("CARGO")).args([subcommand, "--version"]));
    if there() || (succeeds(Command::new("rustup").args(["component", "add", component])) && there()) {
        return Ok(());
    }
    Err(format!("missing: `cargo {subcommand}`; install it with `rustup component add {component}`"))
}

/// A real redis-server, which the tests start themselves on free ports.
fn need_redis() -> Step {
    let there = || succeeds(Command::new("redis-server").arg("--version"));
    if there() {
        return Ok(());
    }
    let sudo: &[&str] = if succeeds(Command::new("sudo").args(["-n", "true"])) { &["sudo", "-n"] } else { &[] };
    let managers: [&[&str]; 5] = [
        &["apt-get", "install", "-y", "redis-server"],
        &["dnf", "install", "-y", "redis"],
        &["apk", "add", "redis"],
        &["pacman", "-S", "--noconfirm", "redis"],
        &["brew", "install", "redis"],
    ];
    for manager in managers {
        let prefix = if manager[0] == "brew" { &[][..] } else { sudo };
        let whole = |arguments: &[&str]| {
            let words: Vec<&str> = prefix.iter().chain(arguments).copied().collect();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        if !succeeds(Command::new(manager[0]).arg("--version")) {
            continue;
        }
        println!("== installing redis-server with {}", manager[0]);
        if manager[0] == "apt-get" {
            // A new machine has no package lists.
            succeeds(&mut whole(&["apt-get", "update"]));
        }
        if succeeds(&mut whole(manager)) && there() {
            return Ok(());
        }
    }
    Err("missing: redis-server. The tests start one of their own; install it with your system's package manager".into())
}
