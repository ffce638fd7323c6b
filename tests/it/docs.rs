//! The pages of the manual: links that work in a checkout and on docs.rs.

use std::{collections::BTreeSet, fs, path::Path};

/// A link reference that a page defines at its end: `[key]: target`.
fn definitions(page: &str) -> Vec<(String, String)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
    lines.map(|(key, target)| (key.to_owned(), target.to_owned())).collect()
}

/// The keys that a page uses, as `[text][key]`.
fn uses(page: &str) -> BTreeSet<&str> {
    let is_key = |key: &&str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    page.split("][").skip(1).filter_map(|rest| rest.split(']').next()).filter(is_key).collect()
}

/// In the documentation of the crate, `links.md` comes before each page and defines its keys as paths of items. In a
/// checkout the page's own definitions count, as paths of files.
#[test]
fn links_lead_somewhere_in_a_checkout_and_on_docs_rs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let items: BTreeSet<String> = definitions(&fs::read_to_string(root.join("src/docs/links.md")).unwrap())
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.push(root.join("README.md"));
    for path in pages {
        let (page, folder) = (fs::read_to_string(&path).unwrap(), path.parent().unwrap());
        let defined = definitions(&page);
        for key in uses(&page) {
            assert!(defined.iter().any(|(known, _)| known == key), "{}: [{key}] is not defined", path.display());
        }
        for (key, target) in defined.iter().filter(|(_, target)| !target.contains("://")) {
            let file = target.split('#').next().unwrap();
            assert!(folder.join(file).exists(), "{}: [{key}] leads to {target}, which does not exist", path.display());
            assert!(items.contains(key), "{}: [{key}] would be a broken link on docs.rs", path.display());
        }
    }
}

/// The recipes are compiled and tested with a database in `tests/recipes`. Each has a part that the page shows.
#[test]
fn the_page_about_ledgers_shows_the_recipes_that_are_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/exactly-once.md")).unwrap();
    let mut recipes = 0;
    for entry in fs::read_dir(root.join("tests/recipes/src")).unwrap() {
        let path = entry.unwrap().path();
        let file = fs::read_to_string(&path).unwrap();
        let Some((_, shown)) = file.split_once("// The page has everything from here to the line.\n") else { continue };
        let (shown, _) = shown.split_once("\n// -----").unwrap();
        let block = format!("```rust,ignore\n{}\n```\n", shown.trim());
        assert!(page.contains(&block), "docs/exactly-once.md does not show {}", path.display());
        recipes += 1;
    }
    assert_eq!(recipes, page.matches("info.ledger_entry(&mut response)?").count(), "each recipe of the page is tested");
    assert!(recipes >= 4);
}
