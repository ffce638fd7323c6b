//! Connections with TLS: to one server, to a cluster, and to a primary behind sentinels. The servers want certificates of
//! their clients. Without the program `openssl`, or with a Redis that was built without TLS, these tests say so and end.

mod certificates;

use std::sync::Arc;

use super::{
    access::Access,
    cluster::Cluster,
    fixture::{Redis, free_port, program, server_at},
    sentinel::Sentinels,
};
use crate::common::{Reply, RunLog, Server, eventually, fresh_key};

pub(super) use self::certificates::Certificates;

/// The certificates of one test. `None`: something is missing that the tests need.
fn certificates() -> Option<Arc<Certificates>> {
    // It ends in any case: without certificates there is no TLS.
    let asked = std::process::Command::new(program()).args(["--port", "0", "--tls-port", "1"]).output();
    let said = asked.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    if said.contains("'tls-port") || said.contains("Failed finding TLS support") {
        eprintln!("SKIPPED: {} was built without TLS", program().display());
        return None;
    }
    let made = Certificates::make();
    if made.is_none() {
        eprintln!("SKIPPED: the program openssl is missing");
    }
    made.map(Arc::new)
}

fn start(certificates: &Arc<Certificates>) -> Redis {
    Redis::start_at(free_port, &[], certificates.into())
}

/// TLS begins slowly in a build without optimisation, and the machine may be busy.
const PATIENT: (&str, &str) = ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "5");

/// The first answer but 503. Sentinels that have not answered within a quarter of a second count as absent.
fn answer(server: &Server, key: &str, is_replay: bool) -> Reply {
    let mut answer = None;
    eventually("an answer", || {
        let reply = server.post("/items", key);
        if reply.status == 503 {
            return Err(reply.status);
        }
        assert_eq!((reply.status == 201, reply.is_replay()), (!is_replay, is_replay), "{reply:?}");
        answer = Some(reply);
        Ok(())
    });
    answer.expect("an answer")
}

/// An operation runs at one process, and is replayed by the other.
fn run_and_replay(server: impl Fn(&RunLog) -> Server) {
    let log = RunLog::new();
    let [one, two] = [0, 1].map(|_| server(&log));
    for _ in 0..5 {
        let key = fresh_key();
        let first = answer(&one, &key, false);
        for server in [&one, &two] {
            assert_eq!(answer(server, &key, true).body, first.body);
        }
    }
    assert_eq!(log.count("start"), 5);
}

/// The error with which a server does not start. Nothing of a file is in it.
fn start_error(location: &str) -> String {
    let output = Server::fails_to_start(&[
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"),
        ("IDEMPOTENCY_KEY__STORAGE__LOCATION", location),
        // An attempt to connect that fails is told of when its time is over.
        ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "2"),
    ]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{location}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("BEGIN") && !text.contains(certificates::NO_PEM), "{text}");
    text
}

#[track_caller]
fn says(text: &str, one_of: &[&str]) {
    assert!(one_of.iter().any(|words| text.contains(words)), "{text}");
}

#[test]
fn a_redis_with_tls_serves_clients_with_a_certificate() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    run_and_replay(|log| redis.server(log, &[PATIENT]));
}

#[test]
fn a_cluster_with_tls_serves_clients_with_a_certificate() {
    let Some(certificates) = certificates() else { return };
    let cluster = Cluster::start_with((&certificates).into(), &["--tls-cluster", "yes"]);
    run_and_replay(|log| cluster.server(log, &[PATIENT]));
    run_and_replay(|log| cluster.server(log, &[PATIENT, ("IDEMPOTENCY_KEY__STORAGE__REPLICAS", "1")]));
}

#[test]
fn a_primary_behind_sentinels_with_tls_serves_clients_with_a_certificate() {
    let Some(certificates) = certificates() else { return };
    let sentinels = Sentinels::start_with(1, &certificates, &certificates);
    let more = [PATIENT, ("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn")];
    run_and_replay(|log| sentinels.server(log, &more));
    let old = sentinels.primary_port();
    sentinels.fail_over();
    assert_ne!(sentinels.primary_port(), old);
    run_and_replay(|log| sentinels.server(log, &more));
}

#[test]
fn a_client_without_a_certificate_is_refused_with_the_reason() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    let ca = certificates.path("ca.crt");
    let text = start_error(&format!("rediss://127.0.0.1:{}/0?ca_file={ca}", redis.port));
    says(&text, &["CertificateRequired", "ertificate required"]);
}

#[test]
fn a_server_that_another_authority_has_certified_is_refused_with_the_reason() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    let url = redis.url();
    says(&start_error(&url.replace("ca.crt", "other.crt")), &["UnknownIssuer"]);
    // And so it is by the system's authorities, which count without a file.
    let ca = format!("ca_file={}&", certificates.path("ca.crt"));
    assert!(url.contains(&ca), "{url}");
    says(&start_error(&url.replace(&ca, "")), &["UnknownIssuer", "ertificate"]);
}

#[test]
fn a_host_that_the_certificate_does_not_name_is_refused_with_the_reason() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    let text = start_error(&redis.url().replace("127.0.0.1", "localhost"));
    says(&text, &["not valid for name", "NotValidForName"]);
}

#[test]
fn a_location_without_tls_does_not_reach_a_server_with_tls() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    let text = start_error(&format!("redis://127.0.0.1:{}/0", redis.port));
    says(&text, &["can't be reached"]);
}

/// Locations that are refused before anything is connected to.
#[test]
fn locations_whose_files_can_not_be_used_are_errors_that_name_the_parameter() {
    let Some(certificates) = Certificates::make() else { return };
    let [ca, certificate, key, no_pem] =
        ["ca.crt", "client.crt", "client.key", "no-pem.txt"].map(|file| certificates.path(file));
    let missing = certificates.path("missing.crt");
    for (plain, tls, rest) in [
        ("redis", "rediss", "127.0.0.1:1/0"),
        ("redis-cluster", "rediss-cluster", "127.0.0.1:1,127.0.0.1:2/"),
        ("redis-sentinel", "rediss-sentinel", "127.0.0.1:1,127.0.0.1:2/mymaster"),
    ] {
        let error = |scheme: &str, query: String| {
            let text = start_error(&format!("{scheme}://{rest}?{query}"));
            says(&text, &["setting `storage.location`"]);
            text
        };
        says(&error(tls, format!("ca_file={ca}&certificate_file={certificate}")), &["key_file"]);
        says(&error(tls, format!("ca_file={ca}&key_file={key}")), &["certificate_file"]);
        says(&error(tls, format!("ca_file={missing}")), &["ca_file"]);
        says(&error(tls, format!("certificate_file={certificate}&key_file={missing}")), &["key_file"]);
        says(&error(tls, format!("ca_file={no_pem}")), &["ca_file"]);
        says(&error(tls, format!("certificate_file={no_pem}&key_file={key}")), &["certificate_file"]);
        says(&error(tls, format!("certificate_file={certificate}&key_file={no_pem}")), &["key_file"]);
        says(&error(plain, format!("ca_file={ca}")), &["rediss"]);
        says(&error(plain, format!("certificate_file={certificate}&key_file={key}")), &["rediss"]);
        // What follows an `@` would be taken for the hosts.
        says(&error(tls, format!("ca_file=/etc/a@127.0.0.1:1/{}", "ca.crt")), &["%40"]);
        says(&error(plain, "ca_file=/etc/a@127.0.0.1:1/ca.crt".to_owned()), &["%40", "rediss"]);
    }
}

#[test]
fn a_path_may_have_any_character_as_a_percent_encoded_byte() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    let odd = certificates.copied_as("c a@é&.crt");
    let encoded = odd.replace(' ', "%20").replace('@', "%40").replace('é', "%C3%A9").replace('&', "%26");
    let url = redis.url().replace(&certificates.path("ca.crt"), &encoded);
    assert!(url.contains("%C3"), "{url}");
    run_and_replay(|log| server_at(&url, log, &[PATIENT]));
}

/// So that the tests above are about TLS.
#[test]
fn a_redis_with_tls_has_no_other_port() {
    let Some(certificates) = certificates() else { return };
    let redis = start(&certificates);
    let without: Access = "".into();
    assert!(without.client(redis.port).unwrap().get_connection().is_err());
    assert!(redis.ask::<String>(&redis::cmd("PING")).is_ok());
}
