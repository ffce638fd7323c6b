"""What happens to a client's requests, and how they must end."""

import dataclasses
import json

import proxy as cut

PAYLOAD = json.dumps({"amount": "100", "currency": "eur"})


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One request of a client. Unless it is a refusal that must not be sent again, it must run exactly once."""

    name: str
    # Applied to the client's first attempts, in order.
    cuts: tuple = ()
    method: str = "POST"
    path: str = "/items"
    # The status that the client sees at the end, and whether it is that of a replay.
    status: int = 201
    replay: bool = False
    # The refusal that the client must meet: the last part of its type.
    refusal: str | None = None
    # The refusal is the end: a client that sends the request again makes a mistake.
    final: bool = False
    # Settings of the server besides those of the client's row.
    settings: tuple = ()
    # The library's own policy, as it is without any configuration.
    defaults: bool = False
    # A file as `multipart/form-data`.
    upload: bool = False
    # The number of attempts, where exactly one number is right.
    attempts: int | None = None
    # The client's own limit for one attempt, in ms.
    timeout: int = 10_000
    # The port of the server opens when the client has said that it was refused.
    refused: bool = False


NO_WAIT = (("lock.timeout", "0"),)
FULL = (("limits.max_in_flight", "1"),)

EVERY = [
    Scenario("request lost", (cut.lose_request,), attempts=2),
    Scenario("request reset", (cut.reset_request,), attempts=2),
    Scenario("answer lost", (cut.lose_answer,), replay=True, attempts=2),
    Scenario("answer reset", (cut.reset_answer,), replay=True, attempts=2),
    Scenario("half an answer", (cut.halve_answer,), replay=True, attempts=2),
    Scenario("cut while it runs", (cut.leave_running,), path="/slow?ms=700", status=200, replay=True, attempts=2),
    Scenario("timeout", (cut.hold_answer,), replay=True, attempts=2, timeout=2500),
    Scenario("cut twice", (cut.lose_request, cut.lose_answer), replay=True, attempts=3),
    Scenario("failure stored", (cut.lose_answer,), path="/status/402", status=402, replay=True, attempts=2),
    Scenario("in flight, waits", (cut.let_same_run,), path="/slow?ms=700", status=200, replay=True, attempts=1),
    Scenario(
        "in flight, refused", (cut.let_same_run,), path="/slow?ms=700", status=200, replay=True, refusal="in-flight",
        settings=NO_WAIT,
    ),
    Scenario("server full", (cut.let_other_run,), refusal="store-unavailable", settings=FULL),
    Scenario("key reused", (cut.use_key_before,), status=422, refusal="key-reused", final=True, attempts=1),
]

# Only for clients whose row speaks of it.
UPLOAD = Scenario("upload", (cut.lose_answer,), path="/echo", status=200, replay=True, upload=True, attempts=2)
DEFAULT_POST = Scenario("POST by default", (cut.lose_answer,), replay=True, defaults=True, attempts=2)
DEFAULT_PUT = dataclasses.replace(DEFAULT_POST, name="PUT by default", method="PUT", status=200)
DEFAULT_DELETE = dataclasses.replace(DEFAULT_POST, name="DELETE by default", method="DELETE", status=200)
FULL_POST = Scenario(
    "server full, POST by default", (cut.let_other_run,), refusal="store-unavailable", settings=FULL, defaults=True
)
FULL_PUT = dataclasses.replace(FULL_POST, name="server full, PUT by default", method="PUT", status=200)
REFUSED = Scenario("connection refused", refused=True, attempts=1)
# Without the header, the client would send a request again that had this response.
HINT_409 = Scenario("should-retry: false", path="/status/409", status=409, attempts=1)
HINT_500 = Scenario("should-retry: false", path="/status/500", status=500, attempts=1)
