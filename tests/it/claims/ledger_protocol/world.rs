//! The database, the claim store and the requests, as plain data.

/// The greatest number of requests.
pub(super) const MOST: usize = 4;

/// The tokens of request `n` begin with `n` times this number.
pub(super) const TOKENS: u8 = 8;

/// The requests, the database and the claim store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) tries: [Try; MOST],
    pub(super) claims: Claims,
    /// The row of the key.
    pub(super) row: Option<Row>,
    /// Committed effects in this life of the row. A life ends when the row expires, is forgotten or is lost.
    pub(super) effects: u8,
    /// The answer that a client was given first in this life, by the token of its run.
    pub(super) given: Option<u8>,
    /// The row and the effects before the last commit, as long as the database may be restored.
    pub(super) backup: Option<(Option<Row>, u8)>,
    /// An operator has forgotten the claim, and the row comes next.
    pub(super) is_forgetting: bool,
    /// How often each event may still happen.
    pub(super) left: Events,
    /// Which promises are broken, as a set of bits.
    wrongs: u8,
}

/// How often the events of the environment may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Events {
    /// The claim of a living owner lapses. The claim of a dead one always may.
    pub(super) lapses: u8,
    /// The claim store forgets everything.
    pub(super) losses: u8,
    /// A request runs without a claim.
    pub(super) unlocked: u8,
    pub(super) crashes: u8,
    /// The answer of a COMMIT is lost.
    pub(super) lost_answers: u8,
    /// The database is away when a lost COMMIT is to be settled.
    pub(super) outages: u8,
    /// The database says 40001 or 40P01, or a lock is not free in time.
    pub(super) conflicts: u8,
    pub(super) expiries: u8,
    pub(super) sweeps: u8,
    pub(super) forgets: u8,
    /// The database is restored to the state before its last commit.
    pub(super) restores: u8,
}

/// One request with the key: what its process knows, and its transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Try {
    pub(super) stage: Stage,
    /// The transaction, from the write of the row on.
    pub(super) session: Option<Session>,
    /// The token of the run.
    pub(super) token: u8,
    /// The token of the expired row that the run may replace.
    pub(super) over: Option<u8>,
    /// How many rows were committed since the run looked.
    pub(super) since: u8,
    /// A row has expired since the run looked.
    pub(super) saw_end: bool,
    /// The run is older than `max_run`.
    pub(super) is_old: bool,
    /// A client had an answer before this request began.
    pub(super) knows_answer: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// The claim store says that another request runs.
    InFlight,
    /// The request may run, unless the ledger has an answer.
    Granted(Way),
    /// The handler runs.
    Running,
    /// The transaction was rolled back because another one stood in the way.
    Conflicted,
    /// The row is written.
    Wrote,
    /// The answer of the COMMIT was lost.
    Lost,
    /// The client was refused, and a lost COMMIT is still to be settled.
    SettlesBehind,
    /// The COMMIT was acknowledged. `is_void`: the life of the row has ended since.
    Committed { is_void: bool },
    /// The client has its answer, and the claim is to be released.
    Answered,
    /// The request has ended, or its process has crashed.
    Gone,
}

/// How a request came to its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// It has a free claim.
    Free,
    /// It has the claim of a lost owner.
    TakenOver,
    /// It has no claim.
    Unlocked,
    /// It calls its closure again.
    Again,
}

/// A transaction with an uncommitted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) row: Row,
    /// COMMIT was sent, and only the database knows its fate.
    pub(super) is_sent: bool,
}

/// The row of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) token: u8,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A 2xx or 3xx, with the effect of its handler.
    Success,
    /// A 4xx or 5xx that is stored. The effect was rolled back before.
    Failure,
    /// The row has expired, or is the tombstone of a forgotten key.
    Expired,
}

/// What the claim store knows of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Claims {
    pub(super) holder: Option<u8>,
    /// The lease and the grace of the holder are over.
    pub(super) has_lapsed: bool,
    /// An owner before was lost.
    pub(super) remembers_lost: bool,
    /// The token of an answer, where a mistake keeps answers here.
    pub(super) answer: Option<u8>,
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    TwoEffects,
    Overtaken,
    TwoAnswers,
    NotCommitted,
    ToldInFlight,
    InVain,
    Beside,
}

impl Row {
    pub(super) fn is_live(self) -> bool {
        self.kind != Kind::Expired
    }
}

impl Try {
    /// Whether the process still works on the request.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.stage, Stage::Idle | Stage::Gone)
    }

    /// Whether the client of request `n` has the answer of another request's run.
    pub(super) fn has_answer_of_another(&self, n: usize) -> bool {
        self.stage == Stage::Answered && self.token / TOKENS != n as u8
    }

    /// Whether what the run saw at its look still matters.
    fn stands_on_look(&self) -> bool {
        self.session.is_some() || matches!(self.stage, Stage::Running | Stage::Conflicted)
    }
}

impl State {
    pub(super) fn new(left: Events) -> Self {
        Self {
            tries: [Try::default(); MOST],
            claims: Claims::default(),
            row: None,
            effects: 0,
            given: None,
            backup: None,
            is_forgetting: false,
            left,
            wrongs: 0,
        }
    }

    pub(super) fn notes(&mut self, wrong: Wrong) {
        self.wrongs |= 1 << wrong as u8;
    }

    pub(super) fn has(&self, wrong: Wrong) -> bool {
        self.wrongs & (1 << wrong as u8) != 0
    }

    /// The row, unless there is none or it has expired.
    pub(super) fn live_row(&self) -> Option<Row> {
        self.row.filter(|row| row.is_live())
    }

    /// Whether a request other than `n` has a transaction with an uncommitted row.
    pub(super) fn is_locked_for(&self, n: usize) -> bool {
        self.tries.iter().enumerate().any(|(m, other)| m != n && other.session.is_some())
    }

    /// Whether a request or a transaction has not ended yet.
    pub(super) fn is_busy(&self) -> bool {
        self.has_sessions() || self.tries.iter().any(Try::is_active)
    }

    /// Whether everybody waits for a transaction.
    pub(super) fn may_be_stuck(&self) -> bool {
        let waits = |one: &Try| matches!(one.stage, Stage::Granted(_) | Stage::Lost) || !one.is_active();
        self.has_sessions() && self.tries.iter().all(waits)
    }

    pub(super) fn has_sessions(&self) -> bool {
        self.tries.iter().any(|one| one.session.is_some())
    }

    /// Puts a row in the place of whatever there is, and remembers what there was before.
    pub(super) fn put(&mut self, row: Option<Row>) {
        self.backup = (self.left.restores > 0).then_some((self.row, self.effects));
        self.row = row;
        for other in self.tries.iter_mut().filter(|other| other.stands_on_look()) {
            other.since += 1;
        }
    }

    /// Ends the life of the row. Answers that were given or are in hand belong to the life that has ended.
    pub(super) fn end_life(&mut self) {
        self.effects = 0;
        self.given = None;
        for one in &mut self.tries {
            one.knows_answer = false;
            if let Stage::Committed { is_void } = &mut one.stage {
                *is_void = true;
            }
        }
    }

    /// The row expires.
    pub(super) fn expire(&mut self) {
        self.row = self.row.map(|row| Row { kind: Kind::Expired, ..row });
        self.end_life();
        self.starts_ageing();
    }

    /// A row has expired. When it may be swept, the runs of now are too old.
    pub(super) fn starts_ageing(&mut self) {
        for one in &mut self.tries {
            one.saw_end = matches!(one.stage, Stage::Running | Stage::Conflicted);
        }
    }

    /// Deletes the expired row. Runs that looked before it expired are too old by now.
    pub(super) fn sweep(&mut self) {
        self.row = None;
        for one in &mut self.tries {
            one.is_old |= one.saw_end;
            one.saw_end = false;
        }
    }

    /// The row and the effects of the last commit vanish, and all connections break.
    pub(super) fn restore(&mut self) {
        let Some((row, effects)) = self.backup.take() else { return };
        self.end_life();
        (self.row, self.effects) = (row, if row.is_some_and(Row::is_live) { effects } else { 0 });
        for n in 0..MOST {
            let one = &mut self.tries[n];
            one.since = one.since.saturating_sub(1);
            one.session = None;
            match one.stage {
                Stage::Wrote => one.stage = Stage::Lost,
                Stage::Gone => self.leave(n),
                _ => {}
            }
        }
    }

    /// The process has ended its work, or has crashed. A transaction goes on until the database ends it.
    pub(super) fn leave(&mut self, n: usize) {
        let one = &mut self.tries[n];
        let since = if one.session.is_some() { one.since } else { 0 };
        *one = Try { stage: Stage::Gone, session: one.session, since, ..Try::default() };
    }

    /// A request ends its claim, if it still holds it. `forgets_lost`: nothing is left to be found out.
    pub(super) fn release(&mut self, n: usize, forgets_lost: bool) {
        if self.claims.holder == Some(n as u8) {
            let remembers_lost = self.claims.remembers_lost && !forgets_lost;
            self.claims = Claims { remembers_lost, ..Claims::default() };
        }
        self.leave(n);
    }
}
