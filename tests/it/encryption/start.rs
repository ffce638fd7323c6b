//! Mistakes in `encryption.*` that are seen at start, and keys from the environment and from files.

use actix_idempotency::{ConfigError, Idempotency, Settings};

use crate::common::{Reply, Server, fresh_key};

fn build(variables: &[(&str, &str)]) -> Result<Idempotency, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (format!("IDEMPOTENCY_KEY__ENCRYPTION__{name}"), *value));
    Idempotency::builder().settings(Settings::loader().environment(variables).load()?).build()
}

#[test]
fn an_error_names_the_entry_and_never_the_key() {
    let file = std::env::temp_dir().join(format!("key-{}", fresh_key()));
    std::fs::write(&file, "0123456789abcdef-a-secret").unwrap();
    let entry = format!("7:file:{}", file.display());
    let error = build(&[("KEYS", &entry)]).unwrap_err().to_string();
    assert!(error.contains(&entry) && error.contains("encryption.keys") && !error.contains("a-secret"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = build(&[("KEYS", &entry)]).unwrap_err().to_string();
    assert!(error.contains(&entry), "{error}");
    for (variables, what) in [
        (&[("MODE", "client")][..], "`encryption.mode` needs `encryption.keys`"),
        (&[("INDEX_KEY_IS_NEW", "true")], "`encryption.index_key_is_new` needs `encryption.index_key`"),
        (&[("KEYS", "1:env:A,1:env:B")], "have the number 1"),
        (&[("KEYS", "1:env:NO_SUCH_KEY_HERE")], "`1:env:NO_SUCH_KEY_HERE`: environment variable not found"),
        (&[("INDEX_KEY", "env:NO_SUCH_KEY_HERE")], "setting `encryption.index_key`: `env:NO_SUCH_KEY_HERE`"),
        (&[("KEYS", "1:vault:a")], "accepted: a list of NUMBER:env:NAME or NUMBER:file:PATH"),
    ] {
        let error = build(variables).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_key_in_place_of_its_name_is_not_shown() {
    let (hex, base64) = ("0af1".repeat(16), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    for key in [&hex, base64] {
        for before in ["", "1:", "1:hex:", "1:env:", "1:file:", "env:", "file:"] {
            for name in ["KEYS", "INDEX_KEY"] {
                let error = build(&[(name, &format!("{before}{key}"))]).unwrap_err().to_string();
                assert!(error.contains("it may be a key") && !error.contains(key), "{error}");
            }
        }
    }
}

/// Sealing is the same for all wraps of a process: they share its stores.
#[actix_web::test]
async fn a_wrap_can_not_have_keys_of_its_own() {
    use actix_service::Transform as _;
    let wrap = actix_idempotency::IdempotencyKey::default()
        .using(&Idempotency::in_memory())
        .configure(|settings| settings.encryption.keys = vec!["1:env:A".parse().unwrap()]);
    let inner = actix_service::fn_service(async |request: actix_web::dev::ServiceRequest| {
        Ok::<_, actix_web::Error>(request.into_response(actix_web::HttpResponse::Ok()))
    });
    let inner = actix_service::IntoService::into_service(inner);
    assert!(wrap.new_transform(inner).await.is_err());
}

fn is_replay(reply: &Reply) -> bool {
    reply.is_replay()
}

#[cfg(feature = "sqlite")]
#[test]
fn processes_with_keys_from_the_environment_and_a_file_share_a_store() {
    let folder = crate::store::sqlite::fixture::Folder::new();
    let (file, key_file) = (folder.new_file(), std::env::temp_dir().join(format!("key-{}", fresh_key())));
    std::fs::write(&key_file, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let old = format!("1:file:{}", key_file.display());
    let both = format!("2:env:IDEM_KEY_2,{old}");
    let key_2 = "ab".repeat(32);
    let log = crate::common::RunLog::new();
    let server = |keys: &str| {
        let more = [("IDEMPOTENCY_KEY__ENCRYPTION__KEYS", keys), ("IDEM_KEY_2", key_2.as_str())];
        Server::start(&[
            ("IDEMPOTENCY_KEY__STORAGE__CLASS", "sqlite"),
            ("IDEMPOTENCY_KEY__STORAGE__LOCATION", file.to_str().unwrap()),
            ("RUN_LOG", log.path()),
            more[0],
            more[1],
        ])
    };
    let key = fresh_key();
    assert_eq!(server(&old).post("/items", &key).status, 201);
    assert!(is_replay(&server(&both).post("/items", &key)));
    let without = server("2:env:IDEM_KEY_2");
    without.post("/items", &key).is_problem(503, "store-unavailable");
    assert_eq!(log.count("start"), 1);
    std::fs::remove_file(key_file).unwrap();
}
