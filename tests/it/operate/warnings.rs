//! Warnings of what is allowed and probably a mistake.

use actix_idempotency::{Idempotency, IdempotencyKey, settings::Methods};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{App, HttpResponse, dev::AppConfig, http::Method, web};

use super::traces::Notes;
use crate::common::{Request, Server, eventually, fresh_key, in_process::alone};

#[test]
fn a_wrap_that_gives_a_promise_up_is_warned_about_once() {
    alone(|| async {
        let notes = Notes::default();
        let _default = notes.listen();
        let idempotency = Idempotency::in_memory();
        // Each worker makes an App. No other test gives this method to a wrap.
        for _ in 0..3 {
            let wrap = IdempotencyKey::default()
                .configure(|settings| settings.methods = Methods::List(vec![Method::POST, "CHECKOUT".parse().unwrap()]))
                .using(&idempotency);
            let app = App::new().wrap(wrap).route("/", web::post().to(HttpResponse::Created));
            assert!(app.into_factory().new_service(AppConfig::default()).await.is_ok());
        }
        let notes = notes.take();
        let warnings = notes.lines().filter(|line| line.contains("at a wrap") && line.contains("CHECKOUT")).count();
        assert_eq!(warnings, 1, "{notes}");
    });
}

/// Accounts that such a header tells apart would share their records.
#[test]
fn a_header_with_unknown_credentials_is_named_in_the_log_once_and_without_its_value() {
    let path = std::env::temp_dir().join(fresh_key());
    let server = Server::logged(&[], &path);
    let warnings = || {
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(!log.contains("hunter2"), "{log}");
        log.lines().filter(|line| line.contains("WARN") && line.contains("x-session-token")).count()
    };
    for request in [Request::post("/items").header("X-API-Key", "hunter2"), Request::post("/items")] {
        assert_eq!(server.send(request.key(&fresh_key())).status, 201);
    }
    assert_eq!(warnings(), 0);
    for _ in 0..3 {
        let request = Request::post("/items").key(&fresh_key()).header("X-Session-Token", "hunter2");
        assert_eq!(server.send(request).status, 201);
    }
    eventually("the warning", || match warnings() {
        1 => Ok(()),
        n => Err(n),
    });
    drop(server);
    assert_eq!(warnings(), 1);
    let _ = std::fs::remove_file(&path);
}
