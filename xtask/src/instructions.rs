//! Compares the instructions that the middleware adds per operation with their budget in `benches/budget.toml`.
//! Callgrind of valgrind counts them. Unlike time, a count of instructions hardly depends on the load of the machine.

use std::{collections::BTreeSet, env, fs, process::Command};

use crate::command::{Step, succeed};

const BUDGET: &str = "benches/budget.toml";
/// The same number as in `benches/instructions/main.rs`.
const OPERATIONS: i64 = 2000;
const REQUESTS: [&str; 7] = [
    "safe method",
    "App exempt",
    "replay",
    "first run",
    "inner instances: exempt",
    "inner instances: replay",
    "inner instances: first run",
];
const STORE: [&str; 2] = ["store: begin of a completed record", "store: begin + complete"];

/// Measures, and compares with the budget or, with `bless`, writes the budget.
pub(crate) fn run(bless: bool) -> Step {
    println!("== instructions");
    let build = ["build", "--release", "--package", "instructions"];
    succeed("the instructions benchmark", Command::new(env!("CARGO")).args(build))?;
    let mut measured = Vec::new();
    for name in REQUESTS {
        measured.push((name, counted("with", name)? - counted("bare", name)?));
    }
    for name in STORE {
        measured.push((name, counted("with", name)?));
    }
    if bless { write(&measured) } else { check(&measured) }
}

/// Instructions of one operation, without those of SHA-256.
fn counted(side: &str, name: &str) -> Result<i64, String> {
    let out = env::temp_dir().join(format!("callgrind-{}", std::process::id()));
    // `cargo run` finds the program in the target directory, and starts it under callgrind.
    let mut command = Command::new(env!("CARGO"));
    let runner = "target.'cfg(all())'.runner=['valgrind', '--quiet', '--tool=callgrind', \
                  '--toggle-collect=instructions::measured_*', '--callgrind-out-file=";
    command.args(["run", "--release", "--quiet", "--package", "instructions", "--config"]);
    command.arg(format!("{runner}{}']", out.display())).args(["--", side, name]);
    succeed(name, &mut command)?;
    let profile = fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let _ = fs::remove_file(&out);
    let sum = sum(&profile);
    if sum == 0 { Err(format!("{name}: nothing was counted")) } else { Ok(sum / OPERATIONS) }
}

/// Sums the instructions of a profile in callgrind's format, without those of SHA-256.
///
/// `fn=(1) name`, later only `fn=(1)`, begins the lines of a function. Each of them has a position and a cost. The line
/// after `calls=` repeats the cost of a called function. It is skipped, because that function has lines of its own.
fn sum(profile: &str) -> i64 {
    let mut hashing = BTreeSet::new();
    let (mut counts, mut of_call, mut sum) = (true, false, 0);
    for line in profile.lines() {
        if let Some((kind, function)) = line.split_once('=') {
            if !matches!(kind, "fn" | "cfn") {
                of_call = kind == "calls";
                continue;
            }
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if name.contains("sha2::sha256") {
                hashing.insert(id);
            }
            counts = if kind == "fn" { !hashing.contains(id) } else { counts };
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            if counts && !of_call {
                sum += line.split(' ').nth(1).and_then(|cost| cost.parse::<i64>().ok()).unwrap_or(0);
            }
            of_call = false;
        }
    }
    sum
}

fn check(measured: &[(&str, i64)]) -> Step {
    let budget = read()?;
    let slack = number(&budget, "slack_percent")?;
    let instructions = budget.get("instructions").and_then(toml::Value::as_table).ok_or("no [instructions]")?;
    println!("{:38} {:>9} {:>9}", "instructions beyond bare actix", "measured", "budget");
    let mut broken = Vec::new();
    for (name, now) in measured {
        let most = number(instructions, name)?;
        let over = now * 100 > most * (100 + slack);
        println!("{name:38} {now:>9} {most:>9} {}", if over { "OVER BUDGET" } else { "" });
        if over {
            broken.push(*name);
        }
    }
    let (written, here) = (budget.get("rustc").and_then(toml::Value::as_str).unwrap_or(""), compiler()?);
    if broken.is_empty() {
        return Ok(());
    }
    let more = format!("more instructions than {BUDGET} allows: {}", broken.join(", "));
    if written == here {
        return Err(format!("{more}. Lower them, or raise the budget: `cargo xtask bench --instructions --bless`"));
    }
    println!("{more}. Only a warning: the budget was measured with rustc {written}, and this is rustc {here}");
    Ok(())
}

fn write(measured: &[(&str, i64)]) -> Step {
    let old = fs::read_to_string(BUDGET).map_err(|error| format!("{BUDGET}: {error}"))?;
    // `[instructions]` is the last section of the file.
    let (head, _) = old.split_once("[instructions]\n").ok_or_else(|| format!("{BUDGET}: no [instructions]"))?;
    let rustc = format!("rustc = \"{}\"", compiler()?);
    let head: Vec<&str> = head.lines().map(|line| if line.starts_with("rustc = ") { &rustc } else { line }).collect();
    let lines: Vec<String> = measured.iter().map(|(name, now)| format!("\"{name}\" = {now}\n")).collect();
    let lines = lines.concat();
    fs::write(BUDGET, format!("{}\n[instructions]\n{lines}", head.join("\n")))
        .map_err(|error| format!("{BUDGET}: {error}"))?;
    println!("{lines}");
    Ok(())
}

fn read() -> Result<toml::Table, String> {
    let text = fs::read_to_string(BUDGET).map_err(|error| format!("{BUDGET}: {error}"))?;
    text.parse().map_err(|error| format!("{BUDGET}: {error}"))
}

fn number(table: &toml::Table, name: &str) -> Result<i64, String> {
    table.get(name).and_then(toml::Value::as_integer).ok_or_else(|| format!("{BUDGET}: no number `{name}`"))
}

/// The version of rustc.
fn compiler() -> Result<String, String> {
    let output = Command::new("rustc").arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split(' ').nth(1).unwrap_or_default().to_owned())
}
