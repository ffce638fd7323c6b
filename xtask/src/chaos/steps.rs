//! Checks the steps of every key: a saved result is never run again. The log has a line for each closure that ran.

use std::collections::BTreeMap;

use super::{Key, servers::Span, verdict::Run};

/// One call of a step's closure.
struct Worked<'a> {
    pid: u32,
    at: u128,
    value: &'a str,
}

/// How many closures ran, and how many of them ran again.
pub(super) fn of(
    keys: &[Key],
    runs: &BTreeMap<String, Vec<Run>>,
    log: &str,
    losses: &[Span],
) -> Result<(usize, usize), String> {
    let worked = worked(log)?;
    let (mut all, mut again) = (0, 0);
    for key in keys.iter().filter(|key| key.path.starts_with("/steps")) {
        let of_key = runs.get(&key.name).map(Vec::as_slice).unwrap_or_default();
        let begun = of_key.iter().map(|run| run.start).min().unwrap_or_default();
        // A Redis that forgets a key forgets its steps, too, unless their owner lives and restores them.
        let is_forgotten = losses.iter().any(|(_, to)| *to >= begun);
        for answer in &key.answers {
            for value in values(answer)? {
                let of_step = worked.values().find(|calls| calls.iter().any(|call| call.value == value));
                let calls = of_step.ok_or_else(|| format!("{}: no step has made {value}", key.name))?;
                (all, again) = (all + calls.len(), again + calls.len() - 1);
                let Some(saved) = calls.iter().find(|call| call.value == value) else { continue };
                // A run that holds the claim after the result was saved has found it. One that began before may have lost
                // its claim without knowing it.
                let late = calls.iter().find(|call| {
                    let run = of_key.iter().rev().find(|run| run.pid == call.pid && run.start <= call.at);
                    run.is_some_and(|run| run.start > saved.at)
                });
                if let Some(late) = late.filter(|_| !is_forgotten && key.answers.len() == 1) {
                    let (at, pid) = (late.at, late.pid);
                    return Err(format!("{}: the step that made {value} ran again, at {at} in {pid}", key.name));
                }
            }
        }
    }
    Ok((all, again))
}

/// The calls of each step, by the key that its closure got.
fn worked(log: &str) -> Result<BTreeMap<&str, Vec<Worked<'_>>>, String> {
    let mut worked: BTreeMap<&str, Vec<Worked<'_>>> = BTreeMap::new();
    for line in log.lines().filter(|line| line.starts_with("step ")) {
        let parts: Vec<&str> = line.split(' ').collect();
        let [_, at, pid, _name, key, value] = parts[..] else { return Err(format!("log line: {line}")) };
        let (at, pid) = (at.parse().map_err(|_| line)?, pid.parse().map_err(|_| line)?);
        worked.entry(key).or_default().push(Worked { pid, at, value });
    }
    Ok(worked)
}

/// The numbers in `"values":[1,2,3]`.
fn values(answer: &[u8]) -> Result<Vec<String>, String> {
    let text = String::from_utf8_lossy(answer);
    let list = text.split_once("\"values\":[").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.ok_or_else(|| format!("an answer without values: {text}"))?;
    Ok(list.split(',').map(str::to_owned).collect())
}
