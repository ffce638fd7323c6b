//! Sealed records: what is found in stores, which keys open it, and what happens where none does.

mod checks;
mod client_mode;
mod common;
mod differences;
mod dumps;
mod ledgers;
mod lookups;
mod operators;
mod principals;
mod returning;
mod rotation;
mod start;
