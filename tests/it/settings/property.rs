//! Random layers of settings: what is in force is what the layers say, or the error names an entry that is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use actix_idempotency::{
    ConfigError, Settings,
    settings::{Profile, StorageSettings},
};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

use super::oracle::{Known, ROOT, STORAGE};
use crate::common::{Server, fresh_key};

const CACHES: [&str; 3] = ["reports", "b-2", "default"];
const PREFIX: &str = "IDEMPOTENCY_KEY";

/// One setting that a layer has.
#[derive(Clone, Debug)]
struct Said {
    path: String,
    /// The value: as a TOML literal in a file, as text in a variable.
    value: String,
    /// What is in force then. `None`: the value is refused.
    shown: Option<&'static str>,
}

/// A mistake that no later layer hides.
#[derive(Clone, Debug)]
enum Mistake {
    /// A name that no setting has.
    Misspelt(String),
    /// A value that is no value of any setting, in the file.
    Shape(Index, &'static str),
    /// A second variable for an entry, in another case.
    Twice(Index),
    /// A second table for a cache, in another case, that has an entry of the first one.
    TwiceInFile(Index),
    /// A variable that sets a section.
    Section(&'static str),
    /// A variable with one underscore.
    Underscore,
    /// A file that does not exist.
    MissingFile,
}

#[derive(Clone, Debug)]
struct Layers {
    file: Vec<Said>,
    variables: Vec<Said>,
    /// Whether each is made in the file.
    mistakes: Vec<(Mistake, bool)>,
    /// How the sections of the file are written: as tables, as inline tables, or with dots.
    style: usize,
    /// Whether the file has the names of caches in capitals.
    capitals: bool,
    /// Whether the letters of variables are small.
    small: Vec<bool>,
    is_named_by_variable: bool,
}

/// Every path that a layer can say, with the values that it takes and refuses.
fn said(in_file: bool) -> impl Strategy<Value = Said> {
    let known = |path: String, known: (&'static [(&str, &str, &str)], &'static [&str])| {
        let good =
            known.0.iter().map(|(file, variable, shown)| (if in_file { *file } else { *variable }, Some(*shown)));
        let bad = known.1.iter().map(|bad| (*bad, None));
        (path, good.collect::<Vec<_>>(), bad.collect::<Vec<_>>())
    };
    let root = ROOT.iter().map(|setting| known(setting.name.to_owned(), (setting.good, setting.bad)));
    let storage = STORAGE.iter().map(|setting| known(format!("storage.{}", setting.name), (setting.good, setting.bad)));
    let of_caches = CACHES.iter().flat_map(|cache| {
        let all = STORAGE.iter().filter(|setting| setting.name != "cache_name");
        all.map(move |setting| known(format!("caches.{cache}.{}", setting.name), (setting.good, setting.bad)))
    });
    let all: Vec<_> = root.chain(storage).chain(of_caches).collect();
    (any::<Index>(), any::<Index>(), 0..40).prop_map(move |(setting, value, luck)| {
        let (path, good, bad) = setting.get(&all);
        let (value, shown) = if luck == 0 && !bad.is_empty() { *value.get(bad) } else { *value.get(good) };
        let is_quoted = in_file && shown.is_none();
        Said { path: path.clone(), value: if is_quoted { format!("{value:?}") } else { value.to_owned() }, shown }
    })
}

fn mistake() -> impl Strategy<Value = Mistake> {
    let misspelt: &[&str] = &[
        "no_such",
        "headers",
        "lock.timout",
        "limits.max",
        "storage.clas",
        "caches.reports.tttl",
        "caches.reports.cache_name",
        "caches.bad name.ttl",
        "logs.level",
    ];
    let shapes: &[&str] = &["{}", "{ seconds = 1 }", "[[1]]", "[{ a = 1 }]", "1979-05-27T07:32:00Z"];
    prop_oneof![
        4 => select(misspelt).prop_map(|path| Mistake::Misspelt(path.to_owned())),
        2 => (any::<Index>(), select(shapes))
            .prop_map(|(at, value)| Mistake::Shape(at, value)),
        2 => any::<Index>().prop_map(Mistake::Twice),
        1 => any::<Index>().prop_map(Mistake::TwiceInFile),
        1 => select(&["storage", "lock", "limits", "caches", "caches.reports"][..]).prop_map(Mistake::Section),
        1 => Just(Mistake::Underscore),
        1 => Just(Mistake::MissingFile),
    ]
}

fn layers() -> impl Strategy<Value = Layers> {
    let mistakes = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec((mistake(), any::<bool>()), 1..3),
    ];
    let (file, variables) =
        (proptest::collection::vec(said(true), 0..12), proptest::collection::vec(said(false), 0..8));
    let flags = (any::<bool>(), any::<bool>());
    (file, variables, mistakes, 0..3_usize, proptest::collection::vec(any::<bool>(), 7), flags).prop_map(
        |(file, variables, mistakes, style, small, (capitals, is_named_by_variable))| {
            let once = |mut said: Vec<Said>| {
                let mut paths = BTreeSet::new();
                said.retain(|said| paths.insert(said.path.clone()));
                said
            };
            let (file, variables) = (once(file), once(variables));
            Layers { file, variables, mistakes, style, capitals, small, is_named_by_variable }
        },
    )
}

/// The text of a file with these entries.
fn toml(file: &[(String, String)], style: usize) -> String {
    let mut tables = BTreeMap::<&str, Vec<(&str, &str)>>::new();
    let mut text = String::new();
    for (path, value) in file {
        match path.rsplit_once('.') {
            Some((table, name)) if style < 2 => tables.entry(table).or_default().push((name, value)),
            _ => writeln!(text, "{} = {value}", quoted(path)).unwrap(),
        }
    }
    for (table, entries) in tables {
        if style == 1 {
            let entries: Vec<String> = entries.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            // Before the first table, to which it would belong otherwise.
            text.insert_str(0, &format!("{} = {{ {} }}\n", quoted(table), entries.join(", ")));
        } else {
            writeln!(text, "[{}]", quoted(table)).unwrap();
            for (name, value) in entries {
                writeln!(text, "{name} = {value}").unwrap();
            }
        }
    }
    text
}

/// A path of which each part can stand in a file.
fn quoted(path: &str) -> String {
    let is_bare = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let part = |part: &str| if is_bare(part) { part.to_owned() } else { format!("{part:?}") };
    path.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// The name of a variable. `small`: whether a letter is small, over and over.
pub(super) fn variable(path: &str, small: &[bool]) -> String {
    let name = format!("{PREFIX}__{}", path.replace('.', "__"));
    let in_case = |(c, small): (char, &bool)| if *small { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
    name.chars().zip(small.iter().cycle()).map(in_case).collect()
}

/// The layers as they are given to the loader, and for each mistake the texts that an error must have to name it.
struct Given {
    file: String,
    variables: Vec<(String, String)>,
    mistakes: Vec<Vec<String>>,
}

fn given(layers: &Layers, path: &Path) -> Given {
    let layer = format!("file {}", path.display());
    let mut file: BTreeMap<String, String> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for said in &layers.file {
        let is_hidden = layers.variables.iter().any(|later| later.path == said.path);
        if said.shown.is_none() && !is_hidden {
            mistakes.push(vec![said.path.clone(), layer.clone()]);
        }
        file.insert(in_capitals(&said.path, layers.capitals), said.value.clone());
    }
    let mut variables = Vec::new();
    for said in &layers.variables {
        let name = variable(&said.path, &layers.small);
        if said.shown.is_none() {
            mistakes.push(vec![said.path.clone(), name.clone()]);
        }
        variables.push((name, said.value.clone()));
    }
    let path = path.to_str().unwrap().to_owned();
    let mut variable_of_file = (format!("{PREFIX}_FILE"), path);
    for (mistake, in_file) in &layers.mistakes {
        let names = match mistake {
            Mistake::Misspelt(wrong) if *in_file => {
                file.insert(in_capitals(wrong, layers.capitals), "1".into());
                vec![named_part(wrong), layer.clone()]
            }
            Mistake::Misspelt(wrong) => {
                let name = variable(wrong, &layers.small);
                variables.push((name.clone(), "1".into()));
                vec![named_part(wrong), name]
            }
            Mistake::Shape(at, value) => {
                let Some(said) = (!layers.file.is_empty()).then(|| at.get(&layers.file)) else { continue };
                let is_hidden = layers.variables.iter().any(|later| later.path == said.path);
                // A later layer hides what could be a value.
                let could_be_value = ["{}", "1979-05-27T07:32:00Z"].contains(value);
                if (is_hidden && could_be_value) || takes_any_text(&said.path) {
                    continue;
                }
                file.insert(in_capitals(&said.path, layers.capitals), (*value).to_owned());
                mistakes.retain(|names| names[0] != said.path || names[1] != layer);
                vec![said.path.clone(), layer.clone()]
            }
            Mistake::Twice(at) => {
                let Some(said) = (!layers.variables.is_empty()).then(|| at.get(&layers.variables)) else { continue };
                let others: Vec<bool> = layers.small.iter().map(|small| !small).collect();
                variables.push((variable(&said.path, &others), said.value.clone()));
                vec![said.path.clone(), "twice".into()]
            }
            Mistake::TwiceInFile(at) => {
                let of_caches: Vec<&Said> =
                    layers.file.iter().filter(|said| said.path.starts_with("caches.")).collect();
                let Some(said) = (!of_caches.is_empty()).then(|| at.get(&of_caches)) else { continue };
                file.insert(in_capitals(&said.path, !layers.capitals), said.value.clone());
                vec![said.path.clone(), "twice".into(), layer.clone()]
            }
            Mistake::Section(section) => {
                let name = variable(section, &layers.small);
                variables.push((name.clone(), "redis".into()));
                vec![format!("`{section}`"), name]
            }
            Mistake::Underscore => {
                variables.push((format!("{PREFIX}_LOCK__TIMEOUT"), "1".into()));
                vec![format!("{PREFIX}_LOCK__TIMEOUT")]
            }
            Mistake::MissingFile => {
                variable_of_file.1.push_str(".missing");
                vec![variable_of_file.1.clone()]
            }
        };
        mistakes.push(names);
    }
    if latest(layers, "header").is_some_and(|names| names.contains("x-other"))
        && latest(layers, "key_sources").is_some_and(|sources| sources.contains("header:"))
    {
        mistakes.push(vec!["`header` and `key_sources` name different headers".into()]);
    }
    if layers.is_named_by_variable || variable_of_file.1.ends_with(".missing") {
        variables.push(variable_of_file);
    }
    Given { file: toml(&Vec::from_iter(file), layers.style), variables, mistakes }
}

/// A path in a file, whose cache may be named in capitals.
fn in_capitals(path: &str, capitals: bool) -> String {
    let mut parts: Vec<String> = path.split('.').map(str::to_owned).collect();
    if capitals && parts[0] == "caches" {
        parts[1].make_ascii_uppercase();
    }
    parts.join(".")
}

/// The part of a wrong path that an error names: a cache's name is wrong before its setting is looked at.
fn named_part(wrong: &str) -> String {
    wrong.trim_end_matches(".ttl").to_owned()
}

/// A date could be the name of an encoder.
fn takes_any_text(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap();
    ["encoder", "class", "location", "name", "cache_name", "namespace"].contains(&name)
}

/// The value that the latest layer has for a path.
fn latest<'a>(layers: &'a Layers, path: &str) -> Option<&'a str> {
    let of = |layer: &'a [Said]| layer.iter().find(|said| said.path == path).and_then(|said| said.shown);
    of(&layers.variables).or_else(|| of(&layers.file))
}

/// Compares every setting with what the layers say, or else with the profile's default.
fn check(layers: &Layers, settings: &Settings) -> Result<(), TestCaseError> {
    let profile = match latest(layers, "profile") {
        Some("Ietf") => Profile::Ietf,
        Some("Stripe") => Profile::Stripe,
        Some("StripeV2") => Profile::StripeV2,
        _ => Profile::Default,
    };
    let defaults = Settings::of(profile);
    for Known { name, show, .. } in ROOT {
        let expected = latest(layers, name).map_or_else(|| show(&defaults), str::to_owned);
        prop_assert_eq!(show(settings), expected, "{}", name);
    }
    let compare = |storage: &StorageSettings, cache: Option<&str>| {
        for Known { name, show, .. } in STORAGE {
            let own = cache.and_then(|cache| latest(layers, &format!("caches.{cache}.{name}")));
            let said = own.or_else(|| latest(layers, &format!("storage.{name}")));
            let expected = said.map_or_else(|| show(&defaults.storage), str::to_owned);
            prop_assert_eq!(show(storage), expected, "{} of {:?}", name, cache);
        }
        Ok(())
    };
    compare(&settings.storage, None)?;
    for cache in CACHES {
        let begin = format!("caches.{cache}.");
        let is_declared = layers.file.iter().chain(&layers.variables).any(|said| said.path.starts_with(&begin));
        match settings.cache(&cache.to_uppercase()) {
            Some(storage) => compare(&storage, Some(cache))?,
            None => prop_assert!(!is_declared && cache != "default", "{} is not declared", cache),
        }
    }
    Ok(())
}

/// Tries random layers. `load` gets the path of the file and the variables.
fn try_layers(cases: u32, load: impl Fn(&Path, &[(String, String)]) -> Result<Option<Settings>, String>) {
    let path = std::env::temp_dir().join(format!("{}.toml", fresh_key()));
    let tried =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) }).run(&layers(), |layers| {
            let given = given(&layers, &path);
            fs::write(&path, &given.file).unwrap();
            match load(&path, &given.variables) {
                Ok(settings) => {
                    prop_assert!(given.mistakes.is_empty(), "accepted {:?}\n{}", given.mistakes, given.file);
                    settings.map_or(Ok(()), |settings| check(&layers, &settings))
                }
                Err(error) => {
                    let said = error.to_lowercase();
                    let is_named = |names: &Vec<String>| names.iter().all(|name| said.contains(&name.to_lowercase()));
                    let context = (&error, &given.mistakes, &given.variables);
                    prop_assert!(given.mistakes.iter().any(is_named), "{:#?}\n{}", context, given.file);
                    Ok(())
                }
            }
        });
    let _ = fs::remove_file(&path);
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}

#[test]
fn what_is_in_force_is_what_the_layers_say_or_an_error_names_the_entry_that_is_wrong() {
    try_layers(2000, |path, variables| {
        let loader = Settings::loader().file(path).environment(variables.iter().cloned());
        loader.load().map(Some).map_err(|error: ConfigError| error.to_string())
    });
}

#[test]
fn a_server_stops_with_an_error_that_names_the_entry_that_is_wrong() {
    try_layers(15, |path, variables| {
        let is_wrong = Settings::loader().file(path).environment(variables.iter().cloned()).load().is_err();
        if !is_wrong {
            return Ok(None);
        }
        let path = path.to_str().unwrap();
        let mut all: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if !all.iter().any(|(name, _)| name.eq_ignore_ascii_case("IDEMPOTENCY_KEY_FILE")) {
            all.push(("IDEMPOTENCY_KEY_FILE", path));
        }
        let output = Server::fails_to_start(&all);
        assert!(!output.status.success() && output.stdout.is_empty(), "the server never listened");
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    });
}
