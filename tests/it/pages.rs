//! What a person sees in a browser.

use serde::Deserialize;

use crate::common::{Browser, Server};

/// What the page says of one request.
#[derive(Debug, Deserialize, PartialEq)]
struct Lane {
    /// `ran`, `replayed`, `refused`, or `lost`: no answer came.
    outcome: String,
    status: String,
    charge: Option<String>,
}

/// Presses the button of the payments example, and reads what came of it: the lanes, and how many charges were made.
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
    // A slow machine may cut the connection off when the answer has come already: then once more.
    let mut presses = 0;
    let (lanes, charges) = loop {
        presses += 1;
        let (lanes, charges) = pay(&browser);
        assert_eq!(charges, presses, "{lanes:?}");
        if lanes[0].outcome == "lost" {
            break (lanes, charges);
        }
        assert!(presses < 5, "never cut off: {lanes:?}");
    };
    let lost = Lane { outcome: "lost".into(), status: String::new(), charge: None };
    let retried = Lane { outcome: "replayed".into(), status: "409".into(), charge: Some(charges.to_string()) };
    assert_eq!(lanes, [lost, retried]);
    // Without a key the same loss is paid for twice.
    browser.click("#key");
    let (lanes, both) = pay(&browser);
    assert_eq!((lanes.len(), both - charges), (2, 2), "{lanes:?}");
}
