//! Checks the promises for every key. The log of runs has a line for the start and for the end of each run.

use std::{collections::BTreeMap, fs};

use super::{
    Key, client,
    servers::{Servers, Span},
    steps,
};

/// One call of a handler.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) pid: u32,
    pub(crate) start: u128,
    /// `None`: its process was killed, or its handler was dropped.
    pub(crate) end: Option<u128>,
}

/// How long after a run its response may still be on its way to Redis, in milliseconds: an answer waits for the store for
/// half a second, and a fail-over takes a few.
const UNSAVED: u128 = 20_000;

/// `losses`: when Redis may have lost claims.
pub(crate) fn of(mut keys: Vec<Key>, servers: &Servers, losses: &[Span], memory: &[usize]) -> Result<(), String> {
    ask_once_more(&mut keys, servers, losses)?;
    let keys = &keys;
    let log = fs::read_to_string(&servers.log).map_err(|error| error.to_string())?;
    let runs = runs(&log)?;
    let (worked, repeated) = steps::of(keys, &runs, &log, losses)?;
    let (mut all, mut again, mut window, mut forgotten, mut resumed) = (0, 0, 0, 0, 0);
    for key in keys {
        let of_key = runs.get(&key.name).map(Vec::as_slice).unwrap_or_default();
        all += of_key.len();
        again += of_key.len().saturating_sub(1);
        if !of_key.iter().any(|run| run.end.is_some()) {
            return Err(format!("{} was answered, but none of its runs ended: {of_key:?}", key.name));
        }
        // A process may be killed after it has answered and before its response has reached Redis. That is the one
        // documented case of a second run with another answer. In every other case all answers of a key are equal.
        let ended = of_key.iter().filter(|run| run.end.is_some()).count();
        if key.answers.len() > ended {
            let answers: Vec<_> = key.answers.iter().map(|answer| String::from_utf8_lossy(answer)).collect();
            return Err(format!("{} has more answers than runs that ended: {answers:?}, {of_key:?}", key.name));
        }
        window += usize::from(key.answers.len() > 1);
        for (first, second) in of_key.iter().zip(of_key.iter().skip(1)) {
            // A second run is only allowed if Redis forgot the key since, or if the process of the first one was killed
            // before its response was stored, and only after that. A run whose step could not be saved has ended with a
            // refusal: the next one resumes.
            let excuses = |killed| killed <= second.start && first.end.is_none_or(|end| killed <= end + UNSAVED);
            let is_resumed = key.path.starts_with("/steps") && first.end.is_some_and(|end| end <= second.start);
            if losses.iter().any(|(from, to)| *from <= second.start && first.start <= *to) {
                forgotten += 1;
            } else if is_resumed && key.answers.len() == 1 {
                resumed += 1;
            } else if !servers.killed(first.pid).is_some_and(excuses) {
                let killed: Vec<_> = of_key.iter().map(|run| servers.killed(run.pid)).collect();
                return Err(format!("{} ran twice while its owner lived: {of_key:?}, killed: {killed:?}", key.name));
            }
        }
    }
    let half = memory.len() / 2;
    let most = |part: &[usize]| part.iter().copied().max().unwrap_or(0);
    let (early, late) = (most(&memory[..half]), most(&memory[half..]));
    if late > early * 2 + 50 {
        return Err(format!("memory grows: {early} MiB, then {late} MiB"));
    }
    println!(
        "chaos: {} keys, {all} runs, {again} of them a second one: {forgotten} after Redis had forgotten the key, {resumed} \
         after a step that could not be saved, the others from a killed owner; {window} keys have two answers; {worked} steps ran, {repeated} of them again before they were \
         saved; a server used at most {late} MiB",
        keys.len()
    );
    Ok(())
}

/// The latest keys still replay their answers at every server: no key is locked, and no record is lost. A key that runs
/// again instead is a second run like any other.
fn ask_once_more(keys: &mut [Key], servers: &Servers, losses: &[Span]) -> Result<(), String> {
    let log = fs::read_to_string(&servers.log).map_err(|error| error.to_string())?;
    let runs = runs(&log)?;
    let last_loss = losses.iter().map(|(_, to)| *to).max().unwrap_or(0);
    let was_kept = |key: &&mut Key| {
        let runs = runs.get(&key.name).map(Vec::as_slice).unwrap_or_default();
        runs.iter().all(|run| run.start > last_loss)
    };
    for key in keys.iter_mut().rev().filter(was_kept).take(200) {
        for server in 0..servers.count() {
            let body = client::until_answered_by(servers.address(server), &key.path, &key.name)?;
            if !key.answers.contains(&body) {
                key.answers.push(body);
            }
        }
    }
    Ok(())
}

/// The runs of each key.
pub(crate) fn runs(log: &str) -> Result<BTreeMap<String, Vec<Run>>, String> {
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for line in log.lines().filter(|line| !line.starts_with("step ")) {
        let parts: Vec<&str> = line.split(' ').collect();
        let [what, when, pid, _method, _path, key] = parts[..] else { return Err(format!("log line: {line}")) };
        let (when, pid) = (when.parse().map_err(|_| line)?, pid.parse().map_err(|_| line)?);
        let of_key = runs.entry(key.to_owned()).or_default();
        if what == "start" {
            of_key.push(Run { pid, start: when, end: None });
        } else {
            let run = of_key.iter_mut().rev().find(|run| run.pid == pid && run.end.is_none());
            run.ok_or_else(|| format!("an end without a start: {line}"))?.end = Some(when);
        }
    }
    Ok(runs)
}
