//! The header names that a CORS middleware has to allow and expose, where scripts of other origins send keys.
//!
//! ```
//! use actix_cors::Cors;
//! use actix_idempotency::cors;
//!
//! let cors = Cors::default()
//!     .allowed_origin("https://shop.example")
//!     .allowed_methods(["POST"])
//!     .allowed_headers(cors::ALLOW_HEADERS)
//!     .allowed_header("content-type")
//!     .expose_headers(cors::EXPOSE_HEADERS);
//! # let _ = cors;
//! ```
//!
//! Put the CORS middleware outside of the wrap, so that a script can read refusals and replays too. These are the
//! default names: where the settings `header`, `replay_header`, `original_status_header`, `expires_header` or
//! `should_retry_headers` choose others, name those. Where a wrap has `body = stream`, allow `content-digest` besides.

/// `Access-Control-Allow-Headers`: the headers that a script may send.
pub const ALLOW_HEADERS: [&str; 2] = ["idempotency-key", "prefer"];

/// `Access-Control-Expose-Headers`: the headers that a script may read.
pub const EXPOSE_HEADERS: [&str; 7] = [
    "idempotent-replayed",
    "idempotent-status",
    "idempotency-body",
    "retry-after",
    "link",
    "location",
    "preference-applied",
];
