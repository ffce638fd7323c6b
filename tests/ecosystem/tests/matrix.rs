//! Makes a test of each case.

use std::{env, panic, process::ExitCode};

use actix_idempotency_ecosystem::{
    app::PANIC,
    case::{Case, Mounting, Outcome, Place, cases},
    differences::{DIFFERENCES, fits, table},
    layers::BROKEN,
    play::play,
};
use actix_web::rt::System;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(PANIC) {
            report(info);
        }
    }));
    let is_whole = env::var("ECOSYSTEM").is_ok_and(|value| value == "all");
    let checks = [
        Trial::test("the_readme_has_the_table_of_differences", the_readme_has_the_table_of_differences),
        Trial::test("each_known_difference_names_cases", each_known_difference_names_cases),
        Trial::test("the_differences_of_a_broken_layer_are_found", the_differences_of_a_broken_layer_are_found),
    ];
    let cases = cases(is_whole).into_iter().map(|case| Trial::test(case.to_string(), move || check(case)));
    libtest_mimic::run(&Arguments::from_args(), checks.into_iter().chain(cases).collect()).exit_code()
}

fn the_readme_has_the_table_of_differences() -> Result<(), Failed> {
    let table = table();
    if include_str!("../README.md").contains(&table) {
        return Ok(());
    }
    Err(format!("README.md should have this table:\n{table}").into())
}

fn each_known_difference_names_cases() -> Result<(), Failed> {
    let all = cases(true);
    for row in DIFFERENCES {
        for layer in row.layers {
            for &outcome in row.outcomes {
                for &mounting in row.mountings {
                    let case = Case { layer, place: row.place, outcome, mounting };
                    if !all.contains(&case) {
                        return Err(format!("there is no case {case}").into());
                    }
                }
            }
        }
    }
    Ok(())
}

fn the_differences_of_a_broken_layer_are_found() -> Result<(), Failed> {
    for place in [Place::Outside, Place::Inside] {
        let case = Case { layer: BROKEN, place, outcome: Outcome::FirstRun, mounting: Mounting::Alone };
        let found: Vec<_> = System::new().block_on(play(case)).into_iter().map(|found| found.what).collect();
        let wanted = ["answer 1: another `x-server`", "answer 2: another `x-server`", "seen less: ", "seen more: "];
        if !wanted.iter().all(|wanted| found.iter().any(|found| found.starts_with(wanted))) {
            return Err(format!("{place:?}: {found:?}").into());
        }
    }
    Ok(())
}

/// Fails if a difference is not in the table, or one of the table does not occur.
fn check(case: Case) -> Result<(), Failed> {
    let found = System::new().block_on(play(case));
    let rows = DIFFERENCES.iter().filter(|row| row.is_of(&case));
    let known: Vec<&str> = rows.flat_map(|row| row.what).copied().collect();
    let mut wrong = Vec::new();
    for found in &found {
        if !known.iter().any(|pattern| fits(pattern, &found.what)) {
            wrong.push(format!("not in the table of differences: {found}"));
        }
    }
    for pattern in known {
        if !found.iter().any(|found| fits(pattern, &found.what)) {
            wrong.push(format!("in the table of differences, and does not occur: {pattern}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
