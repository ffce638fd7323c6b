//! The development tasks of this project: `cargo xtask test`, `bench`, `chaos`, `clients`, `folders`, `release`.

mod chaos;
mod command;
mod folders;
mod instructions;
mod needs;
mod public_api;
mod release;
mod rustdoc;

use std::{
    env, fs,
    process::{Command, ExitCode, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::{
    chaos::topology::Kind,
    command::{Step, cargo, run, succeed, succeeds, with_variable},
    needs::{need_browser, need_component, need_postgres, need_python, need_redis, need_valgrind, need_wrk},
};

const HELP: &str = "\
cargo xtask test                            run every check of this project
cargo xtask bench [--all | --PART]          compare an App with the middleware to the same App without it;
                                            --all includes the slow parts, --wire is the part over sockets
cargo xtask bench --ledger                  compare transactions with a ledger in PostgreSQL to the same by hand
cargo xtask bench --redis                   compare the Redis store to bare connections: one server, Sentinel, a cluster
cargo xtask bench --sqlite                  compare the SQLite store to bare rusqlite
cargo xtask bench --growth                  draw benches/growth.svg: how cost grows
cargo xtask bench --instructions            compare instructions per operation with their budget
cargo xtask bench --instructions --bless    write the budget of instructions
cargo xtask chaos [--minutes N] [--seed S]  kill servers and disturb the network (default: 2 minutes)
cargo xtask chaos --ledger [--control] …    the same to servers with a ledger, and to their PostgreSQL; with --control,
                                            the processes share no ids, and the verdict must see doubled rows
cargo xtask chaos --topology KIND …         the same over a Redis that fails over: `cluster` or `sentinel`;
                                            --replicas N acknowledges claims
cargo xtask clients [CLIENT]                send real clients through a proxy that cuts connections
cargo xtask folders                         check that folders of src name only folders below them
cargo xtask release [STEP]                  run the checks before a release: all, or the named ones
cargo xtask release --bless                 write the listing of the public API";

fn main() -> ExitCode {
    if let Some(code) = rustdoc::stand_in() {
        return code;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(),
        ["bench", "--instructions"] => need_valgrind().and_then(|()| instructions::run(false)),
        ["bench", "--instructions", "--bless"] => need_valgrind().and_then(|()| instructions::run(true)),
        ["bench", "--ledger"] => bench_ledger(),
        ["bench", "--sqlite"] => {
            cargo("benchmarks of the SQLite store", &["bench", "--features", "sqlite", "--bench", "sqlite"])
        }
        ["bench", ref rest @ ..] => bench(rest),
        ["folders"] => folders::check(),
        ["chaos", ref rest @ ..] => chaos(rest),
        ["clients", ref rest @ ..] => clients(rest),
        ["release", ref rest @ ..] => release::release(rest),
        _ => Err(HELP.into()),
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
    need_postgres()?;
    need_browser()?;
    folders::check()?;
    cargo("formatting", &["fmt", "--all", "--check"])?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])?;
    for features in ["", "redis", "redis-tls", "sqlite", "encryption", "testing", "metrics"] {
        let name = format!("lints with features `{features}` alone");
        cargo(&name, &["clippy", "--lib", "--no-default-features", "--features", features, "--", "-D", "warnings"])?;
    }
    with_variable("documentation", &["doc", "--no-deps", "--all-features"], ("RUSTDOCFLAGS", "-D warnings"))?;
    public_api::check()?;
    cargo("tests of xtask", &["test", "--package", "xtask"])?;
    schedules()?;
    // The tests start the examples as processes.
    cargo("examples", &["build", "--all-features", "--examples"])?;
    fuzz()?;
    ecosystem()?;
    sqlx()?;
    recipes()?;
    // What a build without a feature says to a setting that needs it.
    cargo("unit tests without features", &["test", "--lib"])?;
    // This test runs without the feature `metrics`, because metrics allocate too.
    cargo("allocations", &["test", "--test", "allocations"])?;
    match need_valgrind() {
        Ok(()) => instructions::run(false)?,
        Err(missing) => println!("== instructions: NOT CHECKED: {missing}"),
    }
    run_chaos(Duration::from_secs(120), 1)?;
    run_chaos_of_topology(Kind::Cluster, 1, Duration::from_secs(45), 1)?;
    run_chaos_of_topology(Kind::Sentinel, 0, Duration::from_secs(45), 1)?;
    run_chaos_of_ledger(Duration::from_secs(60), 1, false)?;
    run_chaos_of_ledger(Duration::from_secs(5), 1, true)?;
    // The tests come last and nothing is printed after them, so that the output ends with the summary of the test
    // runner.
    println!("== tests");
    succeed("tests", Command::new(env!("CARGO")).args(["test", "--all-features", "--no-fail-fast"]))
}

fn bench(arguments: &[&str]) -> Step {
    need_redis()?;
    if ["--all", "--growth", "--wire"].iter().any(|flag| arguments.contains(flag)) {
        need_wrk()?;
    }
    let mut all = vec!["bench", "--features", "redis,testing", "--bench", "ratios", "--"];
    all.extend(arguments);
    cargo("benchmarks", &all)
}

fn bench_ledger() -> Step {
    need_postgres()?;
    let package = ["bench", "--package", "actix-idempotency-sqlx", "--features", "postgres", "--bench", "ledger"];
    cargo("benchmarks of the ledger", &package)
}

/// Runs each fuzz target for 100 000 inputs. Without coverage instrumentation, so that any toolchain can do it;
/// `fuzz/Cargo.toml` says how to fuzz with cargo-fuzz.
fn fuzz() -> Step {
    if !succeeds(Command::new("c++").arg("--version")) {
        return Err("missing: c++, which builds libFuzzer; install a C++ compiler (g++ or clang)".into());
    }
    let target = ["--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz"];
    cargo("fuzz targets", &[&["build"][..], &target].concat())?;
    let finds = env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    for name in ["key", "record", "sealed", "settings", "json"] {
        let found = finds.join(name);
        fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let mut command = Command::new(format!("target/fuzz/debug/{name}"));
        // libFuzzer writes new inputs into the first folder, and reads seeds from both.
        command.args(["-runs=100000", "-max_len=1000", "-verbosity=0"]).arg(&found).arg(format!("fuzz/seeds/{name}"));
        run(&format!("fuzz {name}"), command.stderr(Stdio::null()))?;
    }
    let _ = fs::remove_dir_all(finds);
    Ok(())
}

/// Tests the crate with the crates that people use around it, at one mounting for each of them. The package has a
/// workspace and a target directory of its own; `tests/ecosystem/README.md` says how to run everything.
fn ecosystem() -> Step {
    let manifest = ["--manifest-path", "tests/ecosystem/Cargo.toml"];
    let target = ["--target-dir", "target/ecosystem"];
    cargo("formatting of the ecosystem", &[&["fmt"][..], &manifest, &["--check"]].concat())?;
    let lints = [&["clippy"][..], &manifest, &target, &["--all-targets", "--", "-D", "warnings"]];
    cargo("lints of the ecosystem", &lints.concat())?;
    cargo("ecosystem", &[&["test"][..], &manifest, &target].concat())
}

/// The ledgers, with PostgreSQL, PgBouncer and SQLite.
fn sqlx() -> Step {
    let package = ["--package", "actix-idempotency-sqlx"];
    for features in ["", "postgres", "sqlite"] {
        let name = format!("lints of actix-idempotency-sqlx with features `{features}`");
        let lints = [&["clippy"][..], &package, &["--lib", "--features", features, "--", "-D", "warnings"]];
        cargo(&name, &lints.concat())?;
    }
    // The tests start the example as a process.
    example_of_sqlx()?;
    cargo("actix-idempotency-sqlx", &[&["test"][..], &package, &["--features", "postgres,sqlite"]].concat())
}

fn example_of_sqlx() -> Step {
    let package = ["--package", "actix-idempotency-sqlx", "--features", "postgres,sqlite"];
    cargo("example of actix-idempotency-sqlx", &[&["build", "--examples"][..], &package].concat())
}

/// The recipes for libraries without a ledger, with PostgreSQL. The package has a workspace and a target directory of its
/// own.
fn recipes() -> Step {
    let manifest = ["--manifest-path", "tests/recipes/Cargo.toml"];
    let target = ["--target-dir", "target/recipes"];
    cargo("formatting of the recipes", &[&["fmt"][..], &manifest, &["--check"]].concat())?;
    let lints = [&["clippy"][..], &manifest, &target, &["--all-targets", "--", "-D", "warnings"]];
    cargo("lints of the recipes", &lints.concat())?;
    cargo("recipes", &[&["test"][..], &manifest, &target].concat())
}

/// Explores thread schedules of the memory store. It has its own target directory, because `--cfg shuttle` changes the
/// mutex of the store.
fn schedules() -> Step {
    let arguments = ["test", "--test", "schedules", "--target-dir", "target/shuttle"];
    with_variable("schedules", &arguments, ("RUSTFLAGS", "--cfg shuttle"))
}

fn chaos(arguments: &[&str]) -> Step {
    need_redis()?;
    let (mut is_ledger, mut is_control, mut topology, mut replicas, mut minutes) = (false, false, None, 0, 2.0);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let mut rest = arguments;
    loop {
        rest = match *rest {
            [] => break,
            ["--ledger", ref rest @ ..] => {
                is_ledger = true;
                rest
            }
            ["--control", ref rest @ ..] if is_ledger => {
                is_control = true;
                rest
            }
            ["--topology", kind, ref rest @ ..] => {
                topology = Some(match kind {
                    "cluster" => Kind::Cluster,
                    "sentinel" => Kind::Sentinel,
                    _ => return Err(format!("--topology takes cluster or sentinel, not `{kind}`")),
                });
                rest
            }
            ["--replicas", n, ref rest @ ..] if topology.is_some() => {
                replicas = n.parse().map_err(|_| format!("--replicas takes a whole number, not `{n}`"))?;
                rest
            }
            ["--minutes", n, ref rest @ ..] => {
                minutes = n.parse().map_err(|_| format!("--minutes takes a number, not `{n}`"))?;
                rest
            }
            ["--seed", s, ref rest @ ..] => {
                seed = s.parse().map_err(|_| format!("--seed takes a whole number, not `{s}`"))?;
                rest
            }
            _ => return Err(format!("chaos: unknown argument `{}`", rest.join(" "))),
        };
    }
    let length = Duration::from_secs_f64(minutes * 60.0);
    if is_ledger {
        need_postgres()?;
        example_of_sqlx()?;
        return run_chaos_of_ledger(length, seed, is_control);
    }
    cargo("examples", &["build", "--all-features", "--examples"])?;
    match topology {
        Some(kind) => run_chaos_of_topology(kind, replicas, length, seed),
        None => run_chaos(length, seed),
    }
}

/// The script installs the clients with npm, pip and cargo, or names the program that is missing.
fn clients(arguments: &[&str]) -> Step {
    need_python()?;
    println!("== clients");
    // The script prints its verdict last.
    succeed("clients", Command::new("python3").arg("tests/clients/run").args(arguments))
}

fn run_chaos(length: Duration, seed: u64) -> Step {
    println!("== chaos");
    chaos::run(length, seed).map_err(|broken| format!("chaos, seed {seed}: {broken}"))
}

fn run_chaos_of_topology(kind: Kind, replicas: usize, length: Duration, seed: u64) -> Step {
    println!("== chaos of a Redis that fails over");
    chaos::run_topology(kind, replicas, length, seed)
        .map_err(|broken| format!("chaos, {kind:?}, seed {seed}: {broken}"))
}

/// With `is_control`, it succeeds if the verdict sees the doubled rows.
fn run_chaos_of_ledger(length: Duration, seed: u64, is_control: bool) -> Step {
    println!("== chaos of the ledger");
    let run = if is_control { chaos::ledger::control } else { chaos::ledger::run };
    run(length, seed).map_err(|broken| format!("chaos of the ledger, seed {seed}: {broken}"))
}
