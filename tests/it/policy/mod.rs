//! Policies: which wrap, guard or rule governs a request, the order of middleware, and refused requests.

mod misuse;
mod nesting;
mod ordering;
mod policies;
