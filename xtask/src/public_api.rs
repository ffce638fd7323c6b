//! Lists the public items, and the other crates whose types appear in them. Both are read from rustdoc's JSON and
//! compared with files in the repository, so that a change of either is seen in review.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use serde_json::Value;

use crate::{command::Step, rustdoc::rustdoc};

/// One line per public item. Renewed by `cargo xtask release --bless`.
const LISTING: &str = "xtask/public-api.txt";
/// The crates whose types and traits may appear in the public API, each with a reason. Written by hand.
const CRATES: &str = "xtask/public-crates.txt";
/// Crates that need no line in [`CRATES`].
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
            "the public API differs from {LISTING}; if this is intended, `cargo xtask release --bless` renews the file"
        ));
    }
    api.check_crates()
}

pub(crate) fn bless() -> Step {
    let api = PublicApi::read()?;
    let lines: String = api.lines.iter().flat_map(|line| [line, "\n"]).collect();
    fs::write(LISTING, lines).map_err(|error| format!("{LISTING}: {error}"))?;
    println!("{LISTING}: {} lines", api.lines.len());
    // A new foreign crate needs a reason, so a person has to add it to the file.
    api.check_crates()
}

struct PublicApi {
    rustdoc: Value,
    lines: BTreeSet<String>,
    /// Other crates, with the public items in which their types appear.
    crates: BTreeMap<String, BTreeSet<String>>,
}

impl PublicApi {
    fn read() -> Result<Self, String> {
        rustdoc("public API", &["-Z", "unstable-options", "--output-format", "json"])?;
        // target/debug/xtask
        let this = env::current_exe().map_err(|error| error.to_string())?;
        let target = this.ancestors().nth(2).ok_or("the path of this program is not in a target directory")?;
        let json = target.join("doc/actix_idempotency.json");
        let text = fs::read(&json).map_err(|error| format!("{}: {error}", json.display()))?;
        let rustdoc: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", json.display()))?;
        let mut api = Self { rustdoc, lines: BTreeSet::new(), crates: BTreeMap::new() };
        let root = api.rustdoc["root"].clone();
        let root = api.item(&root).ok_or("rustdoc's JSON has no root: a format that this program does not know")?;
        api.children(&root["inner"]["module"]["items"], "actix_idempotency");
        Ok(api)
    }

    /// An item of this crate. A copy, because the caller looks up further items while it reads this one.
    fn item(&self, id: &Value) -> Option<Value> {
        self.rustdoc["index"].get(id.to_string()).cloned()
    }

    fn children(&mut self, ids: &Value, path: &str) {
        for id in list(ids) {
            self.visit(id, path, None);
        }
    }

    /// Lists an item and the items inside it. `name` is the name under which it is re-exported.
    fn visit(&mut self, id: &Value, above: &str, name: Option<&str>) {
        let Some(item) = self.item(id) else { return };
        // rustdoc leaves out private fields, and hidden variants and items.
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
        for inside in [
            &inner["items"],
            &inner["fields"],
            &inner["variants"],
            &inner["kind"]["plain"]["fields"],
            &inner["kind"]["tuple"],
            &inner["kind"]["struct"]["fields"],
            &inner["impls"],
            // Implementations of a trait for types that are not listed themselves.
            &inner["implementations"],
        ] {
            self.children(inside, &path);
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
        // Blanket implementations belong to other crates. Those of auto traits follow from fields, and
        // cargo-semver-checks looks at them.
        if !block["blanket_impl"].is_null() || block["is_synthetic"] == true {
            return;
        }
        if block["trait"].is_null() {
            return self.children(&block["items"], path);
        }
        let line = format!("impl {} for {}", named(&block["trait"]), type_name(&block["for"]));
        // The compiler adds this one to every derived `PartialEq`.
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

    /// Notes the crate of every type and trait that appears anywhere in `part`.
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
        // Private items of this crate have no summary.
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

/// The last segment of a path, with its type arguments.
fn named(path: &Value) -> String {
    let name = text(&path["path"]).rsplit("::").next().unwrap_or_default();
    let arguments: Vec<String> =
        list(&path["args"]["angle_bracketed"]["args"]).iter().map(|argument| type_name(&argument["type"])).collect();
    if arguments.is_empty() { name.to_owned() } else { format!("{name}<{}>", arguments.join(", ")) }
}

/// A short form of a type, precise enough to tell implementations apart.
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
