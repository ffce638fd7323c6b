//! The scripts: one for each call, each behind the same prelude.

use std::sync::LazyLock;

use bb8_redis::redis::Script;

/// The layout of records that this release writes.
const FORMAT: &str = "2";

pub(super) struct Scripts {
    pub(super) begin: Script,
    pub(super) renew: Script,
    pub(super) restore: Script,
    pub(super) save_step: Script,
    pub(super) complete: Script,
    pub(super) acknowledge: Script,
    pub(super) release: Script,
    pub(super) inspect: Script,
    pub(super) steps: Script,
    pub(super) forget: Script,
}

impl Scripts {
    /// The scripts of this release.
    pub(super) fn current() -> &'static Self {
        static CURRENT: LazyLock<Scripts> = LazyLock::new(|| Scripts::new(FORMAT, ""));
        &CURRENT
    }

    /// Scripts that write one layout and read another one too.
    pub(super) fn new(writes: &str, reads: &str) -> Self {
        let prelude = include_str!("scripts/prelude.lua").replace("@WRITES@", writes).replace("@READS@", reads);
        let script = |text: &str| Script::new(&format!("{prelude}{text}"));
        Self {
            begin: script(include_str!("scripts/begin.lua")),
            renew: script(include_str!("scripts/renew.lua")),
            restore: script(include_str!("scripts/restore.lua")),
            save_step: script(include_str!("scripts/save_step.lua")),
            complete: script(include_str!("scripts/complete.lua")),
            acknowledge: script(include_str!("scripts/acknowledge.lua")),
            release: script(include_str!("scripts/release.lua")),
            inspect: script(include_str!("scripts/inspect.lua")),
            steps: script(include_str!("scripts/steps.lua")),
            forget: script(include_str!("scripts/forget.lua")),
        }
    }
}
