//! actix-session with its cookie store, and actix-identity on top of it.

use std::{collections::HashMap, future::Future, time::Duration};

use actix_identity::{Identity, IdentityExt as _, IdentityMiddleware};
use actix_session::{
    SessionExt as _, SessionMiddleware,
    config::PersistentSession,
    storage::{CookieSessionStore, LoadError, SaveError, SessionKey, SessionStore, UpdateError},
};
use actix_web::{
    Error, HttpMessage as _, HttpRequest,
    cookie::{Key, time::Duration as Span},
    error::ErrorInternalServerError,
};

use super::{Layer, Log};
use crate::erased::Erased;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct Sessions(Log);

impl Layer for Sessions {
    fn wrap(&self) -> Erased {
        Erased::new(session(&self.0))
    }

    fn touch(&self, request: &HttpRequest) -> Result<(), Error> {
        let session = request.get_session();
        let paid = session.get::<u32>("paid")?.unwrap_or(0);
        Ok(session.insert("paid", paid + 1)?)
    }

    fn look(&self, request: &HttpRequest) -> Result<String, Error> {
        Ok(format!("paid {:?}", request.get_session().get::<u32>("paid")?))
    }

    fn seen(&self) -> Vec<String> {
        self.0.take()
    }

    fn constant(&self, name: &str, value: &str) -> String {
        without_cookie_value(name, value)
    }
}

#[derive(Default)]
pub(super) struct Identities(Log);

impl Layer for Identities {
    fn wrap(&self) -> Erased {
        // It writes the time of each visit into the session.
        let identity = IdentityMiddleware::builder().visit_deadline(Some(HOUR)).build();
        Erased::new(identity).and(Erased::new(session(&self.0)))
    }

    fn touch(&self, request: &HttpRequest) -> Result<(), Error> {
        Identity::login(&request.extensions(), "alice".into()).map_err(ErrorInternalServerError)?;
        Ok(())
    }

    fn look(&self, request: &HttpRequest) -> Result<String, Error> {
        let identity = request.get_identity().ok();
        Ok(format!("logged in: {:?}", identity.map(|identity| identity.id().expect("an id"))))
    }

    fn seen(&self) -> Vec<String> {
        self.0.take()
    }

    fn constant(&self, name: &str, value: &str) -> String {
        without_cookie_value(name, value)
    }
}

/// The cookie of a session is encrypted with a random nonce.
pub(super) fn without_cookie_value(name: &str, value: &str) -> String {
    match value.split_once(';') {
        Some((pair, attributes)) if name == "set-cookie" => {
            format!("{}=…;{attributes}", pair.split('=').next().unwrap_or_default())
        }
        _ => value.to_owned(),
    }
}

/// Sessions in cookies, whose store logs its calls.
pub(super) fn session(log: &Log) -> SessionMiddleware<Logged> {
    let store = Logged { store: CookieSessionStore::default(), log: log.clone() };
    let lifecycle = PersistentSession::default().session_ttl(HOUR.try_into().expect("an hour"));
    SessionMiddleware::builder(store, Key::from(&[7; 64])).cookie_secure(false).session_lifecycle(lifecycle).build()
}

pub(super) struct Logged {
    store: CookieSessionStore,
    log: Log,
}

type State = HashMap<String, String>;

/// The entries of a session, without values that tell the time.
fn text(state: &State) -> String {
    let value = |name: &str, value: &str| if name.ends_with("_at") { "…".into() } else { value.to_owned() };
    let mut entries: Vec<_> = state.iter().map(|(name, text)| format!("{name} {}", value(name, text))).collect();
    entries.sort();
    entries.join(", ")
}

impl SessionStore for Logged {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        let state = self.store.load(key).await?;
        self.log.push(format!("load: {:?}", state.as_ref().map(text)));
        Ok(state)
    }

    async fn save(&self, state: State, ttl: &Span) -> Result<SessionKey, SaveError> {
        self.log.push(format!("save: {}", text(&state)));
        self.store.save(state, ttl).await
    }

    async fn update(&self, key: SessionKey, state: State, ttl: &Span) -> Result<SessionKey, UpdateError> {
        self.log.push(format!("update: {}", text(&state)));
        self.store.update(key, state, ttl).await
    }

    fn update_ttl(&self, key: &SessionKey, ttl: &Span) -> impl Future<Output = Result<(), anyhow::Error>> {
        self.log.push("prolong".into());
        self.store.update_ttl(key, ttl)
    }

    fn delete(&self, key: &SessionKey) -> impl Future<Output = Result<(), anyhow::Error>> {
        self.log.push("delete".into());
        self.store.delete(key)
    }
}
