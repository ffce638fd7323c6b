//! Wrong requests: each is refused with a problem, and its key is as free as before.

use crate::common::{Reply, Request, Server, fresh_key};

type Sent<'a> = Box<dyn Fn(&str) -> Reply + 'a>;

#[test]
fn a_refused_request_leaves_its_key_free() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100")]);
    let item = |key: &str| Request::post("/items").key(key);
    let raw = |bytes: Vec<u8>| {
        let mut connection = server.connect();
        connection.write(&bytes);
        connection.half_close();
        connection.reply()
    };
    let chunked = |key: &str, body: &[u8]| {
        let head = item(key).head();
        raw([&head[..], b"Transfer-Encoding: chunked\r\n\r\n", body].concat())
    };
    let cases: Vec<(&str, u16, Option<&str>, Sent<'_>)> = vec![
        ("two lines", 400, Some("invalid-key"), Box::new(|key| server.send(item(key).key(key)))),
        ("an open quote", 400, Some("invalid-key"), Box::new(|key| server.send(item(&format!("\"{key}"))))),
        (
            "a parameter without a name",
            400,
            Some("invalid-key"),
            Box::new(|key| server.send(item(&format!("\"{key}\";")))),
        ),
        ("a space inside", 400, Some("invalid-key"), Box::new(|key| server.send(item(&format!("{key} {key}"))))),
        ("not ASCII", 400, Some("invalid-key"), Box::new(|key| server.send(item(&format!("{key}é"))))),
        ("too long", 400, Some("invalid-key"), Box::new(|key| server.send(item(&key.repeat(40))))),
        ("too large", 413, Some("body-too-large"), Box::new(|key| server.send(item(key).body([b'x'; 101])))),
        (
            "too large in chunks",
            413,
            Some("body-too-large"),
            Box::new(|key| {
                let mut connection = server.connect();
                connection.write(&item(key).body([b'x'; 101]).chunked());
                connection.reply()
            }),
        ),
        ("a chunk of no size", 400, None, Box::new(|key| chunked(key, b"zz\r\nx\r\n0\r\n\r\n"))),
        ("no such path", 404, None, Box::new(|key| server.send(Request::post("/nowhere").key(key)))),
        ("no such method", 404, None, Box::new(|key| server.send(Request::post("/healthz").key(key)))),
    ];
    for (n, (what, status, kind, send)) in (1..).zip(&cases) {
        let key = fresh_key();
        for _ in 0..2 {
            let reply = send(&key);
            match kind {
                Some(kind) => reply.is_problem(*status, kind),
                None => assert_eq!((reply.status, reply.is_replay()), (*status, false), "{what}: {reply:?}"),
            }
        }
        let first = server.send(item(&key));
        assert_eq!(
            (first.status, first.is_replay(), first.n()),
            (201, false, n),
            "{what}: the key is free, and nothing ran before"
        );
        assert!(server.send(item(&key)).is_replay());
    }
}

#[test]
fn a_key_used_for_something_else_leaves_its_record_as_it_was() {
    let server = Server::start(&[]);
    let key = fresh_key();
    let first = server.post("/items", &key);
    for other in [
        Request::post("/items").key(&key).body("x"),
        Request::post("/items?x=1").key(&key),
        Request::post("/echo").key(&key),
        Request::new("DELETE", "/items").key(&key),
        Request::post("/items").key(&key).header("Content-Type", "text/plain"),
    ] {
        server.send(other).is_problem(422, "key-reused");
    }
    let again = server.post("/items", &key);
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
    assert_eq!(server.send(Request::get("/runs")).body, br#"{"/items":1}"#, "nothing else ran");
}
