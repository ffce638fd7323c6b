//! The page of the payments example and the operators' page, as a person uses them.

use serde::Deserialize;

use crate::common::{Browser, Request, Server, at_once, fresh_key};

/// The lane of one request on the page of the payments example.
#[derive(Debug, Deserialize, PartialEq)]
struct Lane {
    /// `ran`, `replayed`, `refused`, or `lost` (no answer came).
    outcome: String,
    status: String,
    charge: Option<String>,
}

/// Presses the button of the payments example. Returns the lanes, and how many charges were made so far.
fn pay(browser: &Browser) -> (Vec<Lane>, u64) {
    let presses = "return document.querySelectorAll('.try').length";
    let before = browser.run(presses);
    browser.click("#pay");
    browser.wait_for("#tries > .try:first-child[data-charged]");
    browser.wait_for("#pay:enabled");
    assert_eq!(browser.run(presses).as_u64(), before.as_u64().map(|before| before + 1));
    let lanes = browser.run(
        "return Array.from(document.querySelectorAll('#tries > .try:first-child .lane'), (lane) => ({
            outcome: lane.dataset.outcome,
            status: lane.querySelector('.status').textContent,
            charge: lane.dataset.charge ?? null,
        }))",
    );
    let charges = browser.text("#charges").parse().unwrap();
    (serde_json::from_value(lanes).unwrap(), charges)
}

fn payments() -> (Server, Browser) {
    let server = Server::example("payments", &[]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/", server.address));
    assert_eq!(browser.text("#charges"), "0");
    (server, browser)
}

fn count(lanes: &[Lane], outcome: &str, status: &str) -> usize {
    lanes.iter().filter(|lane| lane.outcome == outcome && lane.status == status).count()
}

#[test]
fn five_payments_with_a_key_charge_once() {
    let (_server, browser) = payments();
    for press in 1..=2 {
        let (lanes, charges) = pay(&browser);
        assert_eq!((count(&lanes, "ran", "201"), count(&lanes, "replayed", "409")), (1, 4), "{lanes:?}");
        assert!(lanes.iter().all(|lane| lane.charge == Some(press.to_string())), "{lanes:?}");
        assert_eq!(charges, press);
    }
    assert_eq!(browser.text("#tries > .try:first-child h2"), "5 requests, 1 charge");
}

#[test]
fn an_order_that_failed_in_the_middle_goes_on_and_charges_once() {
    let (_server, browser) = payments();
    browser.click("#order");
    browser.wait_for("#tries > .try:first-child[data-charged]");
    let lanes = browser.run(
        "return Array.from(document.querySelectorAll('#tries > .try:first-child .lane'), (lane) =>
            `${lane.querySelector('.status').textContent} ${lane.dataset.steps}`)",
    );
    assert_eq!(lanes, serde_json::json!(["503 ", "201 charge 1, ship 1, mail 2"]));
    assert_eq!(browser.text("#charges"), "1");
    assert_eq!(browser.text("#tries > .try:first-child h2"), "2 requests, 1 charge");
}

#[test]
fn five_payments_without_a_key_charge_five_times() {
    let (_server, browser) = payments();
    browser.click("#key");
    let (lanes, charges) = pay(&browser);
    assert_eq!(count(&lanes, "ran", "201"), 5, "{lanes:?}");
    assert_eq!(charges, 5);
    assert_eq!(browser.text("#tries > .try:first-child h2"), "5 requests, 5 charges");
}

#[test]
fn a_payment_whose_connection_was_lost_is_answered_to_the_retry() {
    let (_server, browser) = payments();
    browser.click("#reset");
    // On a slow machine the answer may arrive before the page cuts the connection. Then the button is pressed again.
    let mut presses = 0;
    let (lanes, charges) = loop {
        presses += 1;
        let (lanes, charges) = pay(&browser);
        assert_eq!(charges, presses, "{lanes:?}");
        if lanes[0].outcome == "lost" {
            break (lanes, charges);
        }
        assert!(presses < 5, "the connection was never cut before the answer: {lanes:?}");
    };
    let lost = Lane { outcome: "lost".into(), status: String::new(), charge: None };
    let retried = Lane { outcome: "replayed".into(), status: "409".into(), charge: Some(charges.to_string()) };
    assert_eq!(lanes, [lost, retried]);
    // Without a key, the same lost connection leads to two charges.
    browser.click("#key");
    let (lanes, both) = pay(&browser);
    assert_eq!((lanes.len(), both - charges), (2, 2), "{lanes:?}");
}

/// Opens the operators' page of a server that has one record, whose stored response contains HTML markup.
fn operators() -> (Server, Browser, Request) {
    let server = Server::start(&[]);
    let markup = "<img src=x onerror=document.title=1>";
    let request = Request::post("/echo").key("order-17").header("Authorization", "Bearer alice-1");
    let request = request.header("Content-Type", markup);
    assert!(String::from_utf8(server.send(request.clone()).body).unwrap().contains(markup));
    let browser = Browser::start();
    browser.open(&format!("http://{}/admin", server.address));
    browser.wait_for("#list > tr");
    (server, browser, request)
}

fn find(browser: &Browser, principal: &str) {
    browser.fill("#find-key", "order-17");
    browser.fill("#find-principal", principal);
    browser.click("#find-button");
}

#[test]
fn an_operator_finds_a_record_and_sees_its_body_as_text() {
    let (server, browser, request) = operators();
    find(&browser, "alice");
    browser.wait_for("#detail:not([hidden])");
    let detail = browser.text("#detail");
    assert!(detail.contains("completed") && !detail.contains("onerror"), "the body is only shown on request: {detail}");
    browser.click("#show-body");
    browser.wait_for("#body:not([hidden])");
    let replay = server.send(request);
    assert!(replay.is_replay());
    assert_eq!(browser.text("#body").as_bytes(), replay.body);
    assert_eq!(
        browser.run("return document.querySelectorAll('img').length"),
        0,
        "the body is shown as text, not as markup"
    );
}

#[test]
fn an_operator_sees_the_results_of_steps_on_request() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", "stripe-v2")]);
    assert_eq!(server.post("/steps?fail=3", &fresh_key()).status, 503);
    let browser = Browser::start();
    browser.open(&format!("http://{}/admin", server.address));
    browser.wait_for("#list > tr");
    browser.click("#list > tr button");
    browser.wait_for("#detail:not([hidden])");
    assert!(browser.text("#fields").contains("Step a") && browser.text("#results").is_empty());
    browser.click("#show-steps");
    browser.wait_for("#results:not([hidden])");
    let results = browser.text("#results");
    let lines: Vec<&str> = results.lines().collect();
    assert!(matches!(lines[..], [a, b] if a.starts_with("a: ") && b.starts_with("b: ")), "{results}");
}

#[test]
fn an_operator_does_not_find_a_key_of_somebody_else() {
    let (_server, browser, _) = operators();
    find(&browser, "bob");
    browser.wait_for("#message:not(:empty)");
    assert!(browser.text("#message").starts_with("No record of this key and principal"));
    assert_eq!(browser.run("return document.getElementById('detail').hidden"), true);
    // Neither the key nor the principal is in a URL.
    let urls = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name).join(' ')");
    let urls = urls.as_str().unwrap();
    assert!(urls.contains("/admin/find") && !urls.contains("order-17") && !urls.contains("bob"), "{urls}");
}

#[test]
fn an_operator_forgets_a_record_for_a_reason() {
    let (server, browser, request) = operators();
    browser.click("#list > tr button");
    browser.wait_for("#detail:not([hidden])");
    browser.fill("#reason", "  ");
    browser.click("#forget");
    browser.wait_for("#message.bad:not(:empty)");
    browser.fill("#reason", "settled with the customer");
    browser.click("#forget");
    browser.wait_for("#confirm[open]");
    assert!(server.send(request.clone()).is_replay(), "nothing is forgotten before the confirmation");
    browser.click("#forget-confirm");
    browser.wait_for("#message:not(.bad):not(:empty)");
    browser.wait_for("#list:empty");
    assert!(browser.text("#message").starts_with("Forgotten"));
    assert!(!server.send(request).is_replay(), "the key runs again");
}

#[test]
fn an_operator_is_told_that_a_running_operation_stays() {
    let (server, browser, _) = operators();
    let mut running = server.connect();
    running.write(&Request::post("/slow?ms=60000").key("slow").bytes());
    server.wait_for_runs("/slow", 1);
    browser.run("document.getElementById('state').value = 'in-flight'");
    browser.click("#refresh");
    browser.wait_for("#list > tr:only-child .in-flight");
    browser.click("#list > tr button");
    browser.wait_for("#detail:not([hidden])");
    browser.fill("#reason", "too slow");
    browser.click("#forget");
    browser.wait_for("#confirm[open]");
    browser.click("#forget-confirm");
    browser.wait_for("#message.bad:not(:empty)");
    assert!(browser.text("#message").contains("live owner"), "{}", browser.text("#message"));
}

#[test]
fn an_operator_turns_pages() {
    let (server, browser, _) = operators();
    at_once(10, |thread| {
        for n in 0..6 {
            assert_eq!(server.post("/items", &format!("item-{thread}-{n}")).status, 201);
        }
    });
    browser.click("#refresh");
    browser.wait_for("#list > tr:nth-child(50):last-child");
    browser.click("#more");
    // The 60 new records, and the one that was there before.
    browser.wait_for("#list > tr:nth-child(61):last-child");
    browser.wait_for("#more[hidden]");
    let distinct = "return new Set(Array.from(document.querySelectorAll('#list > tr'), (row) => row.dataset.id)).size";
    assert_eq!(browser.run(distinct), 61);
    // Only one of the stored responses has the status 200.
    browser.fill("#status", "200\n");
    browser.wait_for("#list > tr:only-child");
}
