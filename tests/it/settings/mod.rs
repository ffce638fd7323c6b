//! Settings: their layers, their defaults, and their errors.

mod layers;
mod manual;
mod oracle;
mod property;
mod wraps;
