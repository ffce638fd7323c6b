//! Policies: which wrap, guard or rule governs a request, the order of middleware, and refused requests.

mod asking;
mod layers_inside;
mod layers_outside;
mod misuse;
mod nesting;
mod ordering;
mod policies;
mod witness;
