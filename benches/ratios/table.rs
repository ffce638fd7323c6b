//! The table of measured costs and their targets.

use std::{cell::Cell, fmt::Display, hint::black_box, time::Instant};

pub(crate) const ROUNDS: usize = 5;

pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// The row has no target.
    None,
}
use Target::{AtLeast, AtMost};

pub(crate) struct Table {
    rows: Cell<usize>,
    met: Cell<usize>,
}

impl Table {
    pub(crate) fn start() -> Self {
        println!("{:50} {:>11} {:>11} {:>12} {:>12}", "", "bare", "with", "measured", "target");
        Self { rows: Cell::new(0), met: Cell::new(0) }
    }

    /// Prints a row: the values of both sides (if there are two), the measured value, and whether it meets its target.
    pub(crate) fn row(&self, name: &str, [bare, with]: [impl Display; 2], measured: f64, unit: &str, target: &Target) {
        let places = if unit == "µs" || unit == "x" { 2 } else { 0 };
        let measured_text = format!("{measured:.places$} {unit}");
        let (met, sign, bound) = match *target {
            AtMost(most) => (measured <= most, "<=", most),
            AtLeast(least) => (measured >= least, ">=", least),
            Target::None => return println!("{name:50} {bare:>11} {with:>11} {measured_text:>12}"),
        };
        self.rows.set(self.rows.get() + 1);
        self.met.set(self.met.get() + usize::from(met));
        println!(
            "{name:50} {bare:>11} {with:>11} {measured_text:>12} {:>12} {}",
            format!("{sign} {bound:.places$} {unit}"),
            if met { "met" } else { "NOT MET" }
        );
    }

    pub(crate) fn end(&self) {
        println!("{} of {} met", self.met.get(), self.rows.get());
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Formats nanoseconds as microseconds.
pub(crate) fn micros(nanos: f64) -> String {
    format!("{:.2} µs", nanos / 1e3)
}

/// The speed of two threads that only count, divided by that of one. It is below 2 when other programs use the cores,
/// and no other row with two threads can do better.
fn two_threads() -> f64 {
    let count = |threads: usize| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..50_000_000_u64).for_each(|n| _ = black_box(n)));
            }
        });
        threads as f64 / start.elapsed().as_secs_f64()
    };
    median((0..ROUNDS).map(|_| 1.0 / count(1) * count(2)).collect())
}

/// Prints the machine on which the numbers were measured.
pub(crate) fn machine() {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{} {}, {cores} cores, {}, load {}; two threads that only count / one: {:.2}x\n\
         medians of {ROUNDS} interleaved rounds\n",
        std::env::consts::OS,
        std::env::consts::ARCH,
        model.map_or("unknown processor", |(_, model)| model),
        read("/proc/loadavg").split(' ').next().unwrap_or("unknown"),
        two_threads()
    );
}
