//! `lock.enable = false`: duplicates may run side by side, and the first answer that is stored stays.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    record::Record,
    store::{Begin, BeginRequest, Claim, Completion, MemoryStore, ReleaseAs, Store, StoreFuture},
};
use actix_web::{App, HttpResponse, rt, test::init_service, web};
use tokio::sync::Semaphore;

use crate::common::{
    delegate_to_inner_store,
    in_process::{MARKER, Runs, alone, post, send},
};

/// A store whose releases wait until the test lets them through.
struct SlowReleases(MemoryStore, Arc<Semaphore>);

impl Store for SlowReleases {
    delegate_to_inner_store!();
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.0.begin(request)
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.0.complete(claim, record, ttl)
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        StoreFuture::boxed(async move {
            let _pass = self.1.acquire().await;
            self.0.release(claim, release_as).await
        })
    }
}

/// Once, the look of a duplicate was a claim, and the first answer could not be stored while it was there.
#[test]
fn an_answer_is_stored_although_a_duplicate_looks_at_its_key() {
    alone(|| async {
        let releases = Arc::new(Semaphore::new(0));
        let store = SlowReleases(MemoryStore::default(), releases.clone());
        let mut settings = Settings::ietf();
        settings.storage.class = "own".into();
        settings.lock.enable = false;
        let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
        let (runs, may_end) = (Runs::default(), Rc::new(Cell::new(false)));
        let (count, gate) = (runs.clone(), may_end.clone());
        let handler = move || {
            let (n, gate) = (count.next(), gate.clone());
            async move {
                if n > 1 {
                    return HttpResponse::BadGateway().body("try again");
                }
                while !gate.get() {
                    rt::task::yield_now().await;
                }
                HttpResponse::Created().body("charged")
            }
        };
        let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
        let app = Rc::new(init_service(app.route("/pay", web::post().to(handler))).await);
        let pay = || {
            let app = app.clone();
            rt::spawn(async move { send(&*app, post("/pay", Some("k"))).await })
        };
        let first = pay();
        while runs.0.get() == 0 {
            rt::task::yield_now().await;
        }
        let second = pay();
        // The duplicate gets as far as it can.
        for _ in 0..100 {
            rt::task::yield_now().await;
        }
        may_end.set(true);
        let (status, _, body) = first.await.unwrap();
        assert_eq!((status.as_u16(), &body[..]), (201, &b"charged"[..]));
        releases.add_permits(1000);
        second.await.unwrap();
        let (status, headers, body) = pay().await.unwrap();
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), &body[..]), (201, true, &b"charged"[..]));
        assert!(runs.0.get() <= 2, "two requests, {} runs", runs.0.get());
    });
}
