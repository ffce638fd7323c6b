//! Copies of the file that a loss of power or a bad disk leaves.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use super::fixture::{Folder, Told, beside, is_sound, server, try_post};
use crate::common::{RunLog, Server, fresh_key};

/// Numbers that look random, and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % n
    }
}

/// The answers that a client has, in the order in which it got them.
type Answers = Vec<(String, Vec<u8>)>;

fn copy(file: &Path, to: &Path) {
    fs::copy(file, to).unwrap();
    if beside(file, "-wal").exists() {
        fs::copy(beside(file, "-wal"), beside(to, "-wal")).unwrap();
    }
}

/// What a server says that finds a file after a crash. `None`: it does not start.
fn retries(file: &Path, answers: &Answers) -> Option<Vec<Told>> {
    let log = RunLog::new();
    let server = std::panic::catch_unwind(|| server(file, &log, &[])).ok()?;
    Some(answers.iter().map(|(key, _)| try_post(server.address, "/items", key).unwrap()).collect())
}

/// Serves keys one after the other.
fn serve(server: &Server, n: usize) -> Answers {
    (0..n).map(|_| fresh_key()).map(|key| (key.clone(), server.post("/items", &key).body)).collect()
}

#[test]
fn a_loss_of_power_at_any_moment_loses_no_answer_that_was_given() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let server = server(&file, &log, &[]);
    let (answers, stop) = (Mutex::new(Answers::new()), AtomicBool::new(false));
    let copies: Vec<(PathBuf, usize)> = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let key = fresh_key();
                    let body = server.post("/items", &key).body;
                    answers.lock().unwrap().push((key, body));
                }
            });
        }
        let copies = (0..8)
            .map(|n| {
                std::thread::sleep(Duration::from_millis(60 + 17 * n));
                let given = answers.lock().unwrap().len();
                // A stopped process writes nothing, wherever it is in a write. The other files of it are of no use after
                // a loss of power: locks, and an index of the write-ahead log.
                server.pause();
                let to = folder.new_file();
                copy(&file, &to);
                server.resume();
                (to, given)
            })
            .collect();
        stop.store(true, SeqCst);
        copies
    });
    let answers = answers.into_inner().unwrap();
    for (copy, given) in copies {
        let given: Answers = answers[..given].to_vec();
        let told = retries(&copy, &given).expect("the copy is sound");
        for (told, (key, body)) in told.iter().zip(&given) {
            assert!(told.is_replay && told.body == *body, "{key}: {told:?}");
        }
        is_sound(&copy);
    }
}

/// A log whose end is missing or damaged is one that ends before. SQLite takes what is sound of it, in order.
#[test]
fn of_a_damaged_write_ahead_log_all_is_kept_up_to_the_damage() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut server = server(&file, &log, &[]);
    let answers = serve(&server, 40);
    server.kill();
    let length = fs::metadata(beside(&file, "-wal")).unwrap().len();
    let mut dice = Dice(7);
    let (mut lost_some, mut kept_some) = (false, false);
    for n in 0..12 {
        let damaged = folder.new_file();
        copy(&file, &damaged);
        let at = length / 12 * n + dice.below(length / 12);
        damage(&beside(&damaged, "-wal"), at, n % 2 == 0);
        // A log without its head may be a file without tables, or none that a server begins with.
        let Some(told) = retries(&damaged, &answers) else { continue };
        let kept = told.iter().take_while(|told| told.is_replay).count();
        for (told, (key, body)) in told.iter().zip(&answers).take(kept) {
            assert_eq!(told.body, *body, "{key}");
        }
        assert!(told[kept..].iter().all(|told| !told.is_replay), "what is lost is the end: {told:?}");
        lost_some |= kept < answers.len();
        kept_some |= kept > 0;
    }
    assert!(lost_some && kept_some, "the damage is where it matters");
}

fn damage(file: &Path, at: u64, flips: bool) {
    let mut bytes = fs::read(file).unwrap();
    if flips {
        bytes[at as usize] ^= 1 << (at % 8);
    } else {
        bytes.truncate(at as usize);
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_answer_is_an_error_and_never_a_replay_or_a_run() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut one = server(&file, &log, &[]);
    let answers = serve(&one, 60);
    // Whoever ends in order leaves no write-ahead log.
    one.terminate();
    crate::common::eventually("the exit", || one.has_exited().map(drop).ok_or(()));
    drop(super::fixture::open(&file).query_row("SELECT count(*) FROM slots", [], |row| row.get::<_, i64>(0)));
    assert!(!beside(&file, "-wal").exists());
    let bytes = fs::read(&file).unwrap();
    let mut dice = Dice(11);
    let mut errors = 0;
    for _ in 0..10 {
        // Within an answer, which is in the file as it was sent.
        let of = dice.below(60) as usize;
        let body = &answers[of].1;
        let places: Vec<usize> =
            bytes.windows(body.len()).enumerate().filter(|(_, part)| part == body).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "an answer is in the file");
        let damaged = folder.new_file();
        let mut bytes = bytes.clone();
        for place in places {
            bytes[place + dice.below(body.len() as u64) as usize] ^= 1 << dice.below(8);
        }
        fs::write(&damaged, bytes).unwrap();
        let told = retries(&damaged, &answers).expect("the tables are sound");
        assert_eq!(told[of].status, 503, "{:?}", told[of]);
        for (n, (told, (_, body))) in told.iter().zip(&answers).enumerate() {
            assert!(n == of || (told.is_replay && told.body == *body), "{told:?}");
        }
        errors += 1;
    }
    assert_eq!(errors, 10);
}

#[test]
fn a_file_that_is_damaged_anywhere_or_cut_off_never_replays_wrong_bytes() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut one = server(&file, &log, &[]);
    let answers = serve(&one, 60);
    one.terminate();
    crate::common::eventually("the exit", || one.has_exited().map(drop).ok_or(()));
    drop(super::fixture::open(&file).query_row("SELECT count(*) FROM slots", [], |row| row.get::<_, i64>(0)));
    let length = fs::metadata(&file).unwrap().len();
    let mut dice = Dice(13);
    let [mut refused, mut errors, mut right, mut runs] = [0; 4];
    for n in 0..24 {
        let damaged = folder.new_file();
        copy(&file, &damaged);
        damage(&damaged, dice.below(length), n % 4 != 0);
        let Some(told) = retries(&damaged, &answers) else {
            refused += 1;
            continue;
        };
        for (told, (key, body)) in told.iter().zip(&answers) {
            match told.status {
                503 => errors += 1,
                409 => {
                    assert!(told.is_replay && told.body == *body, "{key}: {told:?}");
                    right += 1;
                }
                201 => runs += 1,
                _ => panic!("{key}: {told:?}"),
            }
        }
    }
    println!("{refused} files refused, {errors} errors, {right} right, {runs} runs");
    assert!(right > 0);
}
