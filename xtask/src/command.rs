//! Runs other programs one after the other. A [`Step`] that fails ends the run.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

pub(crate) type Step = Result<(), String>;

pub(crate) fn cargo(what: &str, arguments: &[&str]) -> Step {
    run(what, Command::new(env!("CARGO")).args(arguments))
}

pub(crate) fn with_variable(what: &str, arguments: &[&str], (name, value): (&str, &str)) -> Step {
    run(what, Command::new(env!("CARGO")).args(arguments).env(name, value))
}

pub(crate) fn run(what: &str, command: &mut Command) -> Step {
    println!("== {what}");
    let start = Instant::now();
    succeed(what, command)?;
    println!("== {what}: {} s", start.elapsed().as_secs());
    Ok(())
}

pub(crate) fn succeed(what: &str, command: &mut Command) -> Step {
    let status = command.status().map_err(|error| format!("{what}: {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed: {command:?}")) }
}

pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
