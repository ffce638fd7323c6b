//! Operations whose client has left: how long they go on, what they find, and what they leave behind.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    settings::{OnDisconnect, OnUnknown},
};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody as _,
    dev::{Service, ServiceResponse},
    rt,
    test::{TestRequest, init_service},
    web,
};
use futures_util::{FutureExt as _, StreamExt as _, future::poll_fn, stream};

use crate::{
    common::{
        Request, Server, eventually, fresh_key,
        in_process::{alone, app, post, send},
    },
    store::custom_parts,
};

/// Once, two requests that hung refused all later ones.
#[test]
fn a_handler_that_hangs_without_its_client_ends_with_max_run() {
    for (on_unknown, on_disconnect) in [("rerun", "finish"), ("reject", "finish"), ("rerun", "cancel")] {
        let server = Server::start(&[
            ("IDEMPOTENCY_KEY__LIMITS__MAX_RUN", "1"),
            ("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "2"),
            ("IDEMPOTENCY_KEY__ON_UNKNOWN", on_unknown),
            ("IDEMPOTENCY_KEY__ON_DISCONNECT", on_disconnect),
        ]);
        let hanging = [0, 1].map(|_| Request::post("/slow?ms=100000000").key(&fresh_key()));
        for (n, request) in (1..).zip(&hanging) {
            let connection = server.begin(request);
            server.wait_for_runs("/slow", n);
            connection.reset();
        }
        eventually("room for new operations", || match server.post("/items", &fresh_key()).status {
            201 => Ok(()),
            status => Err(status),
        });
        for (n, request) in (3..).zip(&hanging) {
            if on_unknown == "reject" {
                server.send(request.clone()).is_problem(409, "outcome-unknown");
                server.wait_for_runs("/slow", 2);
            } else {
                // The key is free soon, and the operation runs again. Its clients stay until the handler has started.
                let mut clients = Vec::new();
                eventually("the operation runs again", || {
                    clients.push(server.begin(request));
                    match server.runs("/slow") {
                        runs if runs == n => Ok(()),
                        runs => Err(runs),
                    }
                });
            }
        }
    }
}

/// A small memory store under `on_disconnect = cancel` and `on_unknown = reject`.
fn unforgiving(min_retention: Duration) -> Settings {
    let mut settings = Settings::default();
    settings.on_disconnect = OnDisconnect::Cancel;
    settings.on_unknown = OnUnknown::Reject;
    settings.storage.max_entries = 200;
    settings.storage.min_retention = min_retention;
    settings
}

macro_rules! slow_and_quick {
    ($settings:expr) => {
        init_service(
            App::new()
                .app_data(web::Data::new(Idempotency::builder().settings($settings).build().unwrap()))
                .wrap(IdempotencyKey::default())
                .route("/slow", web::post().to(std::future::pending::<HttpResponse>))
                .route("/quick", web::post().to(HttpResponse::Created)),
        )
        .await
    };
}

/// Sends a request, polls it once, and leaves. Whether a handler runs.
fn leave_early<S, B>(app: &S, request: TestRequest) -> bool
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
{
    app.call(request.to_request()).now_or_never().is_none()
}

fn of(principal: &str, path: &str, key: &str) -> TestRequest {
    post(path, Some(key)).insert_header(("authorization", principal.to_owned()))
}

#[test]
fn clients_that_leave_early_keep_new_keys_out_no_longer_than_min_retention() {
    alone(|| async {
        let app = slow_and_quick!(unforgiving(Duration::from_millis(300)));
        let left = (0..400).filter(|n| leave_early(&app, post("/slow", Some(&format!("k{n}"))))).count();
        assert!(left >= 200, "{left}");
        custom_parts::eventually(async || send(&app, post("/quick", Some("new"))).await.0 == 201).await;
    });
}

#[test]
fn the_keys_that_one_principal_has_lost_stop_at_its_share() {
    alone(|| async {
        let app = slow_and_quick!(unforgiving(Duration::from_secs(3600)));
        let left = (0..400).filter(|n| leave_early(&app, of("alice", "/slow", &format!("k{n}")))).count();
        assert_eq!(left, 100, "half of the entries");
        assert_eq!(send(&app, of("alice", "/quick", "new")).await.0, 503);
        assert_eq!(send(&app, of("alice", "/slow", "k0")).await.0, 409, "what is known of her keys stays");
        for n in 0..50 {
            assert_eq!(send(&app, of("bob", "/quick", &format!("k{n}"))).await.0, 201);
        }
    });
}

tokio::task_local!(static TENANT: u32);

#[test]
fn on_detach_restores_the_task_locals_of_layers_outside() {
    alone(|| async {
        let seen = Rc::new(Cell::new(None));
        let note = seen.clone();
        let handler = move || {
            let note = note.clone();
            async move {
                rt::task::yield_now().await;
                note.set(Some(TENANT.try_with(|tenant| *tenant).ok()));
                HttpResponse::Created().finish()
            }
        };
        let wrap = IdempotencyKey::default().on_detach(|| {
            let tenant = TENANT.get();
            move |rest| Box::pin(TENANT.scope(tenant, rest))
        });
        let app = app!(
            .wrap(wrap)
            .wrap_fn(|request, service| TENANT.scope(7, service.call(request)))
            .route("/", web::post().to(handler))
        );
        assert!(leave_early(&app, post("/", Some("k"))));
        custom_parts::eventually(async || seen.get().is_some()).await;
        assert_eq!(seen.get(), Some(Some(7)));
        assert_eq!(send(&app, post("/", Some("k"))).await.0, 409, "its answer is stored");
    });
}

/// An operation whose handler waits, and a streamed answer of which a piece was read: both are dropped with the result.
async fn unfinished(idempotency: Idempotency) -> Vec<Box<dyn Any>> {
    let piece = || stream::iter([Ok::<_, Error>(web::Bytes::from_static(b"piece"))]);
    let streamed = move || async move { HttpResponse::Ok().streaming(piece().chain(stream::pending())) };
    let app = App::new()
        .app_data(web::Data::new(idempotency))
        .wrap(IdempotencyKey::default())
        .route("/slow", web::post().to(std::future::pending::<HttpResponse>))
        .route("/stream", web::post().to(streamed));
    let app = init_service(app).await;
    let mut call = Box::pin(app.call(post("/slow", Some("a")).to_request()));
    assert!((&mut call).now_or_never().is_none());
    let answer = app.call(post("/stream", Some("b")).to_request()).await.unwrap();
    let mut body = Box::pin(answer.into_body());
    let first = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap();
    assert_eq!(first.map_err(|_| ()).unwrap(), "piece");
    vec![Box::new(call), Box::new(body)]
}

#[test]
fn operations_dropped_outside_of_a_local_set_end_without_a_panic() {
    let drop_them = |held: Vec<Box<dyn Any>>| drop(held);
    let drop_them_while_unwinding = |held: Vec<Box<dyn Any>>| {
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _held = held;
            panic!("somebody else panics, on purpose");
        }));
        assert!(unwound.is_err());
    };
    for let_go in [&drop_them as &(dyn Fn(Vec<Box<dyn Any>>) + Sync), &drop_them_while_unwinding] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let idempotency = Idempotency::in_memory();
                // There was a runtime, and there is none any more.
                let held = rt::System::new().block_on(unfinished(idempotency.clone()));
                let_go(held);
                assert_eq!(idempotency.running(), 0);
                // There is one, and it takes no futures of one thread.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { let_go(unfinished(idempotency.clone()).await) });
                assert_eq!(idempotency.running(), 0, "the operations are dropped, and their keys free");
                let held = runtime.block_on(unfinished(idempotency.clone()));
                let_go(held);
                assert_eq!(idempotency.running(), 0);
            });
        });
    }
}
