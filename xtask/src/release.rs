//! The checks before a release, besides `cargo xtask test`. A step that can't run on this machine prints `NOT CHECKED`
//! and why.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    command::{Step, cargo, run, succeeds},
    public_api,
    rustdoc::rustdoc,
};

type Check = fn() -> Step;

/// The steps in their order, the quick ones first.
const STEPS: [(&str, Check); 8] = [
    ("api", public_api::check),
    ("docs", docs),
    ("deny", deny),
    ("semver", semver),
    ("features", features),
    ("oldest", oldest_rust),
    ("package", package),
    ("minimal", minimal_versions),
];

pub(crate) fn release(arguments: &[&str]) -> Step {
    if arguments == ["--bless"] {
        return public_api::bless();
    }
    let names = STEPS.map(|(name, _)| name);
    if let Some(unknown) = arguments.iter().find(|argument| !names.contains(argument)) {
        return Err(format!("release: unknown step `{unknown}`; the steps are {}", names.join(", ")));
    }
    for (name, step) in STEPS {
        if arguments.is_empty() || arguments.contains(&name) {
            step()?;
        }
    }
    Ok(())
}

/// Builds the documentation as docs.rs does, with labels that say which feature an item needs.
fn docs() -> Step {
    rustdoc("documentation as on docs.rs", &["--cfg", "docsrs", "-D", "warnings"])
}

fn not_checked(what: &str, why: &str) {
    println!("== {what}: NOT CHECKED: {why}");
}

/// The standard output of a program. `None` if it can't be started or fails.
fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// The entry of this library in `cargo metadata`.
fn manifest() -> Result<Value, String> {
    let metadata = output_of(Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version", "1"]));
    let metadata: Value = serde_json::from_str(&metadata.ok_or("cargo metadata failed")?).map_err(|e| e.to_string())?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let ours = packages.find(|package| package["name"] == "actix-idempotency");
    ours.cloned().ok_or("cargo metadata does not know this crate".into())
}

/// Checks that the library builds with each feature alone and with each pair of features.
fn features() -> Step {
    let manifest = manifest()?;
    let all: Vec<&str> =
        manifest["features"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    for (n, one) in all.iter().enumerate() {
        for other in &all[n..] {
            let these = if one == other { (*one).to_owned() } else { format!("{one},{other}") };
            cargo(&format!("features {these}"), &["check", "--lib", "--no-default-features", "--features", &these])?;
        }
    }
    Ok(())
}

/// Builds with the oldest supported compiler. Clippy's `incompatible_msrv` finds newer parts of the standard library
/// only.
fn oldest_rust() -> Step {
    let manifest = manifest()?;
    let what = "oldest Rust";
    let version = manifest["rust_version"].as_str().ok_or("no rust-version")?;
    let toolchains = output_of(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let toolchain = toolchains.split_whitespace().find(|name| name.starts_with(version));
    if let Some(toolchain) = toolchain {
        let arguments = ["run", toolchain, "cargo", "check", "--all-features", "--target-dir", "target/oldest"];
        return run(what, Command::new("rustup").args(arguments));
    }
    not_checked(what, &format!("install it with `rustup toolchain install {version}`"));
    Ok(())
}

fn deny() -> Step {
    let what = "licences, bans and sources";
    let there = || succeeds(Command::new(env!("CARGO")).args(["deny", "--version"]));
    if !there() {
        println!("== installing cargo-deny, which takes some minutes");
        if !succeeds(Command::new(env!("CARGO")).args(["install", "cargo-deny", "--locked"])) || !there() {
            not_checked(what, "`cargo install cargo-deny --locked` failed");
            return Ok(());
        }
    }
    // Advisories need a database from the network. A workflow checks them: `cargo deny check advisories`.
    cargo(what, &["deny", "--all-features", "check", "bans", "licenses", "sources"])
}

/// Compares the public API with that of the last release.
fn semver() -> Step {
    let what = "semantic versioning";
    let Some(tag) = output_of(Command::new("git").args(["describe", "--tags", "--abbrev=0", "--match", "v*"])) else {
        println!("== {what}: nothing was released yet (no tag v…)");
        return Ok(());
    };
    if !succeeds(Command::new(env!("CARGO")).args(["semver-checks", "--version"])) {
        not_checked(what, "install it with `cargo install cargo-semver-checks --locked`");
        return Ok(());
    }
    cargo(what, &["semver-checks", "--baseline-rev", tag.trim(), "--all-features"])
}

/// Builds the package that `cargo publish` would upload.
fn package() -> Step {
    let list = output_of(Command::new(env!("CARGO")).args(["package", "--list", "--allow-dirty"]))
        .ok_or("cargo package failed")?;
    let pages = fs::read_dir("docs").map_err(|error| format!("docs: {error}"))?;
    let pages = pages.filter_map(|page| Some(format!("docs/{}", page.ok()?.file_name().to_str()?)));
    let others = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"].map(str::to_owned);
    for page in pages.chain(others) {
        if !list.lines().any(|line| line == page) {
            return Err(format!("{page} is not in the package, and README.md names it"));
        }
    }
    cargo("package", &["package", "--allow-dirty", "--all-features"])
}

/// Builds with the oldest versions of dependencies that `Cargo.toml` allows. In a copy of the project, so that
/// `Cargo.lock` stays as it is.
fn minimal_versions() -> Step {
    let files = output_of(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))
        .ok_or("git ls-files failed")?;
    let copy = env::temp_dir().join(format!("minimal-{}", std::process::id()));
    let failed = |error: std::io::Error| format!("a copy in {}: {error}", copy.display());
    for file in files.lines().filter(|file| Path::new(file).exists()) {
        let to = copy.join(file);
        fs::create_dir_all(to.parent().unwrap_or(&copy)).map_err(failed)?;
        fs::copy(file, to).map_err(failed)?;
    }
    let target = env::current_dir().map_err(failed)?.join("target/minimal");
    let mut update = Command::new(env!("CARGO"));
    update.args(["update", "--quiet", "-Z", "direct-minimal-versions"]).env("RUSTC_BOOTSTRAP", "1");
    let mut check = Command::new(env!("CARGO"));
    check.args(["check", "--all-features", "--target-dir"]).arg(target);
    let done = run("choice of minimal versions", update.current_dir(&copy))
        .and_then(|()| run("build with minimal versions", check.current_dir(&copy)));
    let _ = fs::remove_dir_all(&copy);
    done
}
