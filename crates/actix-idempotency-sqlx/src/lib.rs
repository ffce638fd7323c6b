#![doc = include_str!("../README.md")]

mod error;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use self::error::Error;
#[cfg(feature = "postgres")]
pub use self::postgres::{Isolation, PgTx, SqlxPostgres};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteTx, SqlxSqlite};
