//! Layers of settings, and the errors for mistakes that are found before a server listens.

use std::{path::PathBuf, time::Duration};

use actix_idempotency::{
    ConfigError, Idempotency, IdempotencyKey, Policy, Settings,
    key::Syntax,
    settings::{Methods, OnError, OnFull, PatternError, Profile},
};
use actix_web::http::{Method, StatusCode};

use crate::common::{Server, fresh_key};

const NOTHING: [(&str, &str); 0] = [];

fn env(variables: &[(&'static str, &'static str)]) -> Result<Settings, ConfigError> {
    Settings::loader().environment(variables.iter().copied()).load()
}

fn file(text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{}.toml", fresh_key()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn defaults_are_those_of_the_profile() {
    let default = env(&[]).unwrap();
    assert_eq!((default.profile, default.conflict_status_code), (Profile::Default, Some(StatusCode::CONFLICT)));
    assert_eq!((default.lock.timeout, default.lock.ttl), (Duration::from_millis(100), None));
    assert_eq!(default.in_flight_status_code, StatusCode::LOCKED);
    assert_eq!(default.header, ["idempotency-key"]);
    assert_eq!(default.storage.ttl, Duration::from_secs(86_400));
    let stripe = env(&[("IDEMPOTENCY_KEY__PROFILE", "stripe")]).unwrap();
    assert_eq!((stripe.syntax, stripe.methods), (Syntax::Raw, Methods::List(vec![Method::POST])));
    assert_eq!((stripe.mismatch_status_code, stripe.lock.timeout), (StatusCode::BAD_REQUEST, Duration::from_secs(5)));
    let ietf = Settings::loader().environment(NOTHING).profile(Profile::Ietf).load().unwrap();
    assert_eq!(ietf.methods, Settings::ietf().methods);
}

#[test]
fn later_layers_win() {
    let path = file(
        r#"
        profile = "ietf"
        header = "X-Key"
        methods = ["POST"]
        max_request_body = "64kB"
        [storage]
        ttl = 3600
        store_on_statuses = [200, "4xx", "!404"]
        [lock]
        timeout = 0.25
        enable = false
        [caches.reports]
        max_entries = 7
        [caches.same]
        "#,
    );
    let settings = Settings::loader()
        .file(&path)
        .environment([("IDEMPOTENCY_KEY__STORAGE__TTL", "2h"), ("IDEMPOTENCY_KEY__CACHES__REPORTS__TTL", "3h")])
        .load()
        .unwrap();
    let _ = std::fs::remove_file(path);
    assert_eq!((settings.profile, settings.in_flight_status_code), (Profile::Ietf, StatusCode::CONFLICT));
    assert_eq!((settings.header[0].as_str(), settings.max_request_body), ("x-key", 64_000));
    assert_eq!(settings.storage.ttl, Duration::from_secs(7200));
    assert_eq!((settings.lock.timeout, settings.lock.enable), (Duration::from_millis(250), false));
    assert!(settings.storage.store_on_statuses.contains(StatusCode::CONFLICT));
    assert!(!settings.storage.store_on_statuses.contains(StatusCode::NOT_FOUND));
    assert_eq!(settings.cache("same").unwrap().ttl, settings.storage.ttl, "an empty table declares a cache");
    let reports = settings.cache("reports").unwrap();
    assert_eq!((reports.max_entries, reports.ttl), (7, Duration::from_secs(10_800)));
    assert!(reports.store_on_statuses.contains(StatusCode::OK), "a cache inherits from `storage` what it does not set");
}

#[test]
fn a_file_named_by_the_environment_must_exist() {
    let path = file("[lock]\ntimeout = \"3s\"");
    let name = path.to_str().unwrap().to_owned();
    let settings = Settings::loader().environment([("IDEMPOTENCY_KEY_FILE", name.as_str())]).load().unwrap();
    assert_eq!(settings.lock.timeout, Duration::from_secs(3));
    std::fs::remove_file(path).unwrap();
    let error = Settings::loader().environment([("IDEMPOTENCY_KEY_FILE", name)]).load().unwrap_err();
    assert!(matches!(error, ConfigError::MissingFile(_)), "{error}");
}

#[test]
fn mistakes_name_setting_layer_and_what_is_accepted() {
    for (name, value, says) in [
        ("IDEMPOTENCY_KEY__LOCK__TIMOUT", "1", vec!["lock.timout", "lock.timeout", "IDEMPOTENCY_KEY__LOCK__TIMOUT"]),
        ("IDEMPOTENCY_KEY_LOCK__TIMEOUT", "1", vec!["IDEMPOTENCY_KEY_LOCK__TIMEOUT", "IDEMPOTENCY_KEY__"]),
        ("IDEMPOTENCY_KEY__CACHES__A__TTTL", "1", vec!["caches.a.tttl", "storage.ttl"]),
        ("IDEMPOTENCY_KEY__CACHES__A", "1", vec!["caches.a"]),
        ("IDEMPOTENCY_KEY__CACHES__A__CACHE_NAME", "b", vec!["caches.a.cache_name"]),
        ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "soon", vec!["lock.timeout", "soon", "0.1", "24h"]),
        ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "-1", vec!["lock.timeout"]),
        ("IDEMPOTENCY_KEY__LOCK__ENABLE", "yes", vec!["lock.enable", "true or false"]),
        ("IDEMPOTENCY_KEY__SYNTAX", "loose", vec!["syntax", "strict, lenient, raw or any"]),
        ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "204", vec!["conflict_status_code", "none"]),
        ("IDEMPOTENCY_KEY__MISMATCH_STATUS_CODE", "200", vec!["mismatch_status_code", "400 to 599"]),
        ("IDEMPOTENCY_KEY__HEADER", "bad name", vec!["header"]),
        ("IDEMPOTENCY_KEY__EXEMPT", "webhooks", vec!["exempt", "/"]),
        ("IDEMPOTENCY_KEY__DOCS_URL", "docs", vec!["docs_url", "absolute URL"]),
        ("IDEMPOTENCY_KEY__PROFILE", "django", vec!["profile", "default, ietf, stripe or stripe-v2"]),
        ("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "2xy", vec!["storage.store_on_statuses", "200-207"]),
        ("IDEMPOTENCY_KEY__STORAGE__MAX_BYTES", "lots", vec!["storage.max_bytes", "1MiB"]),
        ("IDEMPOTENCY_KEY__STORAGE__MAX_ENTRIES", "0", vec!["storage.max_entries"]),
        ("IDEMPOTENCY_KEY__EXEMPT[99999999999]", "/x", vec!["exempt[99999999999]"]),
        ("IDEMPOTENCY_KEY__STORAGE", "redis", vec!["`storage`", "storage.class"]),
        ("IDEMPOTENCY_KEY__LIMITS__PRINCIPAL_SHARE", "1.5", vec!["limits.principal_share", "0 to 1"]),
        ("IDEMPOTENCY_KEY__LIMITS__FRESH_PER_PRINCIPAL", "600/d", vec!["limits.fresh_per_principal", "600/m", "none"]),
        ("IDEMPOTENCY_KEY__MAX_KEY_LENGTH", "0", vec!["max_key_length"]),
        ("IDEMPOTENCY_KEY__LOCK__CLASS", "redis", vec!["lock.class = redis", "memory"]),
    ] {
        let error = env(&[(name, value)]).unwrap_err().to_string();
        for text in says {
            assert!(error.contains(text), "{name}={value}: {error}");
        }
    }
    let path = file("[lock]\ntimeout = \"soon\"");
    let error = Settings::loader().file(&path).environment(NOTHING).load().unwrap_err().to_string();
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "names the file: {error}");
    std::fs::write(&path, "not toml at all [").unwrap();
    assert!(Settings::loader().file(&path).environment(NOTHING).load().is_err());
    std::fs::remove_file(path).unwrap();
}

/// Each would let requests run again, or take the key from a header that has another meaning.
#[test]
fn a_value_that_would_switch_protection_off_is_refused() {
    for (name, value, says) in [
        ("IDEMPOTENCY_KEY__METHODS", "POST,GET", vec!["methods", "safe"]),
        ("IDEMPOTENCY_KEY__METHODS", "", vec!["methods"]),
        ("IDEMPOTENCY_KEY__METHODS", "all", vec!["methods", "unsafe"]),
        ("IDEMPOTENCY_KEY__METHODS", "none", vec!["methods"]),
        ("IDEMPOTENCY_KEY__METHODS", "unsafe,PURGE", vec!["methods"]),
        ("IDEMPOTENCY_KEY__METHODS", "5", vec!["methods"]),
        ("IDEMPOTENCY_KEY__HEADER", "Authorization", vec!["header", "no other meaning"]),
        ("IDEMPOTENCY_KEY__HEADER", "Host", vec!["header"]),
        ("IDEMPOTENCY_KEY__HEADER", "X-Key, Content-Type", vec!["header", "content-type"]),
        ("IDEMPOTENCY_KEY__HEADER", "Cookie", vec!["header"]),
        ("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "", vec!["storage.store_on_statuses"]),
        ("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "!201", vec!["storage.store_on_statuses"]),
    ] {
        let error = env(&[(name, value)]).unwrap_err().to_string();
        for text in says {
            assert!(error.contains(text), "{name}={value}: {error}");
        }
    }
}

/// The table of the file was dropped, and the server ran on memory, at some starts.
#[test]
fn a_misplaced_variable_is_an_error_at_every_start() {
    let path = file("[storage]\nclass = \"redis\"\nlocation = \"127.0.0.1:1\"");
    for _ in 0..20 {
        let variables = [("IDEMPOTENCY_KEY__STORAGE", "redis"), ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "0.3")];
        let error = Settings::loader().file(&path).environment(variables).load().unwrap_err();
        assert!(matches!(error, ConfigError::UnknownSetting { .. }), "{error}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_setting_that_is_said_twice_is_an_error() {
    let twice = [("IDEMPOTENCY_KEY__STORAGE__TTL", "1h"), ("IDEMPOTENCY_KEY__storage__ttl", "2h")];
    let error = env(&twice).unwrap_err().to_string();
    assert!(error.contains("storage.ttl") && error.contains("twice"), "{error}");
    assert_eq!(env(&twice[1..]).unwrap().storage.ttl, Duration::from_secs(7200), "upper and lower case are alike");
    let path = file("\"storage.ttl\" = 1\n[storage]\nttl = 2\n");
    let error = Settings::loader().file(&path).environment(NOTHING).load().unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
    std::fs::write(&path, "[caches.A]\n[caches.a]\n").unwrap();
    let error = Settings::loader().file(&path).environment(NOTHING).load().unwrap_err().to_string();
    assert!(error.contains("caches.a"), "{error}");
    std::fs::remove_file(path).unwrap();
}

/// The server ran on the defaults.
#[test]
fn a_settings_file_that_is_there_and_can_not_be_read_is_an_error() {
    let folder = std::env::temp_dir().join(fresh_key());
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("idempotency.toml");
    let start = || {
        let output = Server::fails_to_start_in(&folder, &[]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    std::fs::write(&path, b"# caf\xe9\n[storage]\nclass = \"redis\"\n").unwrap();
    assert!(start().contains("idempotency.toml: it is not UTF-8"), "{}", start());
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(start().contains("idempotency.toml: "), "{}", start());
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    assert!(start().contains("idempotency.toml: "), "{}", start());
    std::fs::remove_dir_all(folder).unwrap();
}

/// Two services would have shared records.
#[test]
fn settings_from_code_reach_the_caches_that_a_layer_declared() {
    let mut settings = env(&[("IDEMPOTENCY_KEY__CACHES__REPORTS__TTL", "1h")]).unwrap();
    settings.storage.namespace = "billing".into();
    let reports = settings.cache("Reports").unwrap();
    assert_eq!((reports.namespace.as_str(), reports.ttl), ("billing", Duration::from_secs(3600)));
    // A layer may name a cache that code declares.
    let settings = env(&[("IDEMPOTENCY_KEY__STORAGE__CACHE_NAME", "FiveMinuteCache")]).unwrap();
    let builder = || Idempotency::builder().settings(settings.clone());
    assert!(matches!(builder().build(), Err(ConfigError::UnknownCache { .. })));
    let five_minutes = Duration::from_secs(300);
    let built = builder().cache("fiveminutecache", move |cache| cache.ttl = five_minutes).build().unwrap();
    assert_eq!(built.settings().cache("FIVEMINUTECACHE").unwrap().ttl, five_minutes);
}

/// A location may have a password in it.
#[test]
fn no_error_shows_a_password() {
    for location in ["redis://:sec?ret@h:port", "redis://:secret@a:1,redis://:secret@b:2", "redis://:secret@h:x"] {
        let mut settings = env(&[("IDEMPOTENCY_KEY__STORAGE__LOCATION", location)]).unwrap();
        settings.storage.class = "redis".into();
        let error = Idempotency::builder().settings(settings).build().unwrap_err().to_string();
        assert!(!error.contains("sec"), "{error}");
    }
    let path = file("[storage]\nlocation = [\"redis://:secret@a\", \"redis://:secret@b\"]");
    let error = Settings::loader().file(&path).environment(NOTHING).load().unwrap_err().to_string();
    assert!(!error.contains("secret"), "{error}");
    std::fs::write(&path, "[storage]\nlocation = \"redis://:secret@a\n").unwrap();
    let error = Settings::loader().file(&path).environment(NOTHING).load().unwrap_err().to_string();
    assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn every_setting_can_be_given_by_the_environment() {
    let settings = env(&[
        ("IDEMPOTENCY_KEY__ENCODER", "django"),
        ("IDEMPOTENCY_KEY__REPLAY_HEADER", "none"),
        ("IDEMPOTENCY_KEY__LOCK__TTL", "none"),
        ("IDEMPOTENCY_KEY__EXEMPT", "/a, /b/{tail}*"),
        ("IDEMPOTENCY_KEY__STORAGE__ON_FULL", "reject"),
        ("IDEMPOTENCY_KEY__STORAGE__ON_ERROR", "run"),
        ("IDEMPOTENCY_KEY__STORAGE__NAMESPACE", "shop"),
        ("IDEMPOTENCY_KEY__LIMITS__MAX_RUN", "1m"),
        ("IDEMPOTENCY_KEY__EXCLUDE_HEADERS", "X-A,X-B"),
    ])
    .unwrap();
    assert_eq!((settings.encoder.as_str(), &settings.replay_header, settings.lock.ttl), ("django", &None, None));
    assert_eq!(settings.exempt, ["/a", "/b/{tail}*"]);
    assert_eq!((settings.storage.on_full, settings.storage.on_error), (OnFull::Reject, OnError::Run));
    assert_eq!(settings.storage.namespace, "shop");
    assert_eq!(settings.limits.max_run, Duration::from_secs(60));
    assert_eq!(settings.exclude_headers.len(), 2);
}

#[test]
fn a_builder_refuses_what_can_not_work() {
    let build = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        Idempotency::builder().settings(settings).build().unwrap_err()
    };
    let unknown = build(|s| s.encoder = "rot13".into());
    assert!(matches!(unknown, ConfigError::UnknownClass { setting: "encoder", .. }), "{unknown}");
    let unknown = build(|s| s.storage.class = "disk".into());
    assert!(unknown.to_string().contains("memory"), "{unknown}");
    let unknown = build(|s| s.lock.class = "paper".into());
    assert!(matches!(unknown, ConfigError::UnknownClass { setting: "lock.class", .. }), "{unknown}");
    let pattern = build(|s| s.exempt = vec!["/a/{".into()]);
    assert!(matches!(pattern, ConfigError::Pattern(PatternError::Malformed { .. })), "{pattern}");
    let both = build(|s| {
        s.exempt = vec!["/a".into()];
        s.manual = vec!["/a".into()];
    });
    assert!(
        matches!(
            both,
            ConfigError::Pattern(PatternError::Contradiction { first: Policy::Exempt, second: Policy::Manual, .. })
        ),
        "{both}"
    );
    let none = build(|s| s.max_key_length = 0);
    assert!(none.to_string().contains("code"), "{none}");
    let methods = build(|s| s.methods = Methods::List(vec![Method::GET]));
    assert!(methods.to_string().contains("methods"), "{methods}");
}

#[test]
fn a_server_does_not_start_on_a_mistake() {
    for (name, value) in [
        ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "soon"),
        ("IDEMPOTENCY_KEY__NO_SUCH", "1"),
        ("IDEMPOTENCY_KEY_FILE", "/no/such/file.toml"),
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "disk"),
        ("MIDDLEWARE", "maybe"),
    ] {
        let output = Server::fails_to_start(&[(name, value)]);
        assert!(!output.status.success(), "{name}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(value) || text.contains(&name.to_lowercase()[17..]), "{name}: {text}");
        assert!(output.stdout.is_empty(), "the server never listened");
    }
}

/// Otherwise every answer could have its expiry as its `Content-Type`.
#[test]
fn a_header_that_the_crate_adds_can_not_have_the_name_of_another_header() {
    for (name, value) in [
        ("EXPIRES_HEADER", "Content-Type"),
        ("OBSERVE_HEADER", "Idempotency-Key"),
        ("EXPIRES_HEADER", "Idempotent-Replayed"),
        ("REPLAY_HEADER", "Date"),
    ] {
        let name = format!("IDEMPOTENCY_KEY__{name}");
        let error = Settings::loader().environment([(name.as_str(), value)]).load().unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains(&value.to_lowercase()), "{error}");
    }
}

#[test]
fn an_error_names_the_layer_of_a_value_that_makes_no_sense() {
    let error = Settings::loader().environment([("IDEMPOTENCY_KEY__STORAGE__TTL", "0")]).load().unwrap_err();
    assert!(error.to_string().starts_with("environment variable IDEMPOTENCY_KEY__STORAGE__TTL"), "{error}");
    // A `main` that returns the error prints its `Debug` form.
    assert_eq!(format!("{error:?}"), error.to_string());
}

#[test]
fn a_setting_that_all_wraps_share_can_not_be_changed_at_one_wrap() {
    let starts_with = |change: fn(&mut Settings)| {
        let wrap = IdempotencyKey::default().configure(change).using(&Idempotency::in_memory());
        actix_web::rt::System::new().block_on(async {
            let app = actix_web::App::new().wrap(wrap);
            actix_service::ServiceFactory::new_service(
                &actix_service::IntoServiceFactory::into_factory(app),
                actix_web::dev::AppConfig::default(),
            )
            .await
            .is_ok()
        })
    };
    assert!(starts_with(|settings| settings.limits.max_run = Duration::from_secs(1)));
    assert!(!starts_with(|settings| settings.storage.class = "redis".into()));
    assert!(!starts_with(|settings| settings.limits.principal_share = 1.0));
    assert!(!starts_with(|settings| settings.limits.fresh_per_principal = "1/s".parse().ok()));
}

#[test]
#[cfg(not(feature = "encryption"))]
fn differences_need_a_feature() {
    let mut settings = Settings::default();
    settings.fingerprint.differences = true;
    let error = Idempotency::builder().settings(settings).build().unwrap_err();
    assert!(matches!(error, ConfigError::MissingFeature { feature: "encryption", .. }), "{error}");
    assert!(error.to_string().contains("fingerprint.differences"), "{error}");
}
