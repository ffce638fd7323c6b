//! The crate with the crates that people use around it, in every combination. README.md describes the matrix.

pub mod answer;
pub mod app;
mod browser;
pub mod case;
pub mod differences;
pub mod erased;
pub mod layers;
pub mod play;
