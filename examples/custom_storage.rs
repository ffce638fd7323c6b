//! A custom storage: a folder with one file per record, so that records survive a restart.
//!
//! Run it with `cargo run --example custom_storage`. The environment variable `FOLDER` sets the folder.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_idempotency::{Idempotency, IdempotencyKey, Settings, Storage, store::StoreError};
use actix_web::{App, HttpResponse, HttpServer, web};
use bytes::Bytes;

/// Each file holds the time at which it expires, in seconds since the Unix epoch, and then the value.
struct Folder(PathBuf);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn found<T>(result: io::Result<T>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::unavailable(error)),
    }
}

/// Writes another file and renames it, so that a reader sees the whole value or none.
fn write(path: &Path, expires: u64, value: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, [&expires.to_be_bytes(), value].concat())?;
    fs::rename(aside, path)
}

impl Storage for Folder {
    // Names consist of hexadecimal digits, so they are safe as file names. This example reads files in the worker
    // thread, because they are short. A real storage must not block its worker.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(file) = found(fs::read(self.0.join(name)))?.map(Bytes::from) else { return Ok(None) };
        let Some((expires, _)) = file.split_first_chunk::<8>() else {
            return Err(StoreError::unavailable("a record's file is cut short"));
        };
        Ok((now() < u64::from_be_bytes(*expires)).then(|| file.slice(8..)))
    }

    async fn put(&self, name: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        write(&self.0.join(name), now() + ttl.as_secs(), &value).map_err(StoreError::unavailable)
    }

    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(found(fs::remove_file(self.0.join(name)))?.is_some())
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = env::var_os("FOLDER").map_or_else(|| env::temp_dir().join("idempotency-records"), PathBuf::from);
    fs::create_dir_all(&folder)?;
    let mut settings = Settings::load()?;
    settings.storage.class = "folder".into();
    let idempotency = Idempotency::builder().settings(settings).storage("folder", Folder(folder)).build()?;
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(IdempotencyKey::default().using(&idempotency))
            .route("/orders", web::post().to(async || HttpResponse::Created().body("ordered\n")))
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    println!("listening on {}", server.addrs()[0]);
    server.run().await?;
    Ok(())
}
