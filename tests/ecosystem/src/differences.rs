//! The differences that are known, each with its reason. README.md has the same table.

use std::fmt::Write as _;

use crate::case::{Case, MOUNTINGS, Mounting, OUTCOMES, Outcome, Place};

/// A difference that is known. It must occur in each case that it names.
pub struct Difference {
    pub layers: &'static [&'static str],
    pub place: Place,
    pub outcomes: &'static [Outcome],
    pub mountings: &'static [Mounting],
    /// Each is found in each case: as the beginning of a finding, with `#` for any number.
    pub what: &'static [&'static str],
    pub reason: &'static str,
}

/// The mountings at which a wrap asks by a copy of the request who governs it, because others may be inside.
const ASKING: &[Mounting] = &[Mounting::NestedScope, Mounting::LikeOperators];

/// The outcomes whose second request is replayed.
const REPLAYS: &[Outcome] = &[Outcome::Replay, Outcome::ClientLeaves];

const BY_A_COPY: &str = "A wrap that may have others inside routes a copy of each request, to ask who governs it, and \
    drops the future unpolled (docs/policies.md, Caveats). This layer acts already when it is called, so it acts for \
    the copy too. It belongs outside.";

const NO_COOKIE: &str =
    "The client that left has no cookie. Its replay brings one only with the setting `replay_cookies`.";

const FIRST_REFUSAL: &str = "Where others may be inside, the first refusal of a request without a key at each route \
    comes after the request itself was routed. It comes with another one, which has nothing but its head \
    (docs/layers.md).";

const LOST: &str = "The request is lost with the handler that panicked. The 500 comes with another one, which has \
    neither a route nor what the layer has put into it (docs/layers.md).";

pub const DIFFERENCES: &[Difference] = &[
    Difference {
        layers: &["actix-session", "actix-identity", "actix-csrf", "actix-web-flash-messages"],
        place: Place::Inside,
        outcomes: REPLAYS,
        mountings: &MOUNTINGS,
        what: &["answer 2: no `set-cookie`"],
        reason: "Cookies are not stored, unless the setting `replay_cookies` says so.",
    },
    Difference {
        layers: &["actix-session"],
        place: Place::Inside,
        outcomes: &[Outcome::ClientLeaves],
        mountings: &MOUNTINGS,
        what: &["answer 3: another body", "seen less: load: "],
        reason: NO_COOKIE,
    },
    Difference {
        layers: &["actix-identity"],
        place: Place::Inside,
        outcomes: &[Outcome::ClientLeaves],
        mountings: &MOUNTINGS,
        what: &["answer 3: no `set-cookie`", "answer 3: another body", "seen less: load: ", "seen less: update: "],
        reason: NO_COOKIE,
    },
    Difference {
        layers: &["actix-web-flash-messages"],
        place: Place::Inside,
        outcomes: &[Outcome::ClientLeaves],
        mountings: &MOUNTINGS,
        what: &["answer 3: another body"],
        reason: NO_COOKIE,
    },
    Difference {
        layers: &["actix-web-flash-messages"],
        place: Place::Outside,
        outcomes: &[Outcome::ClientLeaves],
        mountings: &MOUNTINGS,
        what: &[
            "answer 2: another `set-cookie`",
            "answer 2: another `x-run`",
            "answer 2: another body",
            "answer 2: no mark of a replay",
            "answer 3: another body",
            "seen less: runs of the handler: 1",
            "seen more: runs of the handler: 2",
        ],
        reason: "An operation that goes on without its client has lost the layer's task-local, so its handler panics \
            half way, and the retry runs again (docs/layers.md, Layers with task-locals). The layer belongs inside.",
    },
    Difference {
        layers: &["tracing-actix-web"],
        place: Place::Outside,
        outcomes: &[Outcome::ClientLeaves],
        mountings: &MOUNTINGS,
        what: &["seen more: an event in the span of a request"],
        reason: "The operation goes on without its client, and the span with it. On bare actix-web it ends half way.",
    },
    Difference {
        layers: &["actix-cors"],
        place: Place::Inside,
        outcomes: REPLAYS,
        mountings: &MOUNTINGS,
        what: &["answer 2: no `access-control-allow-origin`", "answer 2: no `access-control-expose-headers`"],
        reason: "`Access-Control-*` is for one origin, so it is not stored. CORS belongs outside.",
    },
    Difference {
        layers: &["actix-governor"],
        place: Place::Inside,
        outcomes: REPLAYS,
        mountings: &MOUNTINGS,
        what: &["answer 2: no `x-ratelimit-limit`", "answer 2: no `x-ratelimit-remaining`"],
        reason: "The state of a quota is of one moment, so it is not stored.",
    },
    Difference {
        layers: &["actix-governor"],
        place: Place::Inside,
        outcomes: &OUTCOMES,
        mountings: ASKING,
        what: &[
            "answer #: another `x-ratelimit-remaining`",
            "seen less: left of the quota",
            "seen more: left of the quota",
        ],
        reason: BY_A_COPY,
    },
    Difference {
        layers: &["tracing-actix-web"],
        place: Place::Inside,
        outcomes: &OUTCOMES,
        mountings: ASKING,
        what: &["seen more: closed: http.method POST, http.route default"],
        reason: BY_A_COPY,
    },
    Difference {
        layers: &["opentelemetry-instrumentation-actix-web"],
        place: Place::Inside,
        outcomes: &OUTCOMES,
        mountings: ASKING,
        what: &[
            "seen more: span POST default",
            "seen more: http.server.request.body.size: # of http.request.method POST, http.route default",
            "seen more: http.server.active_requests: # of http.request.method POST, http.route default",
        ],
        reason: BY_A_COPY,
    },
    Difference {
        layers: &["tracing-actix-web"],
        place: Place::Inside,
        outcomes: &[Outcome::MissingKey],
        mountings: ASKING,
        what: &["seen more: closed: http.method POST, http.route /api/pay/{id}"],
        reason: FIRST_REFUSAL,
    },
    Difference {
        layers: &["opentelemetry-instrumentation-actix-web"],
        place: Place::Inside,
        outcomes: &[Outcome::MissingKey],
        mountings: ASKING,
        what: &[
            "seen more: span POST /api/pay/{id}",
            "seen more: http.server.request.body.size: # of http.request.method POST, http.route /api/pay/{id}",
            "seen more: http.server.active_requests: # of http.request.method POST, http.route /api/pay/{id}",
            "seen less: http.server.request.body.size: # of http.request.method POST, http.route /api/pay/{id}",
            "seen less: http.server.active_requests: # of http.request.method POST, http.route /api/pay/{id}",
        ],
        reason: FIRST_REFUSAL,
    },
    Difference {
        layers: &["actix-identity"],
        place: Place::Outside,
        outcomes: &[Outcome::MissingKey],
        mountings: ASKING,
        what: &["answer 2: no `set-cookie`", "seen less: update: "],
        reason: FIRST_REFUSAL,
    },
    Difference {
        layers: &["actix-web-prom"],
        place: Place::Outside,
        outcomes: &[Outcome::MissingKey],
        mountings: ASKING,
        what: &[
            "seen more: api_http_requests_total of /api/pay/",
            "seen more: api_http_requests_duration_seconds of /api/pay/",
            "seen less: api_http_requests_total of /api/pay/{id}",
            "seen less: api_http_requests_duration_seconds of /api/pay/{id}",
        ],
        reason: FIRST_REFUSAL,
    },
    Difference {
        layers: &["actix-identity"],
        place: Place::Outside,
        outcomes: &[Outcome::Panic],
        mountings: &MOUNTINGS,
        what: &["answer 2: no `set-cookie`", "seen less: update: "],
        reason: LOST,
    },
    Difference {
        layers: &["actix-web-prom"],
        place: Place::Outside,
        outcomes: &[Outcome::Panic],
        mountings: &MOUNTINGS,
        what: &[
            "seen more: api_http_requests_total of /api/pay/",
            "seen more: api_http_requests_duration_seconds of /api/pay/",
            "seen less: api_http_requests_total of /api/pay/{id}",
            "seen less: api_http_requests_duration_seconds of /api/pay/{id}",
        ],
        reason: LOST,
    },
    Difference {
        layers: &["async-graphql-actix-web"],
        place: Place::Within,
        outcomes: &[Outcome::HandlerError],
        mountings: &MOUNTINGS,
        what: &["answer 3: another body", "seen less: runs of the handler: 3", "seen more: runs of the handler: 2"],
        reason: "Errors of GraphQL arrive in a 200, which is stored. So the retry is a replay of the error \
            (docs/cookbook.md).",
    },
];

impl Difference {
    pub fn is_of(&self, case: &Case) -> bool {
        self.layers.contains(&case.layer)
            && self.place == case.place
            && self.outcomes.contains(&case.outcome)
            && self.mountings.contains(&case.mounting)
    }

    /// The first case that this row names.
    pub const fn first(&self) -> Case {
        Case { layer: self.layers[0], place: self.place, outcome: self.outcomes[0], mounting: self.mountings[0] }
    }
}

/// The table as README.md has it.
pub fn table() -> String {
    fn names<T: std::fmt::Debug>(these: &[T], all: usize) -> String {
        let names: Vec<_> = these.iter().map(|one| format!("{one:?}")).collect();
        if these.len() == all { "all".into() } else { names.join(", ") }
    }
    let mut table = String::from("| layer | place | outcome | mounting | what | reason |\n|---|---|---|---|---|---|\n");
    for row in DIFFERENCES {
        let what: Vec<_> = row.what.iter().map(|pattern| pattern.replace('`', "")).collect();
        writeln!(
            table,
            "| {} | {:?} | {} | {} | `{}` | {} |",
            row.layers.join(", "),
            row.place,
            names(row.outcomes, OUTCOMES.len()),
            names(row.mountings, MOUNTINGS.len()),
            what.join("`<br>`"),
            row.reason,
        )
        .expect("a string takes everything");
    }
    table
}

/// Whether `found` begins with `pattern`, in which `#` is any number.
pub fn fits(pattern: &str, found: &str) -> bool {
    let Some((before, after)) = pattern.split_once('#') else { return found.starts_with(pattern) };
    let Some(rest) = found.strip_prefix(before) else { return false };
    let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    number > 0 && fits(after, &rest[number..])
}
