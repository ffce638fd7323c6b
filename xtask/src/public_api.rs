//! What users can name, and whose types they meet there: read from rustdoc's JSON and compared with what the repository
//! keeps, so that a change of either shows in review.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use serde_json::Value;

use crate::{command::Step, rustdoc::rustdoc};

/// One line per public item. Renewed by `cargo xtask release --bless`.
const LISTING: &str = "xtask/public-api.txt";
/// The crates whose types and traits users may meet, each with a reason. Written by hand.
const CRATES: &str = "xtask/public-crates.txt";
/// Always there.
const STANDARD: [&str; 3] = ["alloc", "core", "std"];

pub(crate) fn check() -> Step {
    let api = PublicApi::read()?;
    let kept = fs::read_to_string(LISTING).map_err(|error| format!("{LISTING}: {error}"))?;
    let kept: BTreeSet<&str> = kept.lines().collect();
    let now: BTreeSet<&str> = api.lines.iter().map(String::as_str).collect();
    if kept != now {
        kept.difference(&now).for_each(|gone| println!("- {gone}"));
        now.difference(&kept).for_each(|new| println!("+ {new}"));
        return Err(format!(
            "the public API is not that of {LISTING}; if this is meant, `cargo xtask release --bless` renews it"
        ));
    }
    api.check_crates()
}

pub(crate) fn bless() -> Step {
    let api = PublicApi::read()?;
    let lines: String = api.lines.iter().flat_map(|line| [line, "\n"]).collect();
    fs::write(LISTING, lines).map_err(|error| format!("{LISTING}: {error}"))?;
    println!("{LISTING}: {} lines", api.lines.len());
    // Whose types these are is nobody's to bless but a person's.
    api.check_crates()
}

struct PublicApi {
    rustdoc: Value,
    lines: BTreeSet<String>,
    /// Other crates, and the items that speak of them.
    crates: BTreeMap<String, BTreeSet<String>>,
}

impl PublicApi {
    fn read() -> Result<Self, String> {
        rustdoc("public API", &["-Z", "unstable-options", "--output-format", "json"])?;
        // target/debug/xtask
        let this = env::current_exe().map_err(|error| error.to_string())?;
        let target = this.ancestors().nth(2).ok_or("where is the target directory?")?;
        let json = target.join("doc/actix_idempotency.json");
        let text = fs::read(&json).map_err(|error| format!("{}: {error}", json.display()))?;
        let rustdoc: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", json.display()))?;
        let mut api = Self { rustdoc, lines: BTreeSet::new(), crates: BTreeMap::new() };
        let root = api.rustdoc["root"].clone();
        let root = api.item(&root).ok_or("rustdoc's JSON has no root: a format that this program does not know")?;
        api.children(&root["inner"]["module"]["items"], "actix_idempotency");
        Ok(api)
    }

    /// An item of this crate. A copy, since what it refers to is looked up while it is looked at.
    fn item(&self, id: &Value) -> Option<Value> {
        self.rustdoc["index"].get(id.to_string()).cloned()
    }

    fn children(&mut self, ids: &Value, path: &str) {
        for id in list(ids) {
            self.visit(id, path, None);
        }
    }

    /// Lists an item and all that is beneath it. `name` is the one that it is re-exported by.
    fn visit(&mut self, id: &Value, above: &str, name: Option<&str>) {
        let Some(item) = self.item(id) else { return };
        // Fields, variants and a trait's items that are not for users are left out by rustdoc already.
        if !["public", "default"].contains(&text(&item["visibility"])) {
            return;
        }
        let Some((kind, inner)) = item["inner"].as_object().and_then(|inner| inner.iter().next()) else { return };
        match kind.as_str() {
            "use" => return self.re_export(inner, above),
            "impl" => return self.implementation(inner, above),
            _ => {}
        }
        let path = format!("{above}::{}", name.unwrap_or(text(&item["name"])));
        let line = format!("{} {path}", kind.replace("assoc_", "associated ").replace('_', " "));
        self.note_crates(inner, &line);
        self.lines.insert(line);
        for beneath in [
            &inner["items"],
            &inner["fields"],
            &inner["variants"],
            &inner["kind"]["plain"]["fields"],
            &inner["kind"]["tuple"],
            &inner["kind"]["struct"]["fields"],
            &inner["impls"],
            // A trait's, for types that are not listed themselves.
            &inner["implementations"],
        ] {
            self.children(beneath, &path);
        }
    }

    fn re_export(&mut self, used: &Value, above: &str) {
        match self.item(&used["id"]) {
            Some(module) if used["is_glob"] == true => self.children(&module["inner"]["module"]["items"], above),
            Some(_) => self.visit(&used["id"], above, Some(text(&used["name"]))),
            None => {
                let line = format!("use {above}::{} = {}", text(&used["name"]), text(&used["source"]));
                self.note_crate(&used["id"], &line);
                self.lines.insert(line);
            }
        }
    }

    fn implementation(&mut self, block: &Value, path: &str) {
        // Blanket ones are other crates' doing. Those of auto traits follow from fields: cargo-semver-checks looks at them.
        if !block["blanket_impl"].is_null() || block["is_synthetic"] == true {
            return;
        }
        if block["trait"].is_null() {
            return self.children(&block["items"], path);
        }
        let line = format!("impl {} for {}", named(&block["trait"]), type_name(&block["for"]));
        // The compiler's own, beside every derived `PartialEq`.
        if line.contains("StructuralPartialEq") {
            return;
        }
        self.note_crates(block, &line);
        for id in list(&block["items"]) {
            if let Some(item) = self.item(id) {
                self.note_crates(&item["inner"], &line);
            }
        }
        self.lines.insert(line);
    }

    /// Every path to a type or trait, wherever it is in `part`.
    fn note_crates(&mut self, part: &Value, line: &str) {
        match part {
            Value::Array(parts) => parts.iter().for_each(|part| self.note_crates(part, line)),
            Value::Object(parts) => {
                if parts.contains_key("path") && parts.contains_key("args") {
                    self.note_crate(&part["id"], line);
                }
                parts.values().for_each(|part| self.note_crates(part, line));
            }
            _ => {}
        }
    }

    fn note_crate(&mut self, id: &Value, line: &str) {
        // What is private to this crate has none.
        let summary = &self.rustdoc["paths"][id.to_string()];
        if summary["crate_id"].as_u64().is_some_and(|number| number != 0) {
            let name = text(&summary["path"][0]).to_owned();
            self.crates.entry(name).or_default().insert(line.to_owned());
        }
    }

    fn check_crates(&self) -> Step {
        let kept = fs::read_to_string(CRATES).map_err(|error| format!("{CRATES}: {error}"))?;
        let kept: BTreeSet<&str> = kept
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once(": ")?.0))
            .collect();
        let mut wrong = Vec::new();
        for (name, lines) in &self.crates {
            if !kept.contains(name.as_str()) && !STANDARD.contains(&name.as_str()) {
                let some: Vec<&str> = lines.iter().take(3).map(String::as_str).collect();
                wrong.push(format!("`{name}` is in the public API ({}) and not in {CRATES}", some.join("; ")));
            }
        }
        for name in kept {
            if !self.crates.contains_key(name) {
                wrong.push(format!("`{name}` is in {CRATES} and not in the public API"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A path by its last name, with its arguments where they are types.
fn named(path: &Value) -> String {
    let name = text(&path["path"]).rsplit("::").next().unwrap_or_default();
    let arguments: Vec<String> =
        list(&path["args"]["angle_bracketed"]["args"]).iter().map(|argument| type_name(&argument["type"])).collect();
    if arguments.is_empty() { name.to_owned() } else { format!("{name}<{}>", arguments.join(", ")) }
}

/// Enough to tell implementations apart.
fn type_name(of: &Value) -> String {
    let Some((kind, inner)) = of.as_object().and_then(|of| of.iter().next()) else { return "_".into() };
    match kind.as_str() {
        "resolved_path" => named(inner),
        "primitive" | "generic" => text(inner).into(),
        "borrowed_ref" => format!("&{}", type_name(&inner["type"])),
        "slice" => format!("[{}]", type_name(inner)),
        "array" => format!("[{}; _]", type_name(&inner["type"])),
        "tuple" => format!("({})", list(inner).iter().map(type_name).collect::<Vec<_>>().join(", ")),
        _ => "_".into(),
    }
}
