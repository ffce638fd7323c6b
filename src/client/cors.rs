//! What a browser has to be told, where scripts of other origins send keys: the default names of the headers, for a CORS
//! middleware.
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
//! Stands outside of the wrap, so that a script can read refusals and replays too. Where settings choose other names
//! (`header`, `replay_header`, `expires_header`), so must you.

/// `Access-Control-Allow-Headers`: what a script may send.
pub const ALLOW_HEADERS: [&str; 1] = ["idempotency-key"];

/// `Access-Control-Expose-Headers`: what a script may read.
pub const EXPOSE_HEADERS: [&str; 4] = ["idempotent-replayed", "idempotency-body", "retry-after", "link"];
