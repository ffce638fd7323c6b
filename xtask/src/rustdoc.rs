//! Runs rustdoc with unstable options, on any toolchain.
//!
//! `RUSTC_BOOTSTRAP=1` allows these options. If cargo itself had this variable, build scripts would run again and half
//! of the dependencies would be rebuilt, now and at the next build without it. So cargo runs this program as its
//! rustdoc, and this program sets the variable for the real rustdoc.

use std::{
    env,
    process::{Command, ExitCode},
};

use crate::command::{Step, run};

/// The environment variable with which this program acts as rustdoc.
const STANDS_IN: &str = "XTASK_STANDS_IN_FOR_RUSTDOC";

/// Documents the library with every feature. `options` go to rustdoc.
pub(crate) fn rustdoc(what: &str, options: &[&str]) -> Step {
    let this = env::current_exe().map_err(|error| format!("{what}: {error}"))?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["rustdoc", "--lib", "--all-features", "--"]).args(options);
    run(what, command.env("RUSTDOC", this).env(STANDS_IN, "1"))
}

/// Runs the real rustdoc if cargo has called this program as its rustdoc. `None` if a person has called it.
pub(crate) fn stand_in() -> Option<ExitCode> {
    env::var_os(STANDS_IN)?;
    let mut real = Command::new("rustdoc");
    real.args(env::args_os().skip(1)).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTDOC").env_remove(STANDS_IN);
    Some(if real.status().is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
