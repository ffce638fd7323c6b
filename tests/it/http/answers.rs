//! Unusual responses (event streams, upgrades, a handler's override), and requests that are dropped half way.

use std::{
    cell::Cell,
    future::poll_fn,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyKey, ResponseExt as _, Settings, guard, settings::OnUnknown};
use actix_web::{
    App, Error, HttpResponse,
    body::{MessageBody, SizedStream, to_bytes},
    dev::Service,
    rt,
    test::init_service,
    web,
};
use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::{
    common::in_process::{MARKER, Runs, alone, app, post, send},
    store::custom_parts::eventually,
};

/// Sets a flag when it is dropped.
struct DropFlag(Rc<Cell<bool>>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn a_handler_can_say_whether_its_answer_is_stored() {
    alone(|| async {
        let runs = Runs::default();
        let handler = move |word: web::Path<String>| {
            runs.next();
            let n = runs.0.get();
            async move {
                match word.as_str() {
                    "never" => HttpResponse::Created().body(n.to_string()).do_not_store(),
                    _ => HttpResponse::InternalServerError().body(n.to_string()).store_anyway(),
                }
            }
        };
        let app = app!(.wrap(IdempotencyKey::default()).route("/{word}", web::post().to(handler)));
        assert_eq!(send(&app, post("/never", Some("a"))).await.2, "1");
        assert_eq!(send(&app, post("/never", Some("a"))).await.2, "2");
        assert_eq!(send(&app, post("/always", Some("b"))).await.2, "3");
        let (status, headers, body) = send(&app, post("/always", Some("b"))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), &body[..]), (409, true, &b"3"[..]));
    });
}

#[test]
fn an_event_stream_ends_with_its_client_and_is_not_run_again() {
    alone(|| async {
        let (runs, dropped) = (Runs::default(), Rc::new(Cell::new(false)));
        let (count, flag) = (runs.clone(), dropped.clone());
        let handler = move || {
            count.next();
            let drop_flag = DropFlag(flag.clone());
            let events = stream::repeat_with(move || {
                let _ = &drop_flag;
                Ok::<_, Error>(web::Bytes::from_static(b"data: x\n\n"))
            });
            async move { HttpResponse::Ok().content_type("text/event-stream; charset=utf-8").streaming(events) }
        };
        let app = app!(.wrap(IdempotencyKey::default()).route("/", web::post().to(handler)));
        let response = app.call(post("/", Some("k")).to_request()).await.unwrap();
        let mut body = Box::pin(response.into_body());
        for _ in 0..3 {
            let piece = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap();
            assert_eq!(piece.map_err(|_| ()).unwrap(), "data: x\n\n", "events pass unchanged");
        }
        assert_eq!(send(&app, post("/", Some("k"))).await.0, 423, "in flight while the client reads");
        drop(body);
        let (status, headers, body) = send(&app, post("/", Some("k"))).await;
        assert_eq!((status.as_u16(), headers.get("idempotency-body").unwrap().to_str().unwrap()), (409, "omitted"));
        assert!(body.is_empty() && dropped.get(), "the event stream is not read after its client has left");
        assert_eq!(runs.0.get(), 1);
    });
}

/// Once, it was read on at full speed for `limits.drain_timeout`.
#[test]
fn a_stream_too_large_to_keep_is_dropped_with_its_client() {
    for read_by_the_client in [3 << 20, 0] {
        alone(move || async move {
            let dropped = Rc::new(Cell::new(false));
            let flag = dropped.clone();
            let handler = move || {
                let drop_flag = DropFlag(flag.clone());
                let pieces = stream::repeat_with(move || {
                    let _ = &drop_flag;
                    Ok::<_, Error>(web::Bytes::from(vec![7; 10_000]))
                });
                async move { HttpResponse::Ok().streaming(pieces) }
            };
            let app = app!(.wrap(IdempotencyKey::default()).route("/", web::post().to(handler)));
            let response = app.call(post("/", Some("k")).to_request()).await.unwrap();
            let mut body = Box::pin(response.into_body());
            let mut length = 0;
            while length < read_by_the_client {
                let piece = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap();
                length += piece.map_err(|_| ()).unwrap().len();
            }
            drop(body);
            eventually(async || dropped.get()).await;
            let (status, headers, _) = send(&app, post("/", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.get("idempotency-body").unwrap().to_str().unwrap()), (409, "omitted"));
        });
    }
}

/// A body whose length is known fails before anything of it was sent.
#[test]
fn a_body_that_fails_becomes_an_empty_500_and_its_key_is_free_or_barred() {
    for on_unknown in [OnUnknown::Rerun, OnUnknown::Reject] {
        alone(move || async move {
            let mut settings = Settings::default();
            settings.on_unknown = on_unknown;
            let idempotency = Idempotency::builder().settings(settings).build().unwrap();
            let handler = || async {
                let error = std::io::Error::other("postgres://app:secret@db: connection reset");
                let pieces = [Ok(web::Bytes::from_static(b"half")), Err(error)];
                HttpResponse::Ok().body(SizedStream::new(10, stream::iter(pieces)))
            };
            let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
            let app = init_service(app.route("/", web::post().to(handler))).await;
            let (status, headers, body) = send(&app, post("/", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.contains_key(MARKER), &body[..]), (500, false, &b""[..]));
            let again = send(&app, post("/", Some("k"))).await.0;
            assert_eq!(again.as_u16(), if on_unknown == OnUnknown::Reject { 409 } else { 500 });
        });
    }
}

#[test]
fn a_body_that_panics_leaves_its_key_free_or_barred() {
    for on_unknown in [OnUnknown::Rerun, OnUnknown::Reject] {
        alone(move || async move {
            let mut settings = Settings::default();
            settings.on_unknown = on_unknown;
            let idempotency = Idempotency::builder().settings(settings).build().unwrap();
            let handler = |kind: web::Path<String>| async move {
                let pieces = stream::iter(0..2).map(|n| {
                    assert_eq!(n, 0, "the body panics, on purpose");
                    Ok::<_, Error>(web::Bytes::from_static(b"half"))
                });
                match kind.as_str() {
                    "sized" => HttpResponse::Ok().body(SizedStream::new(8, pieces)),
                    _ => HttpResponse::Ok().streaming(pieces),
                }
            };
            let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
            let app = init_service(app.route("/{kind}", web::post().to(handler))).await;
            // The panic of a body ends its connection, as it does without the middleware.
            let of_sized = AssertUnwindSafe(app.call(post("/sized", Some("a")).to_request())).catch_unwind().await;
            assert!(of_sized.is_err());
            let response = app.call(post("/streamed", Some("b")).to_request()).await.unwrap();
            assert!(to_bytes(response.into_body()).await.is_err(), "the answer breaks off");
            for (path, key) in [("/sized", "a"), ("/streamed", "b")] {
                let again = AssertUnwindSafe(app.call(post(path, Some(key)).to_request())).catch_unwind().await;
                match again {
                    Ok(response) if on_unknown == OnUnknown::Reject => assert_eq!(response.unwrap().status(), 409),
                    Ok(response) => assert_eq!((response.unwrap().status().as_u16(), path), (200, "/streamed")),
                    Err(_) => assert_eq!((on_unknown, path), (OnUnknown::Rerun, "/sized"), "it ran again"),
                }
            }
        });
    }
}

#[test]
fn an_upgrade_passes_untouched_and_is_not_stored() {
    alone(|| async {
        let runs = Runs::default();
        let count = runs.clone();
        let handler = move || {
            count.next();
            async {
                HttpResponse::SwitchingProtocols()
                    .upgrade("chat")
                    .streaming(stream::empty::<Result<web::Bytes, Error>>())
            }
        };
        let app = app!(.wrap(IdempotencyKey::default()).route("/", web::post().to(handler)));
        for n in 1..=2 {
            let (status, headers, _) = send(&app, post("/", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.get("upgrade").unwrap().to_str().unwrap()), (101, "chat"));
            assert_eq!(runs.0.get(), n);
        }
    });
}

/// An HTTP/2 reset drops the future of a request, and so does a half-closed connection where the server allows none.
#[test]
fn a_future_dropped_half_way_goes_on_in_its_span() {
    for nested in [false, true] {
        alone(move || async move {
            static FINISHED: AtomicUsize = AtomicUsize::new(0);
            FINISHED.store(0, Ordering::SeqCst);
            let handler = || async {
                rt::time::sleep(Duration::from_millis(50)).await;
                FINISHED.fetch_add(1, Ordering::SeqCst);
                HttpResponse::Created().body("done")
            };
            let route = if nested { web::post().guard(guard::required()) } else { web::post() };
            let app = app!(.wrap(IdempotencyKey::default()).route("/", route.to(handler)));
            let call = app.call(post("/", Some("k")).to_request());
            assert!(rt::time::timeout(Duration::from_millis(10), call).await.is_err(), "dropped half way");
            assert_eq!(
                send(&app, post("/", Some("k"))).await.2,
                "done",
                "the duplicate gets the answer of the dropped run"
            );
            assert_eq!(FINISHED.load(Ordering::SeqCst), 1);
            // Dropped before the handler started: nothing runs, and the key is free.
            drop(app.call(post("/", Some("l")).to_request()));
            rt::task::yield_now().await;
            assert_eq!(send(&app, post("/", Some("l"))).await.0, 201);
            assert_eq!(FINISHED.load(Ordering::SeqCst), 2);
        });
    }
}
