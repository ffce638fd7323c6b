//! The recipes of `docs/exactly-once.md` for libraries without an adapter: a handler inserts the ledger's row by itself, as
//! the last statement of its own transaction, and commits.
//!
//! The page quotes each file down to its line. `tests/it` runs all recipes with a real PostgreSQL:
//!
//! ```sh
//! cd tests/recipes
//! cargo test --target-dir ../../target/recipes
//! ```
//!
//! `cargo xtask test` does the same. The package has a workspace of its own, so that its many dependencies are not part of
//! the other builds.

pub mod diesel;
pub mod seaorm;
pub mod sqlx;
pub mod tokio_postgres;

/// The body of a request.
#[derive(serde::Deserialize)]
pub struct Order {
    pub amount: i64,
}

/// The tables of the application. The last constraint is checked by COMMIT.
pub const TABLES: &str = "\
CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount bigint NOT NULL CHECK (amount > 0));
CREATE TABLE limits (amount bigint PRIMARY KEY);
INSERT INTO limits SELECT generate_series(1, 1000);
ALTER TABLE payments ADD FOREIGN KEY (amount) REFERENCES limits DEFERRABLE INITIALLY DEFERRED;";
