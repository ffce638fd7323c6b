//! Each example does what its documentation says.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use crate::common::{Request, Server, binary, fresh_key};

fn order(path: &str, amount: u32) -> Request {
    let body = format!(r#"{{"amount":{amount},"currency":"EUR"}}"#);
    Request::post(path).header("Content-Type", "application/json").body(body)
}

#[test]
fn payments() {
    let server = Server::example("payments", &[]);
    let first = server.send(order("/charges", 100).key("order-17"));
    assert_eq!((first.status, first.value("location")), (201, Some("/charges/1")));
    let again = server.send(order("/charges", 100).key("order-17"));
    assert_eq!((again.status, again.is_replay(), &again.body), (409, true, &first.body));
    server.send(order("/charges", 999).key("order-17")).is_problem(422, "key-reused");
    server.send(order("/charges", 100)).is_problem(400, "missing-key");
    for n in 0..2 {
        let refund = server.send(Request::post("/charges/1/refund").key("refund-17"));
        assert_eq!((refund.status, refund.json::<serde_json::Value>()["refunded"].as_bool()), (200, Some(true)), "{n}");
        assert!(!refund.is_replay());
    }
    assert_eq!(server.send(Request::post("/webhooks/bank")).status, 204);
    assert_eq!(server.send(order("/quotes", 100)).status, 200);
    assert_eq!(server.send(order("/quotes", 100).key("quote-1")).status, 200);
    assert!(server.send(order("/quotes", 100).key("quote-1")).is_replay());
    let charges: Vec<serde_json::Value> = server.send(Request::get("/charges")).json();
    assert_eq!(charges.len(), 1, "one charge, however often the request was sent");
}

/// Starts a proxy that resets its first `resets` connections after the request has arrived. Later ones pass unchanged.
fn flaky_proxy(to: std::net::SocketAddr, resets: usize) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().flatten().enumerate() {
            let mut server = TcpStream::connect(to).unwrap();
            let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            if n < resets {
                // Read the whole request, in however many pieces it arrives. Its body ends in a brace.
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                while !request.ends_with(b"}") {
                    let length = from.read(&mut piece).unwrap();
                    assert!(length > 0, "the client sends a whole request");
                    request.extend(&piece[..length]);
                }
                server.write_all(&request).unwrap();
                // The operation runs to its end, and its answer never reaches the client.
                let _ = back.read(&mut piece);
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                continue;
            }
            std::thread::spawn(move || std::io::copy(&mut from, &mut server));
            std::thread::spawn(move || std::io::copy(&mut back, &mut &client));
        }
    });
    address
}

#[test]
fn client() {
    let server = Server::example("payments", &[]);
    let proxy = flaky_proxy(server.address, 2);
    let body = r#"{"amount":100,"currency":"EUR"}"#;
    let run = |address: std::net::SocketAddr, body: &str| {
        let url = format!("http://{address}/charges");
        let output = Command::new(binary("client")).args([&url, body]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (done, said, attempts) = run(proxy, body);
    assert!(done && said.contains(r#""id":1"#), "{attempts}");
    assert!(attempts.contains("attempt 3: 409"), "two resets, then the replay: {attempts}");
    let charges: Vec<serde_json::Value> = server.send(Request::get("/charges")).json();
    assert_eq!(charges.len(), 1, "three attempts, one charge");
    let (done, _, attempts) = run(server.address, "not json");
    assert!(!done && attempts.contains("attempt 1: 400") && !attempts.contains("attempt 2"), "{attempts}");
}

/// Once, it ended with success, because the answer was marked as a replay.
#[test]
fn client_takes_a_replayed_failure_for_a_failure() {
    let variables = [("IDEMPOTENCY_KEY__PROFILE", "stripe"), ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "409")];
    let server = Server::example("payments", &variables);
    let url = format!("http://{}/charges", flaky_proxy(server.address, 2));
    let output = Command::new(binary("client")).args([&url, "{no json}"]).output().unwrap();
    let attempts = String::from_utf8_lossy(&output.stderr);
    assert!(attempts.contains("attempt 3: 409"), "two resets, then the replay: {attempts}");
    assert!(!output.status.success(), "{attempts}");
}

#[test]
fn scopes() {
    let server = Server::example("scopes", &[]);
    assert_eq!(server.send(Request::post("/notes")).status, 201);
    for path in ["/orders", "/payments", "/payments/uploads"] {
        server.send(Request::post(path)).is_problem(400, "missing-key");
        let key = fresh_key();
        assert_eq!(server.post(path, &key).status, 201);
        assert!(server.post(path, &key).is_replay());
    }
    let large = vec![0; 3 << 20];
    assert_eq!(server.send(Request::post("/payments/uploads").key(&fresh_key()).body(large.clone())).status, 201);
    server.send(Request::post("/payments").key(&fresh_key()).body(large)).is_problem(413, "body-too-large");
}

#[test]
fn manual() {
    let server = Server::example("manual", &[]);
    let key = fresh_key();
    let send = |body: &str| server.send(Request::post("/transfers").key(&key).body(body));
    let empty = Request::post("/transfers").key("another");
    assert_eq!(server.send(empty.clone()).body, b"nothing to transfer\n");
    let first = send("x");
    assert!(first.body.starts_with(b"transferred under fence "));
    assert_eq!(send("x").body, first.body);
    assert_eq!(server.send(empty).body, b"nothing to transfer\n");
    assert_eq!(server.send(Request::post("/transfers").key("another").body("x")).status, 200, "the key was free");
}

#[test]
fn custom_storage() {
    let folder = std::env::temp_dir().join(fresh_key());
    let variables = [("FOLDER", folder.to_str().unwrap())];
    let key = fresh_key();
    let server = Server::example("custom_storage", &variables);
    assert_eq!(server.post("/orders", &key).status, 201);
    drop(server);
    let restarted = Server::example("custom_storage", &variables);
    let again = restarted.post("/orders", &key);
    assert!(again.is_replay(), "records survive a restart");
    assert_eq!(again.body, b"ordered\n");
    // A damaged record is an error, never a second run.
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
    }
    restarted.post("/orders", &key).is_problem(503, "store-unavailable");
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn client_looks_up_the_answer_of_an_operation_that_goes_on() {
    let server = Server::start(&[]);
    let url = format!("http://{}/async?ms=600", server.address);
    let output = Command::new(binary("client"))
        .args([&url, "{}"])
        .envs([("PREFER", "respond-async"), ("AUTHORIZATION", "Bearer alice-1")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("202 Accepted, the operation goes on"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(r#""n":1"#));
}
