//! Loads [`Settings`] from layers.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use config::{File, FileFormat, Source as _, Value, ValueKind};

use super::{
    ConfigError, Profile, Settings,
    check::{CACHE_NAME, is_cache_name},
    table::{self, Setting},
    value::Given,
};
use crate::store::Location;

const PREFIX: &str = "IDEMPOTENCY_KEY";
const FILE_VARIABLE: &str = "IDEMPOTENCY_KEY_FILE";
const DEFAULT_FILE: &str = "idempotency.toml";
const SECTIONS: [&str; 7] = ["fingerprint", "storage", "lock", "operations", "limits", "encryption", "caches"];

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

/// Entries by the path of their setting, so that several mistakes are always named in the same order.
type Entries = BTreeMap<String, Entry>;

/// A setting as a layer gives it.
struct Entry {
    path: String,
    layer: String,
    /// `None`: an empty table.
    given: Option<Given>,
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
    /// [`ConfigError`] for a file that can't be read, a name that is unknown or said twice, or a value that a setting does
    /// not take.
    pub fn load(self) -> Result<Settings, ConfigError> {
        let variables = self.variables()?;
        let mut entries = self.of_file(&variables)?;
        entries.extend(of_environment(&variables)?);
        let profile = match entries.get("profile") {
            Some(entry) => entry.profile()?,
            None => self.profile.unwrap_or_default(),
        };
        let mut settings = Settings::of(profile);
        for entry in entries.values() {
            if let Some(name) = entry.path.strip_prefix("caches.") {
                entry.apply_to_cache(name, &mut settings)?;
            } else if let Some(name) = entry.path.strip_prefix("storage.") {
                entry.apply(table::STORAGE, name, &mut settings.storage)?;
            } else if entry.given.is_some() || !SECTIONS.contains(&entry.path.as_str()) {
                entry.apply(table::ROOT, &entry.path, &mut settings)?;
            }
        }
        // Which caches there are is known when an `Idempotency` is built: code can declare more.
        settings.check_values().map_err(|error| in_its_layer(error, &entries))?;
        Ok(settings)
    }

    /// The variables with our prefix, as text.
    fn variables(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let all = self.environment.clone().unwrap_or_else(|| std::env::vars_os().collect());
        let mut ours = Vec::new();
        for (name, value) in all {
            let lossy = name.to_string_lossy();
            let rest = lossy.get(PREFIX.len()..).filter(|_| lossy[..PREFIX.len()].eq_ignore_ascii_case(PREFIX));
            let Some(rest) = rest.filter(|rest| rest.starts_with('_')) else { continue };
            if !rest.starts_with("__") && !lossy.eq_ignore_ascii_case(FILE_VARIABLE) {
                let hint = format!("; variables are named {PREFIX}__SETTING or {PREFIX}__SECTION__SETTING");
                let name = lossy.into_owned();
                return Err(ConfigError::UnknownSetting { name, layer: "environment".into(), hint });
            }
            let layer = format!("environment variable {lossy}");
            let not_utf8 = |text: &OsString| ConfigError::Layer {
                layer: layer.clone(),
                why: format!("`{}` is not UTF-8", text.display()),
            };
            let name = name.into_string().map_err(|name| not_utf8(&name))?;
            ours.push((name, value.into_string().map_err(|value| not_utf8(&value))?));
        }
        Ok(ours)
    }

    /// The entries of the settings file, if there is one.
    fn of_file(&self, variables: &[(String, String)]) -> Result<Entries, ConfigError> {
        let mut named = variables.iter().filter(|(name, _)| name.eq_ignore_ascii_case(FILE_VARIABLE));
        let (named, again) = (named.next(), named.next());
        if let Some((name, _)) = again {
            return Err(said_twice(FILE_VARIABLE, &format!("environment variable {name}")));
        }
        let named = named.map(|(_, path)| PathBuf::from(path)).or_else(|| self.file.clone());
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let layer = format!("file {}", path.display());
        let unreadable = |why: String| ConfigError::Layer { layer: layer.clone(), why };
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_there(&path) => {
                return if named.is_some() { Err(ConfigError::MissingFile(path)) } else { Ok(Entries::new()) };
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let tree = File::from_str(&text, FileFormat::Toml).collect();
        let tree = tree.map_err(|error| unreadable(without_excerpt(&error.to_string())))?;
        let mut entries = Entries::new();
        let mut open: Vec<(String, Value)> = tree.into_iter().collect();
        while let Some((path, value)) = open.pop() {
            let given = match value.kind {
                ValueKind::Table(table) if !table.is_empty() => {
                    open.extend(table.into_iter().map(|(name, value)| (format!("{path}.{name}"), value)));
                    continue;
                }
                ValueKind::Table(_) => None,
                kind => Some(Given::of(&kind).ok_or_else(|| ConfigError::InvalidValue {
                    setting: path.clone(),
                    layer: layer.clone(),
                    value: "a list of lists or tables".into(),
                    accepted: "a text, a number, or a list of them".into(),
                })?),
            };
            add(&mut entries, Entry { path: normal(&path), layer: layer.clone(), given })?;
        }
        Ok(entries)
    }
}

/// The text of a syntax error without the lines that it quotes: they may have a password in them.
fn without_excerpt(error: &str) -> String {
    let is_excerpt = |line: &str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    error.lines().map(str::trim_end).filter(|line| !line.is_empty() && !is_excerpt(line)).collect::<Vec<_>>().join(": ")
}

/// Whether the path exists, be it as a link that leads nowhere.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The entries of the variables. Each is an entry by itself.
fn of_environment(variables: &[(String, String)]) -> Result<Entries, ConfigError> {
    let mut entries = Entries::new();
    for (name, value) in variables {
        // Not the variable with the name of the file.
        let Some(path) = name[PREFIX.len()..].strip_prefix("__") else { continue };
        let path = path.to_ascii_lowercase().replace("__", ".");
        let layer = format!("environment variable {name}");
        add(&mut entries, Entry { path, layer, given: Some(Given::One(value.clone())) })?;
    }
    Ok(entries)
}

/// Names of caches have no case; other names in a file are as the table has them.
fn normal(path: &str) -> String {
    match path.strip_prefix("caches.").map(|rest| rest.split_once('.').unwrap_or((rest, ""))) {
        Some((cache, "")) => format!("caches.{}", cache.to_ascii_lowercase()),
        Some((cache, name)) => format!("caches.{}.{name}", cache.to_ascii_lowercase()),
        None => path.to_owned(),
    }
}

/// Adds an entry, unless its layer says the setting a second time.
fn add(entries: &mut Entries, entry: Entry) -> Result<(), ConfigError> {
    if entries.contains_key(&entry.path) {
        return Err(said_twice(&entry.path, &entry.layer));
    }
    entries.insert(entry.path.clone(), entry);
    Ok(())
}

fn said_twice(setting: &str, layer: &str) -> ConfigError {
    ConfigError::Layer {
        layer: layer.to_owned(),
        why: format!("`{setting}` is set twice; upper and lower case are alike"),
    }
}

/// Names the layer that gave the value which does not make sense.
fn in_its_layer(error: ConfigError, entries: &Entries) -> ConfigError {
    match error {
        ConfigError::InvalidValue { setting, layer, value, accepted } => {
            // A cache's setting may be that of `storage`.
            let inherited = setting.strip_prefix("caches.").and_then(|rest| rest.split_once('.'));
            let inherited = inherited.map(|(_, name)| format!("storage.{name}"));
            let entry = entries.get(&setting).or_else(|| entries.get(&inherited?));
            let layer = entry.map_or(layer, |entry| entry.layer.clone());
            ConfigError::InvalidValue { setting, layer, value, accepted }
        }
        error => error,
    }
}

impl Entry {
    fn apply<T>(&self, table: &[Setting<T>], name: &str, to: &mut T) -> Result<(), ConfigError> {
        let setting = self.setting(table, name)?;
        let given = self.given.as_ref();
        given.and_then(|given| (setting.set)(to, given)).ok_or_else(|| {
            let value = given.map_or_else(|| "a table".to_owned(), ToString::to_string);
            self.invalid(&value, setting.accepted)
        })
    }

    /// Declares a cache, or overrides one of its settings. `name`: `CACHE` or `CACHE.SETTING`.
    fn apply_to_cache(&self, name: &str, settings: &mut Settings) -> Result<(), ConfigError> {
        let (cache, setting) = match (name.split_once('.'), &self.given) {
            (Some((cache, setting)), _) => (cache, Some(setting)),
            // An empty table declares a cache that overrides nothing.
            (None, None) => (name, None),
            (None, Some(_)) => return Err(self.unknown()),
        };
        if !is_cache_name(cache) {
            return Err(self.invalid(cache, CACHE_NAME));
        }
        let overrides = settings.caches.entry(cache.to_owned()).or_default();
        if let Some(setting) = setting {
            if setting == "cache_name" {
                return Err(self.unknown());
            }
            self.apply(table::STORAGE, setting, &mut settings.storage.clone())?;
            let (set, given) = (self.setting(table::STORAGE, setting)?.set, self.given.clone());
            *overrides = std::mem::take(overrides).with(move |storage| {
                // The value was accepted above.
                let _ = given.as_ref().and_then(|given| set(storage, given));
            });
        }
        Ok(())
    }

    fn setting<'a, T>(&self, table: &'a [Setting<T>], name: &str) -> Result<&'a Setting<T>, ConfigError> {
        table.iter().find(|setting| setting.name == name).ok_or_else(|| self.unknown())
    }

    fn profile(&self) -> Result<Profile, ConfigError> {
        let text = self.given.as_ref().and_then(Given::one).unwrap_or_default();
        table::profile(text).ok_or_else(|| self.invalid(text, table::PROFILES))
    }

    fn invalid(&self, value: &str, accepted: &str) -> ConfigError {
        let setting = self.path.clone();
        let value = match &*setting {
            // A key by mistake, where the place of one belongs.
            "encryption.keys" | "encryption.index_key" => "(not shown, since it may be a key)".to_owned(),
            location if location.ends_with("location") => Location::from(value).to_string(),
            _ => value.to_owned(),
        };
        ConfigError::InvalidValue { setting, layer: self.layer.clone(), value, accepted: accepted.to_owned() }
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
