//! Endpoints that an application mounts: the operators' page and its JSON.

mod admin;
