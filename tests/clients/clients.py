"""The clients of the table in docs/clients.md, and which retries are theirs."""

import dataclasses

from scenarios import DEFAULT_DELETE, DEFAULT_POST, DEFAULT_PUT, EVERY, FULL_POST, FULL_PUT, HINT_409, HINT_500
from scenarios import REFUSED, UPLOAD

CONNECTION = {"request lost", "request reset", "answer lost", "answer reset", "cut while it runs", "cut twice"}
CONNECTION |= {"failure stored", "half an answer"}
DEFAULTS = (DEFAULT_POST, DEFAULT_PUT, DEFAULT_DELETE)


@dataclasses.dataclass(frozen=True)
class Client:
    """A client, which runs the program `with_NAME` in the folder of its registry."""

    name: str
    registry: str
    # Scenarios besides `EVERY`.
    also: tuple = ()
    # Scenarios in which the library does not retry, so that its caller has to.
    by_caller: frozenset = frozenset()
    # Scenarios in which the library may send again before the time of Retry-After.
    early: frozenset = frozenset()
    # The numbers of attempts that are more than a scenario needs.
    attempts: dict = dataclasses.field(default_factory=dict)
    # The names of the library's errors, by the refusal.
    errors: dict = dataclasses.field(default_factory=dict)

    @property
    def scenarios(self):
        return [*EVERY, *self.also]


def client(name, registry, *also, by_caller=(), early=(), attempts=None, **errors):
    errors = {refusal.replace("_", "-"): error for refusal, error in errors.items()}
    return Client(name, registry, also, frozenset(by_caller), frozenset(early), attempts or {}, errors)


REFUSED_AT_FIRST = {"in flight, refused", "server full"}

CLIENTS = [
    client(
        "stripe-node", "npm", HINT_500,
        by_caller={"half an answer"}, early=REFUSED_AT_FIRST, key_reused="StripeIdempotencyError",
    ),
    client(
        "stripe-python", "pypi", HINT_500,
        by_caller={"half an answer"}, early=REFUSED_AT_FIRST, key_reused="IdempotencyError",
    ),
    client("openai", "pypi", HINT_409, UPLOAD, key_reused="UnprocessableEntityError"),
    client("httpx", "pypi", REFUSED, UPLOAD, by_caller=CONNECTION | REFUSED_AT_FIRST | {"timeout", "upload"}),
    client("urllib3", "pypi", UPLOAD, *DEFAULTS, by_caller={"POST by default"}),
    client("requests", "pypi", UPLOAD, by_caller={"in flight, refused", "half an answer"}),
    # By default, the library retries a POST after a lost connection, and not after a 503.
    client(
        "axios-retry", "npm", UPLOAD, *DEFAULTS, FULL_POST, FULL_PUT,
        by_caller={"server full, POST by default"},
    ),
    client("got", "npm", UPLOAD, *DEFAULTS, by_caller={"POST by default", "upload"}),
    client("ky", "npm", UPLOAD, *DEFAULTS, by_caller={"POST by default", "half an answer"}),
    # The library asks for the other half with `Range`, gets the whole replay, and gives up.
    client(
        "undici", "npm", *DEFAULTS,
        by_caller={"POST by default", "half an answer"}, attempts={"half an answer": 3},
    ),
    client("reqwest-retry", "cargo", by_caller={"in flight, refused", "half an answer"}, early={"server full"}),
    client("curl", "curl", UPLOAD, DEFAULT_POST, by_caller={"in flight, refused", "POST by default"}),
]
