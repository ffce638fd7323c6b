//! rustdoc with its unstable options, on any toolchain.
//!
//! `RUSTC_BOOTSTRAP=1` allows them. If all of cargo saw it, build scripts of dependencies would run again and half of the
//! tree be built anew, twice. So cargo is told that this program is rustdoc, and it sets the variable for the real one.

use std::{
    env,
    process::{Command, ExitCode},
};

use crate::command::{Step, run};

/// Set when this program stands in for rustdoc.
const STANDS_IN: &str = "XTASK_STANDS_IN_FOR_RUSTDOC";

/// The library's documentation with every feature, in the shape that `options` ask for.
pub(crate) fn rustdoc(what: &str, options: &[&str]) -> Step {
    let this = env::current_exe().map_err(|error| format!("{what}: {error}"))?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["rustdoc", "--lib", "--all-features", "--"]).args(options);
    run(what, command.env("RUSTDOC", this).env(STANDS_IN, "1"))
}

/// What cargo gets when it calls this program as its rustdoc; `None` when a person calls it.
pub(crate) fn stand_in() -> Option<ExitCode> {
    env::var_os(STANDS_IN)?;
    let mut real = Command::new("rustdoc");
    real.args(env::args_os().skip(1)).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTDOC").env_remove(STANDS_IN);
    Some(if real.status().is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
