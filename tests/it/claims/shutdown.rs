//! SIGTERM: running operations finish and are stored, and new ones are refused with `Retry-After`.

use crate::common::{Request, RunLog, Server, eventually, fresh_key};

#[test]
fn running_operations_finish_and_new_ones_are_refused() {
    let mut server = Server::start(&[]);
    let mut idle = server.connect();
    assert_eq!(idle.send(&Request::get("/healthz")).status, 200);
    let mut connected = server.connect();
    connected.write(&Request::post("/slow?ms=900").key(&fresh_key()).bytes());
    server.wait_for_runs("/slow", 1);
    server.terminate();
    eventually("the refusal of new operations", || {
        let reply = idle.send(&Request::post("/items").key(&fresh_key()));
        if reply.status == 503 {
            reply.is_problem(503, "shutting-down");
            Ok(())
        } else {
            Err(reply.status)
        }
    });
    assert_eq!(idle.send(&Request::post("/exempt")).status, 201, "unprotected routes go on until actix stops");
    assert_eq!(connected.reply().status, 200);
    eventually("the exit", || server.has_exited().map(|status| assert!(status.success())).ok_or(()));
}

/// The graceful stop of actix-web waits for connections, so it does not know of operations whose client has left.
#[test]
fn operations_of_lost_connections_are_waited_for() {
    let log = RunLog::new();
    let mut server = Server::start(&[("RUN_LOG", log.path())]);
    let mut connection = server.connect();
    connection.write(&Request::post("/slow?ms=700").key(&fresh_key()).bytes());
    server.wait_for_runs("/slow", 1);
    connection.reset();
    server.terminate();
    eventually("the exit", || server.has_exited().map(|status| assert!(status.success())).ok_or(()));
    assert_eq!((log.count("start"), log.count("end")), (1, 1));
}

#[test]
fn waiting_has_an_end() {
    let mut server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__DRAIN_TIMEOUT", "0.2")]);
    let mut connection = server.connect();
    connection.write(&Request::post("/slow?ms=600000").key(&fresh_key()).bytes());
    server.wait_for_runs("/slow", 1);
    connection.reset();
    server.terminate();
    eventually("the exit", || server.has_exited().map(drop).ok_or(()));
}
