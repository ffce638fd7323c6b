//! The tables of places, outcomes and mountings, from which all cases are made.

use crate::{differences::DIFFERENCES, layers::LAYERS};

/// Where the layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Outside,
    Inside,
    /// The layer is no middleware: it runs in the handler.
    Within,
}

/// The things that happen to the requests of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    FirstRun,
    Replay,
    MissingKey,
    InFlight,
    Mismatch,
    HandlerError,
    Panic,
    ClientLeaves,
}

/// The things on which, and beside which, the layer and the wrap are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounting {
    /// On the App, and nothing else.
    Alone,
    /// On a scope, beside a sibling scope with another wrap.
    SiblingScopes,
    /// On an App, in which a scope has another wrap.
    NestedScope,
    /// On an App that one worker serves at two binds.
    TwoBinds,
    /// On the Apps of two servers, which share an `Idempotency`.
    TwoServers,
    /// On an App that has the operators' pages mounted.
    Operators,
    /// As `Operators`, and the path of the operation ends as one of the operators' paths.
    LikeOperators,
}

pub const OUTCOMES: [Outcome; 8] = [
    Outcome::FirstRun,
    Outcome::Replay,
    Outcome::MissingKey,
    Outcome::InFlight,
    Outcome::Mismatch,
    Outcome::HandlerError,
    Outcome::Panic,
    Outcome::ClientLeaves,
];

pub const MOUNTINGS: [Mounting; 7] = [
    Mounting::Alone,
    Mounting::SiblingScopes,
    Mounting::NestedScope,
    Mounting::TwoBinds,
    Mounting::TwoServers,
    Mounting::Operators,
    Mounting::LikeOperators,
];

/// The act of the handler of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Run,
    /// Runs once all other requests of the case were answered.
    Wait,
    /// Runs on once its client has left.
    Leave,
    Fail,
    Panic,
    /// The wrap answers, so the handler is not reached. If it is all the same, it runs.
    None,
    /// Shows what the layer has left for later requests. A safe request, and the last one of each case.
    Look,
}

/// One request of a case.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub key: Option<&'static str>,
    /// Whether it has another payload than the other requests.
    pub is_other: bool,
    pub act: Act,
    /// The status that it gets with the wrap and without a layer.
    pub status: u16,
}

impl Step {
    const fn new(act: Act, status: u16) -> Self {
        Self { key: Some("the-key"), is_other: false, act, status }
    }

    /// Whether the wrap answers, and not the handler.
    pub const fn is_of_wrap(&self) -> bool {
        matches!(self.act, Act::None | Act::Panic)
    }

    /// Whether the answer is a replay of the first one of the case.
    pub fn is_replay(&self) -> bool {
        self.act == Act::None && self.status == 201
    }
}

impl Outcome {
    pub fn steps(self) -> Vec<Step> {
        let run = Step::new(Act::Run, 201);
        // In its answer, a layer may leave a cookie for the requests that follow.
        let other = Step { key: Some("another-key"), ..run };
        let keyless = Step { key: None, ..Step::new(Act::None, 400) };
        let mut steps = match self {
            Self::FirstRun => vec![run],
            Self::Replay => vec![run, Step::new(Act::None, 201)],
            // Twice, because the first refusal of a route has a way of its own.
            Self::MissingKey => vec![other, keyless, keyless],
            Self::InFlight => vec![Step::new(Act::Wait, 201), Step::new(Act::None, 409)],
            Self::Mismatch => vec![run, Step { is_other: true, ..Step::new(Act::None, 422) }],
            // A failure and a panic free the key, so that the retry runs.
            Self::HandlerError => vec![other, Step::new(Act::Fail, 500), run],
            Self::Panic => vec![other, Step::new(Act::Panic, 500), run],
            // 0 is no answer. The operation goes on, and the retry gets its response.
            Self::ClientLeaves => vec![Step::new(Act::Leave, 0), Step::new(Act::None, 201)],
        };
        steps.push(Step { key: None, ..Step::new(Act::Look, 200) });
        steps
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The name of a layer in the table.
    pub layer: &'static str,
    pub place: Place,
    pub outcome: Outcome,
    pub mounting: Mounting,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{:?}::{:?}::{:?}", self.layer, self.place, self.outcome, self.mounting)
    }
}

impl Mounting {
    /// The path of the operation.
    pub const fn path(self) -> &'static str {
        match self {
            Self::LikeOperators => "/api/pay/find",
            _ => "/api/pay/7",
        }
    }
}

/// All cases; or, unless `is_whole`, those of one mounting for each layer, and one for each known difference.
pub fn cases(is_whole: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, entry) in LAYERS.iter().enumerate() {
        for &place in entry.places {
            for outcome in OUTCOMES {
                for (m, mounting) in MOUNTINGS.into_iter().enumerate() {
                    let case = Case { layer: entry.name, place, outcome, mounting };
                    if is_whole || m == n % MOUNTINGS.len() || DIFFERENCES.iter().any(|row| row.first() == case) {
                        cases.push(case);
                    }
                }
            }
        }
    }
    cases
}
