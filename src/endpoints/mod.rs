//! What an application mounts: pages and JSON over the records.

mod admin;
