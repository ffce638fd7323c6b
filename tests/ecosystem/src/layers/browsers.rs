//! Layers that speak with browsers: actix-cors, actix-csrf and actix-web-flash-messages.

use actix_csrf::{
    CsrfMiddleware,
    extractor::{Csrf as Checked, CsrfHeader, CsrfToken},
};
use actix_idempotency::cors::EXPOSE_HEADERS;
use actix_web::{
    Error, FromRequest as _, HttpRequest, cookie::Key, dev::Payload, error::ErrorInternalServerError, http::Method,
};
use actix_web_flash_messages::{
    FlashMessage, FlashMessagesFramework, IncomingFlashMessages, storage::CookieMessageStore,
};
use awc::ClientRequest;
use futures_util::FutureExt as _;
use rand::rngs::StdRng;

use super::{Layer, sessions::without_cookie_value};
use crate::erased::Erased;

pub(super) struct Cors;

impl Layer for Cors {
    fn wrap(&self) -> Erased {
        let cors = actix_cors::Cors::default().allowed_origin("https://shop.example").allow_any_method();
        Erased::new(cors.allow_any_header().expose_headers(EXPOSE_HEADERS.iter().copied()))
    }

    fn dress(&self, request: ClientRequest) -> ClientRequest {
        request.insert_header(("origin", "https://shop.example"))
    }

    /// The names in a list are in no order.
    fn constant(&self, name: &str, value: &str) -> String {
        if !name.starts_with("access-control-expose") && name != "vary" {
            return value.to_owned();
        }
        let mut names: Vec<_> = value.split(", ").collect();
        names.sort_unstable();
        names.join(", ")
    }
}

/// Its middleware sets the cookie of each request, and its extractor in the handler compares cookie and header.
pub(super) struct Csrf;

impl Layer for Csrf {
    fn wrap(&self) -> Erased {
        Erased::new(CsrfMiddleware::<StdRng>::new().set_cookie(Method::POST, "/api/pay/{id}"))
    }

    fn dress(&self, request: ClientRequest) -> ClientRequest {
        request.insert_header(("csrf-token", "token")).insert_header(("cookie", "__Host-Csrf-Token=token"))
    }

    fn touch(&self, request: &HttpRequest) -> Result<(), Error> {
        let token = CsrfToken::extract(request).now_or_never().expect("no waiting")?;
        assert!(!token.get().is_empty(), "the token of the next request");
        let checked = Checked::<CsrfHeader>::from_request(request, &mut Payload::None);
        checked.now_or_never().expect("no waiting").map_err(|_| ErrorInternalServerError("the tokens differ"))?;
        Ok(())
    }

    fn constant(&self, name: &str, value: &str) -> String {
        without_cookie_value(name, value)
    }
}

pub(super) struct FlashMessages;

impl Layer for FlashMessages {
    fn wrap(&self) -> Erased {
        let store = CookieMessageStore::builder(Key::from(&[7; 64])).build();
        Erased::new(FlashMessagesFramework::builder(store).build())
    }

    fn touch(&self, _request: &HttpRequest) -> Result<(), Error> {
        FlashMessage::info("paid").send();
        Ok(())
    }

    fn look(&self, request: &HttpRequest) -> Result<String, Error> {
        let messages = IncomingFlashMessages::extract(request).now_or_never().expect("no waiting")?;
        let texts: Vec<_> = messages.iter().map(FlashMessage::content).collect();
        Ok(texts.join(", "))
    }
}
