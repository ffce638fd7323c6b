//! Which payloads are the same operation: JSON by its values, forms by their parts.

use crate::common::{Reply, Request, Server, fresh_key};

/// A server that compares JSON bodies by their values.
fn canonical() -> Server {
    Server::start(&[("IDEMPOTENCY_KEY__ENCODER", "canonical-json"), ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "4MiB")])
}

/// Sends two bodies under one key; returns the second answer.
fn second(server: &Server, kinds: [&str; 2], bodies: [&str; 2]) -> Reply {
    let key = fresh_key();
    let send = |n: usize| {
        server.send(Request::post("/echo").key(&key).header("Content-Type", kinds[n]).body(bodies[n].to_owned()))
    };
    let first = send(0);
    assert_eq!(first.status, 200, "{first:?}");
    send(1)
}

#[test]
fn canonical_json_tells_amounts_apart_that_are_the_same_double() {
    let server = canonical();
    for [one, other] in [
        ["1.000000000000000001", "1.000000000000000002"],
        ["1234567890123456.78", "1234567890123456.79"],
        ["0.1", "0.1000000000000000055"],
        ["9007199254740993.0", "9007199254740992.0"],
        ["1e300", "1.0000000000000001e300"],
        ["18446744073709551616", "18446744073709551617"],
    ] {
        let [one, other] = [one, other].map(|amount| format!("{{\"amount\":{amount}}}"));
        let reply = second(&server, ["application/json"; 2], [&one, &other]);
        reply.is_problem(422, "key-reused");
        assert!(second(&server, ["application/json"; 2], [&one, &one]).is_replay(), "{one}");
    }
}

#[test]
fn canonical_json_takes_values_as_equal_however_they_are_written() {
    let server = canonical();
    for [one, other] in [
        [r#"{"amount":0}"#, r#"{"amount":-0}"#],
        [r#"{"amount":-0.0}"#, r#"{"amount":0}"#],
        [r#"{"a":1,"b":[true,"x"]}"#, "{ \"b\" : [ true, \"\\u0078\" ],\n\t\"a\":1 }"],
        [r#"{"amount":12.50}"#, r#"{"amount":12.5}"#],
    ] {
        assert!(second(&server, ["application/json"; 2], [one, other]).is_replay(), "{one} {other}");
    }
    second(&server, ["application/json"; 2], ["[1,2]", "[2,1]"]).is_problem(422, "key-reused");
}

#[test]
fn canonical_json_compares_large_bodies_by_their_values() {
    let server = canonical();
    let numbers = |blank: &str, last: u32| {
        let list: Vec<String> = (0..300_000).chain([last]).map(|n| format!("{n}.25")).collect();
        format!("[{}]", list.join(&format!(",{blank}")))
    };
    let one = numbers("", 0);
    assert!(one.len() > 2 << 20);
    assert!(second(&server, ["application/json"; 2], [&one, &numbers(" ", 0)]).is_replay());
    second(&server, ["application/json"; 2], [&one, &numbers("", 1)]).is_problem(422, "key-reused");
}

fn form(boundary: &str, amount: &str) -> String {
    let part = |name: &str, value: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    format!("{}{}--{boundary}--\r\n", part("amount", amount), part("file", "%PDF"))
}

/// Most clients make a new boundary for each attempt.
#[test]
fn a_multipart_form_with_another_boundary_is_the_same_payload() {
    let server = Server::start(&[]);
    let kind = |boundary: &str| format!("multipart/form-data; boundary={boundary}");
    let (a, b) = ("aaaa", "----WebKitFormBoundary7MA4YWxk");
    assert!(second(&server, [&kind(a), &kind(b)], [&form(a, "100"), &form(b, "100")]).is_replay());
    second(&server, [&kind(a), &kind(b)], [&form(a, "100"), &form(b, "999")]).is_problem(422, "key-reused");
    second(&server, [&kind(a), &kind(a)], [&form(a, "100"), &form(a, "999")]).is_problem(422, "key-reused");
    // What stands outside of the parts makes a body another one.
    let more = form(b, "100") + "more";
    second(&server, [&kind(a), &kind(b)], [&form(a, "100"), &more]).is_problem(422, "key-reused");
}

/// A header may have several lines, which mean the same as one line with commas.
#[test]
fn every_line_of_a_header_of_the_fingerprint_counts() {
    for body in ["buffer", "stream"] {
        let server = Server::start(&[("IDEMPOTENCY_KEY__BODY", body)]);
        for name in ["Content-Encoding", "Content-Type"] {
            let key = fresh_key();
            let send = |lines: &[&str]| {
                let request = Request::post("/items").key(&key).body("a");
                server.send(lines.iter().fold(request, |request, line| request.header(name, line)))
            };
            assert_eq!(send(&["x-one", "x-two"]).status, 201);
            send(&["x-one"]).is_problem(422, "key-reused");
            send(&["x-two", "x-one"]).is_problem(422, "key-reused");
            send(&["x-one", "x-two", "x-two"]).is_problem(422, "key-reused");
            assert!(send(&["x-one", "x-two"]).is_replay(), "{name}");
            assert!(send(&["x-one, x-two"]).is_replay(), "{name}");
        }
    }
}
