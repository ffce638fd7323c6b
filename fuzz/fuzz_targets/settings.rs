//! Settings: no environment variables make the loader panic, and all settings that it accepts pass the check of
//! settings.
#![no_main]

use actix_idempotency::Settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (format!("IDEMPOTENCY_KEY__{name}"), value.to_owned()));
    if let Ok(settings) = Settings::loader().environment(variables).load() {
        settings.check().expect("loaded settings are sound");
    }
});
