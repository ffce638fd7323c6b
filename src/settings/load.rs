//! Loads [`Settings`] from layers.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use config::{Config, Environment, File, FileFormat, Source as _, Value, ValueKind};

use super::{
    ConfigError, Profile, Settings,
    table::{self, Setting},
    value::Given,
};

const PREFIX: &str = "IDEMPOTENCY_KEY";
const FILE_VARIABLE: &str = "IDEMPOTENCY_KEY_FILE";
const DEFAULT_FILE: &str = "idempotency.toml";

/// Loads [`Settings`] from layers: profile, file, environment.
///
/// ```
/// use actix_idempotency::Settings;
///
/// let settings = Settings::loader()
///     .environment([("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0.5"), ("IDEMPOTENCY_KEY__PROFILE", "ietf")])
///     .load()?;
/// assert_eq!(settings.lock.timeout.as_millis(), 500);
///
/// let error = Settings::loader().environment([("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "soon")]).load().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "environment variable IDEMPOTENCY_KEY__LOCK__TIMEOUT: setting `lock.timeout` can't be `soon`; \
///      accepted: seconds (0.1) or text (500ms, 15m, 24h, 7d)",
/// );
/// # Ok::<(), actix_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is read before `load`"]
pub struct SettingsLoader {
    profile: Option<Profile>,
    file: Option<PathBuf>,
    environment: Option<Vec<(OsString, OsString)>>,
}

/// A setting as a layer gives it.
struct Entry {
    path: String,
    layer: String,
    value: Value,
}

impl SettingsLoader {
    /// The layers that [`Settings::load`] reads.
    pub fn new() -> Self {
        Self::default()
    }

    /// The profile, unless a layer names one.
    pub const fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// A file that must exist, in place of `idempotency.toml`. `IDEMPOTENCY_KEY_FILE` still wins.
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Sets the variables to read, in place of the environment of the process.
    pub fn environment<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment = Some(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect());
        self
    }

    /// Reads the layers.
    ///
    /// # Errors
    /// [`ConfigError`] for an unreadable file, an unknown name, or a value that a setting does not take.
    pub fn load(self) -> Result<Settings, ConfigError> {
        let variables = self.variables()?;
        let entries = self.entries(&variables)?;
        let profile = match entries.iter().find(|entry| entry.path == "profile") {
            Some(entry) => entry.profile()?,
            None => self.profile.unwrap_or_default(),
        };
        let mut settings = Settings::of(profile);
        // Caches start from what `storage` became in all layers.
        let (caches, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.path.starts_with("caches."));
        for entry in others {
            match entry.path.strip_prefix("storage.") {
                Some(name) => entry.apply(name, table::STORAGE, &mut settings.storage)?,
                None => entry.apply(&entry.path, table::ROOT, &mut settings)?,
            }
        }
        for entry in caches {
            let rest = &entry.path["caches.".len()..];
            let empty = matches!(&entry.value.kind, ValueKind::Table(table) if table.is_empty());
            // An empty table declares a cache that overrides nothing.
            let (name, setting) = match rest.split_once('.') {
                Some((name, setting)) => (name, Some(setting)),
                None if empty => (rest, None),
                None => return Err(entry.unknown()),
            };
            if name.is_empty()
                || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
            {
                return Err(entry.invalid(name, "a cache name of lower case letters, digits, _ and -"));
            }
            let inherited = &settings.storage;
            let cache = settings.caches.entry(name.to_owned()).or_insert_with(|| inherited.clone());
            match setting {
                Some("cache_name") => return Err(entry.unknown()),
                Some(setting) => entry.apply(setting, table::STORAGE, cache)?,
                None => {}
            }
        }
        settings.check().map_err(|error| in_its_layer(error, &entries))?;
        Ok(settings)
    }

    /// The variables with our prefix, as text.
    fn variables(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let all = self.environment.clone().unwrap_or_else(|| std::env::vars_os().collect());
        let mut ours = BTreeMap::new();
        for (name, value) in all {
            let Ok(name) = name.into_string() else { continue };
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if !rest.starts_with('_') {
                continue;
            }
            if !rest.starts_with("__") && name != FILE_VARIABLE {
                let hint = format!("; variables are named {PREFIX}__SETTING or {PREFIX}__SECTION__SETTING");
                return Err(ConfigError::UnknownSetting { name, layer: "environment".into(), hint });
            }
            let value = value.into_string().map_err(|value| ConfigError::Layer {
                layer: format!("environment variable {name}"),
                why: format!("`{}` is not UTF-8", value.display()),
            })?;
            ours.insert(name, value);
        }
        Ok(ours)
    }

    fn entries(&self, variables: &BTreeMap<String, String>) -> Result<Vec<Entry>, ConfigError> {
        let mut builder = Config::builder();
        let mut file = None;
        if let Some((path, required)) = self.file_to_read(variables)? {
            builder = builder.add_source(File::from(path.as_path()).format(FileFormat::Toml).required(required));
            file = Some(path);
        }
        let environment = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__");
        let variables = variables.iter().filter(|(name, _)| *name != FILE_VARIABLE);
        let variables = variables.map(|(name, value)| (name.clone(), value.clone())).collect();
        builder = builder.add_source(environment.source(Some(variables)));

        let file = file.map_or_else(|| "settings".to_owned(), |path| format!("file {}", path.display()));
        let unreadable =
            |error: config::ConfigError| ConfigError::Layer { layer: file.clone(), why: error.to_string() };
        let tree = builder.build().map_err(unreadable)?.collect().map_err(unreadable)?;
        let mut entries = Vec::new();
        let mut tables: Vec<(String, Value)> = tree.into_iter().collect();
        while let Some((path, value)) = tables.pop() {
            match value.kind {
                ValueKind::Table(table) if !table.is_empty() => {
                    tables.extend(table.into_iter().map(|(name, value)| (format!("{path}.{name}"), value)));
                }
                _ => {
                    let layer = match value.origin() {
                        Some("the environment") => {
                            format!("environment variable {PREFIX}__{}", path.to_uppercase().replace('.', "__"))
                        }
                        _ => file.clone(),
                    };
                    entries.push(Entry { path, layer, value });
                }
            }
        }
        // In a stable order, so that of several mistakes the same one is named each time.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    fn file_to_read(&self, variables: &BTreeMap<String, String>) -> Result<Option<(PathBuf, bool)>, ConfigError> {
        let named = variables.get(FILE_VARIABLE).map(PathBuf::from).or_else(|| self.file.clone());
        match named {
            Some(path) if path.exists() => Ok(Some((path, true))),
            Some(path) => Err(ConfigError::MissingFile(path)),
            None => {
                let default = Path::new(DEFAULT_FILE);
                Ok(default.exists().then(|| (default.to_owned(), false)))
            }
        }
    }
}

/// Names the layer that gave the value which does not make sense.
fn in_its_layer(error: ConfigError, entries: &[Entry]) -> ConfigError {
    match error {
        ConfigError::InvalidValue { setting, layer, value, accepted } => {
            // A cache's setting may be that of `storage`.
            let inherited = setting.strip_prefix("caches.").and_then(|rest| rest.split_once('.'));
            let inherited = inherited.map(|(_, name)| format!("storage.{name}"));
            let said = |path: &str| entries.iter().find(|entry| entry.path == path);
            let entry = said(&setting).or_else(|| said(&inherited?));
            let layer = entry.map_or(layer, |entry| entry.layer.clone());
            ConfigError::InvalidValue { setting, layer, value, accepted }
        }
        error => error,
    }
}

impl Entry {
    fn apply<T>(&self, name: &str, table: &[Setting<T>], to: &mut T) -> Result<(), ConfigError> {
        let setting = table.iter().find(|setting| setting.name == name).ok_or_else(|| self.unknown())?;
        let given = Given::of(&self.value.kind);
        given.as_ref().and_then(|given| (setting.set)(to, given)).ok_or_else(|| {
            self.invalid(&given.map_or_else(|| "a table".into(), |given| given.to_string()), setting.accepted)
        })
    }

    fn profile(&self) -> Result<Profile, ConfigError> {
        let given = Given::of(&self.value.kind);
        let text = given.as_ref().and_then(Given::one).unwrap_or_default();
        table::profile(text).ok_or_else(|| self.invalid(text, table::PROFILES))
    }

    fn invalid(&self, value: &str, accepted: &str) -> ConfigError {
        ConfigError::InvalidValue {
            setting: self.path.clone(),
            layer: self.layer.clone(),
            value: value.to_owned(),
            accepted: accepted.to_owned(),
        }
    }

    fn unknown(&self) -> ConfigError {
        let storage = table::STORAGE.iter().map(|setting| format!("storage.{}", setting.name));
        let all: Vec<String> = table::ROOT.iter().map(|setting| setting.name.to_owned()).chain(storage).collect();
        let section = self.path.split('.').next().unwrap_or_default();
        let section = if section == "caches" { "storage" } else { section };
        let near: Vec<&str> =
            all.iter().map(String::as_str).filter(|name| name.split('.').next() == Some(section)).collect();
        let near = if near.is_empty() { all.iter().map(String::as_str).collect() } else { near };
        ConfigError::UnknownSetting {
            name: self.path.clone(),
            layer: self.layer.clone(),
            hint: format!("; there are {}", near.join(", ")),
        }
    }
}
