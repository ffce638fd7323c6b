//! Settings: neither a file nor environment variables make the loader panic, and all settings that it accepts pass the
//! check of settings. Only a cache may be missing, because code can still declare it.
#![no_main]

use actix_idempotency::{ConfigError, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Variables, and after a line of three dashes a file.
    let (variables, file) = text.split_once("\n---\n").map_or((text, None), |(text, file)| (text, Some(file)));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (format!("IDEMPOTENCY_KEY__{name}"), value.to_owned()));
    let mut loader = Settings::loader().environment(variables);
    let path = std::env::temp_dir().join(format!("fuzz-settings-{}.toml", std::process::id()));
    if let Some(file) = file {
        std::fs::write(&path, file).expect("a file can be written");
        loader = loader.file(&path);
    }
    let checked = loader.load().map(|settings| settings.check());
    if file.is_some() {
        std::fs::remove_file(&path).expect("the file is there");
    }
    match checked {
        Err(_) | Ok(Ok(()) | Err(ConfigError::UnknownCache { .. })) => {}
        Ok(Err(error)) => panic!("loaded settings are sound: {error}"),
    }
});
