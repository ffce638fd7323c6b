//! Settings: their layers, their defaults, and their errors.

mod layers;
mod wraps;
