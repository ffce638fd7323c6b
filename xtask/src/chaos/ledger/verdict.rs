//! Compares the answers of every key with its rows in the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    fs, io,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use super::{
    super::{
        servers::Servers,
        verdict::{Run, runs},
    },
    client::{Attempt, Key},
    database::Database,
    faults::Faults,
};

pub(crate) struct Verdict {
    pub(crate) numbers: Numbers,
    /// How many keys have the rows of more than one run.
    pub(crate) doubled: usize,
    /// The broken promises, with the histories of their keys.
    pub(crate) violations: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Numbers {
    keys: usize,
    attempts: usize,
    runs: usize,
    /// Keys with rows.
    commits: usize,
    replays: usize,
    faults: usize,
    /// COMMITs, and answers to them, that the proxies lost.
    lost: u32,
    /// COMMITs without an answer about which the ledger was asked.
    settled: usize,
    /// Runs that ended after the recorded run of their key.
    superseded: usize,
    /// In milliseconds.
    longest_request: u128,
    /// By status and type.
    refused: BTreeMap<String, usize>,
}

/// The rows of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Effects {
    count: u64,
    /// The processes that inserted them.
    pids: BTreeSet<u32>,
}

impl Verdict {
    /// An error shows the first violations.
    pub(crate) fn holds(&self) -> Result<(), String> {
        let shown: Vec<_> = self.violations.iter().take(3).map(String::as_str).collect();
        if shown.is_empty() {
            return Ok(());
        }
        Err(format!("{} violations; the first ones:\n{}", self.violations.len(), shown.join("\n")))
    }
}

/// Everything is calm. The verdict waits for open transactions, and asks each process once more for each key.
pub(crate) fn of(
    mut keys: Vec<Key>,
    database: &Database,
    servers: &Servers,
    faults: &Faults,
) -> Result<Verdict, String> {
    let read = |error: io::Error| format!("the verdict can't read the database: {error}");
    let mut violations = Vec::new();
    violations.extend(database.settled().err());
    let before = effects(database).map_err(read)?;
    let asked_before: Vec<usize> = keys.iter().map(|key| key.attempts.len()).collect();
    ask_again(&mut keys, servers);
    violations.extend(database.settled().err());
    let after = effects(database).map_err(read)?;
    let rows = database.connect().and_then(|mut sql| sql.query("SELECT count(*) FROM idempotency_ledger"));
    let rows = rows.map_err(read)?;
    if rows[0][0] != keys.len().to_string() {
        violations.push(format!("{} keys have a final answer, and the ledger has {} rows", keys.len(), rows[0][0]));
    }

    let runs = runs(&fs::read_to_string(&servers.log).map_err(|error| error.to_string())?)?;
    let diagnostics = fs::read_to_string(&servers.diagnostics).unwrap_or_default();
    let mut numbers = Numbers {
        keys: keys.len(),
        runs: runs.values().map(Vec::len).sum(),
        faults: faults.count(),
        lost: database.lost(),
        settled: diagnostics.matches("the answer of a COMMIT was lost").count(),
        ..Numbers::default()
    };
    let mut doubled = 0;
    for (key, asked_before) in keys.iter().zip(asked_before) {
        let of_key = runs.get(&key.name).map(Vec::as_slice).unwrap_or_default();
        let of = |all: &BTreeMap<String, Effects>| all.get(&key.name).cloned().unwrap_or_default();
        let (before, after) = (of(&before), of(&after));
        numbers.add(key, of_key, &after);
        doubled += usize::from(after.count > key.rows || after.pids.len() > 1);
        let broken = broken(key, asked_before, &before, &after);
        if !broken.is_empty() {
            violations.push(format!("{}\n{}", broken.join("\n"), history(key, asked_before, of_key, &after, faults)));
        }
    }
    Ok(Verdict { numbers, doubled, violations })
}

/// Asks each process for each key, with each of its payloads.
fn ask_again(keys: &mut [Key], servers: &Servers) {
    let given_up = &AtomicUsize::new(0);
    let part = keys.len().div_ceil(8).max(1);
    thread::scope(|scope| {
        for part in keys.chunks_mut(part) {
            scope.spawn(move || {
                for key in part {
                    for process in 0..servers.count() {
                        for payload in key.payloads() {
                            // A few locked keys suffice for the verdict, and each of them takes a minute.
                            if given_up.load(SeqCst) < 3 {
                                let before = key.given_up;
                                key.add(key.until_final_at(servers, process, payload));
                                given_up.fetch_add(key.given_up - before, SeqCst);
                            }
                        }
                    }
                }
            });
        }
    });
}

fn effects(database: &Database) -> io::Result<BTreeMap<String, Effects>> {
    let mut all: BTreeMap<String, Effects> = BTreeMap::new();
    for row in database.connect()?.query("SELECT key, pid, count(*) FROM effects GROUP BY key, pid")? {
        let effects = all.entry(row[0].clone()).or_default();
        effects.pids.insert(row[1].parse().map_err(io::Error::other)?);
        effects.count += row[2].parse::<u64>().map_err(io::Error::other)?;
    }
    Ok(all)
}

/// The promises that are broken for a key. The first `asked_before` attempts were made during the faults.
fn broken(key: &Key, asked_before: usize, before: &Effects, after: &Effects) -> Vec<String> {
    let mut broken = Vec::new();
    let mut check = |holds: bool, message: &str| {
        if !holds {
            broken.push(format!("{}: {message}", key.name));
        }
    };
    let results: Vec<_> = key.attempts.iter().filter_map(Attempt::result).collect();
    let was_answered = key.attempts[..asked_before].iter().any(|attempt| attempt.result().is_some());
    let refusals = || key.attempts.iter().filter_map(|attempt| attempt.answer.as_ref().ok());

    check(key.given_up == 0, "a client has no final answer");
    check(results.iter().all(|result| *result == results[0]), "its answers differ");
    check(results.iter().all(|result| result.status == key.status), "an answer has another status than its handler's");
    check(
        key.attempts.iter().filter(|attempt| attempt.result().is_some() && !attempt.is_replay()).count() <= 1,
        "two clients got a first answer",
    );
    check(
        key.attempts[asked_before..].iter().all(|a| !was_answered || a.result().is_none() || a.is_replay()),
        "it was answered, and ran again",
    );
    let payloads: BTreeSet<_> = key.attempts.iter().filter(|a| a.result().is_some()).map(|a| a.payload).collect();
    check(payloads.len() <= 1, "two payloads got the answer of an operation");
    check(
        key.is_contested || refusals().all(|answer| answer.status != 422),
        "an operation was refused as another operation",
    );
    let misused =
        |body: &[u8]| ["transaction-misused", "not-recorded", "outcome-unknown"].iter().any(|name| has(body, name));
    check(refusals().all(|answer| !misused(&answer.body)), "an operation was refused for what it did not do");

    check(before.count == 0 || before.count == key.rows, "a part of a run is committed, or more than one run");
    check(!was_answered || before.count == key.rows, "it was answered, and does not have its rows");
    check(results.is_empty() || after.count == key.rows, "at the end, it does not have the rows of exactly one run");
    check(after.pids.len() <= 1, "two processes committed rows");
    // The body has the id of the process that ran.
    let is_of = |body: &[u8]| after.pids.iter().all(|pid| has(body, &format!("\"run\":\"{pid}-")));
    check(results.iter().all(|result| is_of(result.body)), "its answer is another run's than its rows");
    broken
}

fn has(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Everything about a key in the order of time, in milliseconds since its first request. The faults are the ones before
/// the verdict asked.
fn history(key: &Key, asked_before: usize, runs: &[Run], effects: &Effects, faults: &Faults) -> String {
    let attempts = key.attempts.iter().map(|attempt| (attempt.sent, attempt.to_string()));
    let runs = runs.iter().map(|run| (run.start, format!("{run:?}")));
    let start = key.attempts.iter().map(|attempt| attempt.sent).min().unwrap_or(0);
    let end = key.attempts[..asked_before].iter().map(|attempt| attempt.ended).max().unwrap_or(0);
    let mut lines: Vec<_> = attempts.chain(runs).chain(faults.between(start.saturating_sub(1000), end)).collect();
    lines.sort();
    let contested = if key.is_contested { ", contested" } else { "" };
    let mut text = format!("  {} {}, {} rows a run{contested}; at the end {effects:?}\n", key.name, key.path, key.rows);
    for (when, line) in lines {
        let _ =
            writeln!(text, "  {:>6} {line}", i128::try_from(when).unwrap_or(0) - i128::try_from(start).unwrap_or(0));
    }
    text
}

impl Numbers {
    fn add(&mut self, key: &Key, runs: &[Run], effects: &Effects) {
        self.attempts += key.attempts.len();
        self.commits += usize::from(effects.count > 0);
        self.replays += key.attempts.iter().filter(|attempt| attempt.is_replay()).count();
        let longest = key.attempts.iter().map(|attempt| attempt.ended.saturating_sub(attempt.sent)).max();
        self.longest_request = self.longest_request.max(longest.unwrap_or(0));
        let recorded = runs.iter().filter(|run| effects.pids.contains(&run.pid)).filter_map(|run| run.end).min();
        self.superseded += runs.iter().filter(|run| recorded.is_some() && run.end > recorded).count();
        for answer in key.attempts.iter().filter_map(|attempt| attempt.answer.as_ref().ok()) {
            if answer.status == 422 || !matches!(answer.status, 200..300 | 402) {
                let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let name = problem["type"].as_str().and_then(|name| name.rsplit(['/', ':', '#']).next());
                *self.refused.entry(format!("{} {}", answer.status, name.unwrap_or("-"))).or_default() += 1;
            }
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, attempts, runs, commits, replays, faults, lost, settled, superseded, .. } = self;
        write!(
            f,
            "{faults} faults, {keys} keys, {attempts} requests, {runs} runs, {commits} keys with rows, {replays} \
             replays; {lost} COMMITs or their answers lost, {settled} settled, {superseded} runs superseded; the \
             longest request took {} ms; refused: {:?}",
            self.longest_request, self.refused
        )
    }
}
