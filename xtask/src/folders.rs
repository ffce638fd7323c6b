//! Checks the imports between the folders of `src`: a folder may name only folders below it.
//!
//! The order is the one in which `docs/architecture.md` describes the folders. An arrow (folder A names folder B) that
//! runs upward fails the check, so there can be no circle of folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

use crate::command::Step;

/// The folders of `src`, from the top floor to the ground. Each may use those that come after it.
const FLOORS: [&str; 15] = [
    "testing",
    "endpoints",
    "middleware",
    "app",
    "claim",
    "handler",
    "ledger",
    "client",
    "settings",
    "store",
    "observe",
    "sealing",
    "record",
    "key",
    "policy",
];

/// Folders whose subfolders have an order, too.
const ROOMS: [(&str, &[&str]); 1] = [("middleware", &["response", "request"])];

/// Pairs of a folder and a folder that it names, each with one file that does so.
type Arrows = BTreeMap<(String, String), PathBuf>;

pub(crate) fn check() -> Step {
    let arrows = arrows_of(Path::new("src"), &[])?;
    let mut wrong = upward(&arrows, &FLOORS);
    for (folder, order) in ROOMS {
        let arrows = arrows_of(&Path::new("src").join(folder), &[folder])?;
        wrong.extend(upward(&arrows, order));
    }
    if wrong.is_empty() {
        println!("== folders: {} imports between folders, all of them downward", arrows.len());
        return Ok(());
    }
    Err(format!("folders: these name a folder that is not below them:\n{}", wrong.join("\n")))
}

/// The arrows that do not run downward in `order`. A new folder of `src` that is missing in [`FLOORS`] is an error too.
fn upward(arrows: &Arrows, order: &[&str]) -> Vec<String> {
    let floor = |folder: &str| order.iter().position(|known| *known == folder);
    let wrong = arrows.iter().filter(|((from, to), _)| match (floor(from), floor(to)) {
        (Some(from), Some(to)) => from > to,
        _ => order == FLOORS,
    });
    wrong.map(|((from, to), file)| format!("  {from} -> {to} ({})", file.display())).collect()
}

/// Reads every file below `root`, which is the module `path`, and collects what its folders name of each other.
fn arrows_of(root: &Path, path: &[&str]) -> Result<Arrows, String> {
    let mut arrows = Arrows::new();
    for file in files_below(root)? {
        let inside: Vec<_> = file.strip_prefix(root).map_err(|error| error.to_string())?.iter().collect();
        // A file beside the folders (`lib.rs`, `mod.rs`) may name all of them.
        let [folder, _, ..] = inside[..] else { continue };
        let folder = folder.to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        for to in named_in(&text, path).map_err(|error| format!("{}: {error}", file.display()))? {
            if to != folder {
                arrows.entry((folder.clone(), to)).or_insert_with(|| file.clone());
            }
        }
    }
    Ok(arrows)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The names of this crate below the module `path` that a file uses outside of its tests.
fn named_in(text: &str, path: &[&str]) -> syn::Result<BTreeSet<String>> {
    let mut names = Names { path, found: BTreeSet::new() };
    names.visit_file(&syn::parse_file(text)?);
    Ok(names.found)
}

struct Names<'a> {
    path: &'a [&'a str],
    found: BTreeSet<String>,
}

impl Names<'_> {
    /// Takes the segment that follows `crate` and `path`.
    fn take(&mut self, segments: &[String]) {
        if segments.first().is_some_and(|first| first == "crate")
            && segments.len() > self.path.len() + 1
            && segments[1..].iter().zip(self.path).all(|(segment, wanted)| segment == wanted)
        {
            self.found.insert(segments[self.path.len() + 1].clone());
        }
    }

    fn take_tree(&mut self, before: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.take_tree(before, &path.tree);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.take_tree(before, tree)),
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                before.push(ident.to_string());
                self.take(before);
                before.pop();
            }
            syn::UseTree::Glob(_) => self.take(before),
        }
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.take_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.take(&segments);
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = module.attrs.iter().any(|attribute| match &attribute.meta {
            syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
            _ => false,
        });
        if !is_test {
            visit::visit_item_mod(self, module);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, path: &[&str]) -> Vec<String> {
        named_in(text, path).unwrap().into_iter().collect()
    }

    #[test]
    fn imports_and_paths_are_seen_and_tests_and_comments_are_not() {
        let text = "
            //! [`crate::claim`]
            use crate::{store::{Claim, clock::Clock}, key::Key};
            fn f() { crate::record::Record::new(std::mem::take(&mut 1)) }
            #[cfg(test)]
            mod tests { use crate::app::Builder; }
        ";
        assert_eq!(names(text, &[]), ["key", "record", "store"]);
        assert_eq!(names("use crate::middleware::response::body::AnswerBody;", &["middleware"]), ["response"]);
        assert_eq!(names("use crate::middleware::{request::body, run};", &["middleware"]), ["request", "run"]);
    }

    #[test]
    fn an_arrow_upward_and_an_unknown_folder_are_refused() {
        let arrow = |from: &str, to: &str| Arrows::from([((from.into(), to.into()), PathBuf::from("src/x.rs"))]);
        assert!(upward(&arrow("claim", "store"), &FLOORS).is_empty());
        assert_eq!(upward(&arrow("store", "claim"), &FLOORS), ["  store -> claim (src/x.rs)"]);
        assert_eq!(upward(&arrow("attic", "store"), &FLOORS).len(), 1);
        assert!(upward(&arrow("response", "request"), ROOMS[0].1).is_empty());
        assert_eq!(upward(&arrow("request", "response"), ROOMS[0].1).len(), 1);
    }
}
