//! The manual's table of settings, and the variables that are none.

use std::{collections::BTreeSet, fs};

use actix_idempotency::{Settings, settings::Profile};

use super::{
    oracle::{ROOT, STORAGE},
    property::variable,
};

/// The rows of the table in the manual: the name, and the defaults of the three profiles.
fn documented() -> Vec<(String, [String; 3])> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let table = page.split("## All settings").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| {
        let cells: Vec<String> = row.split('|').skip(1).map(|cell| cell.trim().replace('`', "")).collect();
        let of = |n: usize| if cells[n].is_empty() { cells[1].clone() } else { cells[n].clone() };
        let defaults = [1, 2, 3].map(of);
        cells[0].split(", ").map(|name| (name.to_owned(), defaults.clone())).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_manual_names_every_setting_and_its_defaults() {
    let documented = documented();
    let storage = STORAGE.iter().map(|setting| format!("storage.{}", setting.name));
    let known: BTreeSet<String> = ROOT.iter().map(|setting| setting.name.to_owned()).chain(storage).collect();
    let names: BTreeSet<String> = documented.iter().map(|(name, _)| name.clone()).collect();
    let others = BTreeSet::from(["caches.NAME.*".to_owned()]);
    assert_eq!(names, &known | &others);
    let shown = |settings: &Settings, name: &str| match name.strip_prefix("storage.") {
        Some(name) => (STORAGE.iter().find(|setting| setting.name == name).unwrap().show)(&settings.storage),
        None => (ROOT.iter().find(|setting| setting.name == name).unwrap().show)(settings),
    };
    for (name, defaults) in documented.iter().filter(|(name, _)| known.contains(name) && name != "profile") {
        for (profile, default) in [Profile::Default, Profile::Ietf, Profile::Stripe].into_iter().zip(defaults) {
            let ietf = &documented.iter().find(|(name, _)| name == "storage.store_on_statuses").unwrap().1[1];
            let value =
                if default == "empty" { String::new() } else { default.replace("ietf's and", &format!("{ietf},")) };
            let loader = Settings::loader().profile(profile).environment([(variable(name, &[false]), value)]);
            let said = loader.load().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(shown(&said, name), shown(&Settings::of(profile), name), "{name} of {profile:?}");
        }
    }
}

#[test]
fn the_manual_names_every_difference_of_stripe_v2_to_stripe() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let table = page.split("| setting | `stripe-v2` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let variables = rows.map(|row| {
        let cells: Vec<String> = row.split('|').skip(1).map(|cell| cell.trim().replace('`', "")).collect();
        (variable(&cells[0], &[false]), cells[1].clone())
    });
    let said = Settings::loader().profile(Profile::Stripe).environment(variables.collect::<Vec<_>>()).load().unwrap();
    let defaults = Settings::of(Profile::StripeV2);
    for setting in ROOT.iter().filter(|setting| setting.name != "profile") {
        assert_eq!((setting.show)(&said), (setting.show)(&defaults), "{}", setting.name);
    }
    for setting in STORAGE {
        assert_eq!((setting.show)(&said.storage), (setting.show)(&defaults.storage), "{}", setting.name);
    }
}

/// They would set nothing, and look as if they did.
#[test]
fn the_variables_that_kubernetes_makes_for_a_service_of_this_name_stop_the_start() {
    for name in ["IDEMPOTENCY_KEY_SERVICE_HOST", "IDEMPOTENCY_KEY_PORT", "IDEMPOTENCY_KEY_PORT_80_TCP_ADDR"] {
        let error = Settings::loader().environment([(name, "10.0.0.1")]).load().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let others = [("IDEMPOTENCY_KEYS", "1"), ("MY_IDEMPOTENCY_KEY__LOCK", "1"), ("IDEMPOTENCY", "1")];
    assert!(Settings::loader().environment(others).load().is_ok(), "other variables are not the crate's");
}
