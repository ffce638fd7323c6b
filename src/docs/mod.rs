//! The manual, page by page. The pages are the files of `docs/` in the repository. The pages about settings, stores,
//! ledgers and steps are the documentation of the modules [`settings`](crate::settings), [`store`](crate::store),
//! [`ledger`](crate::ledger) and [`steps`](crate::steps).

// A page names other pages by link references. Each file defines them at its end, as paths of files. Here `links.md`
// comes first and defines them as paths of items; the first definition counts.

/// A page of `docs/` as a module.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = include_str!("links.md")]
        #[doc = ""]
        #[doc = include_str!(concat!("../../docs/", $file))]
        pub mod $name {}
    };
}

page!(architecture, "architecture.md");
page!(clients, "clients.md");
page!(cookbook, "cookbook.md");
page!(django, "django.md");
page!(guarantees, "guarantees.md");
page!(handlers, "handlers.md");
page!(layers, "layers.md");
page!(operating, "operating.md");
page!(policies, "policies.md");
page!(redis, "redis.md");
page!(security, "security.md");
