//! Plays a case, and compares what came of it with a bare server.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use actix_idempotency::Idempotency;
use actix_web::rt::{self, time::sleep};
use tokio::{sync::OnceCell, time::timeout};

use crate::{
    answer::{Answer, Found},
    app::{Deed, Plan, Servers, Shared, idempotency},
    browser::Browser,
    case::{Act, Case, Mounting, OUTCOMES, Outcome, Place, Step},
    layers::{Layer, layer},
};

/// No request takes that long, whatever the machine is busy with.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The answers of a server, and the observations of its layer.
struct Played {
    /// `None`: the request was not sent.
    answers: Vec<Option<Answer>>,
    seen: Vec<String>,
}

/// Runs a case. Returns how it differs from the bare server.
pub async fn play(case: Case) -> Vec<Found> {
    let (first, plain) = (&plain(Outcome::FirstRun).await[0], plain(case.outcome).await);
    let mut steps = case.outcome.steps();
    let here = layer(case.layer);
    let is_safe = here.method().is_safe();
    if is_safe {
        // A safe request passes the wrap.
        for step in steps.iter_mut().filter(|step| step.act == Act::None) {
            step.act = Act::Run;
        }
    }
    let with_wrap = serve(case, &steps, |_, step| Some(Deed::Act(step.act)), here, true).await;

    // The bare server gets the requests that the layer should see. Its handler answers in the place of a wrap inside.
    let is_outside = case.place == Place::Outside;
    let deed = |n: usize, step: &Step| match step.act {
        Act::None if is_outside && step.is_replay() => Some(Deed::Answer(first.clone())),
        Act::None if is_outside => Some(Deed::Answer(plain[n].clone())),
        Act::Panic if is_outside => Some(Deed::RunAndAnswer(plain[n].clone())),
        Act::None => None,
        // Within the wrap, an operation goes on without its client as with it.
        Act::Leave if !is_outside && !is_safe => Some(Deed::Act(Act::Run)),
        act => Some(Deed::Act(act)),
    };
    let bare = serve(case, &steps, deed, layer(case.layer), false).await;

    let mut found = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        let answer = with_wrap.answers[n].as_ref().expect("all requests were sent");
        let wanted = if step.act == Act::Leave {
            &Answer::default()
        } else if step.is_of_wrap() && !is_outside && !is_safe {
            // The layer has no part in it: a replay is the first answer, and all else is as without a layer.
            if step.is_replay() { bare.answers[0].as_ref().expect("a run") } else { &plain[n] }
        } else {
            bare.answers[n].as_ref().expect("only answers of the wrap are left out")
        };
        found.extend(answer.differences(wanted, n + 1));
        if step.is_replay() && answer.value("idempotent-replayed").is_none() {
            found.push(Found::new(format!("answer {}: no mark of a replay", n + 1)));
        }
    }
    found.extend(differences(&with_wrap.seen, &bare.seen));
    found
}

/// How the lines of two layers differ, in any order.
fn differences(here: &[String], there: &[String]) -> Vec<Found> {
    let mut counts = BTreeMap::<&str, (usize, usize)>::new();
    for line in here {
        counts.entry(line).or_default().0 += 1;
    }
    for line in there {
        counts.entry(line).or_default().1 += 1;
    }
    let differ = counts.into_iter().filter(|(_, (here, there))| here != there);
    let found = differ.map(|(line, (here, there))| {
        let word = if here > there { "more" } else { "less" };
        Found { what: format!("seen {word}: {line}"), detail: format!("{here} times instead of {there}") }
    });
    found.collect()
}

/// The answers of a server with the wrap and without a layer.
async fn plain(outcome: Outcome) -> &'static [Answer] {
    static KNOWN: [OnceCell<Vec<Answer>>; OUTCOMES.len()] = [const { OnceCell::const_new() }; OUTCOMES.len()];
    let case = Case { layer: "none", place: Place::Outside, outcome, mounting: Mounting::Alone };
    let answers = KNOWN[outcome as usize].get_or_init(|| async {
        let steps = outcome.steps();
        let played = serve(case, &steps, |_, step| Some(Deed::Act(step.act)), layer("none"), true).await;
        let answers: Vec<_> = played.answers.into_iter().map(|answer| answer.expect("all were sent")).collect();
        for (n, (answer, step)) in answers.iter().zip(&steps).enumerate() {
            assert_eq!(answer.status, step.status, "{outcome:?}, answer {}: {answer:?}", n + 1);
        }
        answers
    });
    answers.await
}

/// Starts a server and sends it the requests for which there is a deed.
async fn serve(
    case: Case,
    steps: &[Step],
    deed: impl Fn(usize, &Step) -> Option<Deed>,
    layer: Arc<dyn Layer>,
    has_wrap: bool,
) -> Played {
    let deeds: Vec<_> = steps.iter().enumerate().map(|(n, step)| deed(n, step)).collect();
    let acts: Vec<_> = deeds.iter().map(|deed| deed.as_ref().map(Deed::act)).collect();
    let deeds = deeds.into_iter().map(|deed| deed.unwrap_or(Deed::Act(Act::None))).collect();
    let idempotency = has_wrap.then(idempotency);
    let shared = Shared::new(deeds, layer.clone());
    let plan =
        Plan { mounting: case.mounting, place: case.place, shared: shared.clone(), idempotency: idempotency.clone() };
    let servers = Servers::start(&plan);
    let client = Client { case, servers: &servers, shared: &shared, idempotency, browser: Rc::default() };
    let answers = timeout(LIMIT, client.send_all(steps, &acts));
    let answers = answers.await.unwrap_or_else(|_| panic!("{case}: a request has no answer"));
    timeout(LIMIT, servers.stop()).await.unwrap_or_else(|_| panic!("{case}: the server does not stop"));
    let mut seen = layer.seen();
    seen.push(format!("runs of the handler: {}", shared.runs.load(SeqCst)));
    Played { answers, seen }
}

/// Sends the requests of a case.
struct Client<'a> {
    case: Case,
    servers: &'a Servers,
    shared: &'a Arc<Shared>,
    idempotency: Option<Idempotency>,
    browser: Rc<Browser>,
}

impl Client<'_> {
    /// `acts`: what the handlers do, and `None` for requests that are not sent.
    async fn send_all(&self, steps: &[Step], acts: &[Option<Act>]) -> Vec<Option<Answer>> {
        let mut answers: Vec<Option<Answer>> = vec![None; steps.len()];
        let mut waiting = None;
        for (n, step) in steps.iter().enumerate() {
            let Some(act) = acts[n] else { continue };
            if let Some((n, sent)) = waiting.take_if(|_| act == Act::Look) {
                self.shared.goes_on.add_permits(1);
                answers[n] = Some(join(sent).await);
            }
            let addresses = &self.servers.addresses;
            let (address, path) = (addresses[n % addresses.len()], self.case.mounting.path());
            let (step, layer, browser) = (*step, self.shared.layer.clone(), self.browser.clone());
            let sent = rt::spawn(async move { browser.send(address, path, n, step, &*layer).await });
            match act {
                Act::Wait => {
                    self.shared.waits.acquire().await.expect("not closed").forget();
                    waiting = Some((n, sent));
                }
                Act::Leave => {
                    self.shared.waits.acquire().await.expect("not closed").forget();
                    sent.abort();
                    self.shared.dropped.acquire().await.expect("not closed").forget();
                    self.shared.goes_on.add_permits(1);
                    while self.idempotency.as_ref().is_some_and(|idempotency| idempotency.running() > 0) {
                        sleep(Duration::from_millis(1)).await;
                    }
                    answers[n] = Some(Answer::default());
                }
                _ => answers[n] = Some(join(sent).await),
            }
        }
        answers
    }
}

async fn join(sent: rt::task::JoinHandle<Answer>) -> Answer {
    sent.await.expect("a client does not panic")
}
