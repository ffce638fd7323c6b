//! Other kinds of connections: HTTP/2, and HTTP/1.1 on a server that does not allow half-closed connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyKey};
use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, rt, web};
use bytes::Bytes;
use h2::{Reason, client::SendRequest};

use crate::common::{Connection, PATIENCE, Request, eventually, fresh_key};

struct SlowServer {
    address: SocketAddr,
    handle: ServerHandle,
    started: Arc<AtomicU32>,
    idempotency: Idempotency,
}

impl SlowServer {
    /// Serves one slow route on a thread of this process.
    fn start() -> Self {
        let idempotency = Idempotency::in_memory();
        let started = Arc::new(AtomicU32::new(0));
        let (shared, count) = (idempotency.clone(), started.clone());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let app = move || {
                let count = count.clone();
                let handler = move |_: web::Bytes| {
                    let n = count.fetch_add(1, SeqCst) + 1;
                    async move {
                        rt::time::sleep(Duration::from_millis(300)).await;
                        HttpResponse::Created().body(n.to_string())
                    }
                };
                App::new()
                    .app_data(web::Data::new(shared.clone()))
                    .wrap(IdempotencyKey::default())
                    .route("/", web::post().to(handler))
            };
            rt::System::new().block_on(async {
                let server = HttpServer::new(app).workers(1).disable_signals().h1_allow_half_closed(false);
                let server = server.bind_auto_h2c("127.0.0.1:0").expect("a free port");
                let address = server.addrs()[0];
                let server = server.run();
                sender.send((address, server.handle())).expect("the test waits");
                server.await.expect("the server serves");
            });
        });
        let (address, handle) = receiver.recv().expect("the server starts");
        Self { address, handle, started, idempotency }
    }

    fn wait_for_start(&self) {
        eventually("a start", || if self.started.load(SeqCst) > 0 { Ok(()) } else { Err(()) });
    }

    fn replays(&self, key: &str) {
        let request = Request::post("/").key(key);
        eventually("a replay", || {
            let reply = Connection::open(self.address).send(&request);
            if reply.is_replay() { Ok(()) } else { Err(reply.status) }
        });
        assert_eq!(self.started.load(SeqCst), 1);
    }
}

impl Drop for SlowServer {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

#[test]
fn without_half_closed_connections_a_close_does_not_cancel() {
    let server = SlowServer::start();
    let key = fresh_key();
    let mut connection = Connection::open(server.address);
    connection.write(&Request::post("/").key(&key).bytes());
    server.wait_for_start();
    connection.half_close();
    drop(connection);
    server.replays(&key);
}

fn post(key: Option<&str>) -> http::Request<()> {
    let request = http::Request::post("http://test/");
    let request = match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    };
    request.body(()).expect("a request")
}

async fn http2(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the server listens");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    rt::spawn(async move { drop(connection.await) });
    client.ready().await.expect("a stream")
}

/// Waits for a condition, with a limit.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
    };
    rt::time::timeout(PATIENCE, wait).await.expect("the condition comes true");
}

#[actix_web::test]
async fn an_http_2_reset_does_not_cancel() {
    let server = SlowServer::start();
    let key = fresh_key();
    let mut client = http2(server.address).await;
    let (_response, mut stream) = client.send_request(post(Some(&key)), true).expect("sent");
    until(|| server.started.load(SeqCst) > 0).await;
    stream.send_reset(Reason::CANCEL);
    until(|| server.idempotency.running() == 0).await;
    // The replay works over HTTP/2, too.
    let mut client = client.ready().await.expect("a stream");
    let (response, _) = client.send_request(post(Some(&key)), true).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(response.status().as_u16(), 409);
    assert_eq!(response.headers()["idempotent-replayed"], "true");
    assert_eq!(server.started.load(SeqCst), 1);
}

#[actix_web::test]
async fn over_http_2_a_refusal_reaches_a_client_that_still_uploads() {
    let server = SlowServer::start();
    let mut client = http2(server.address).await;
    for key in [None, Some("\"open")] {
        client = client.ready().await.expect("a stream");
        let (response, mut upload) = client.send_request(post(key), false).expect("sent");
        for n in 0..5 {
            upload.reserve_capacity(1000);
            upload.send_data(Bytes::from(vec![b'x'; 1000]), n == 4).expect("the stream is open");
            rt::task::yield_now().await;
        }
        let response = response.await.expect("an answer, not a reset");
        assert_eq!(response.status().as_u16(), 400);
    }
}
