//! The cost of building an application: the number of crates, and the time of a cold build.

use std::{collections::BTreeSet, env, process::Command, time::Instant};

use crate::table::{Table, Target::AtMost};

/// Counts the crates of the default build.
pub(crate) fn crates(table: &Table) {
    let tree = cargo().args(["tree", "--edges", "normal,build", "--prefix", "none"]).output().expect("cargo tree");
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    let name_and_version = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let crates: BTreeSet<String> = tree.lines().map(name_and_version).filter(|name| !name.is_empty()).collect();
    // This crate is in the tree, too, and is not counted.
    table.row("crates of the default build", ["", ""], crates.len() as f64 - 1.0, "crates", &AtMost(115.0));
}

/// Builds everything in an empty target directory.
pub(crate) fn cold_build(table: &Table) {
    let folder = env::temp_dir().join(format!("cold-build-{}", std::process::id()));
    let start = Instant::now();
    let built = cargo().args(["build", "--quiet", "--lib", "--jobs", "2", "--target-dir"]).arg(&folder).status();
    let seconds = start.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(folder);
    assert!(built.is_ok_and(|status| status.success()), "the crate builds");
    table.row("cold debug build with 2 jobs", ["", ""], seconds, "s", &AtMost(60.0));
}

fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}
