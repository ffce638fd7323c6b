//! actix-ws: a safe request, which passes the wrap.

use actix_web::{FromRequest as _, HttpRequest, dev::Payload, error::ErrorInternalServerError, http::Method, rt, web};
use actix_ws::Message;
use futures_util::StreamExt as _;

use super::{Handling, Layer};

pub(super) struct Sockets;

impl Layer for Sockets {
    fn method(&self) -> Method {
        Method::GET
    }

    fn is_socket(&self) -> bool {
        true
    }

    fn run(&self, request: HttpRequest, mut payload: Payload, n: usize) -> Handling<'_> {
        Box::pin(async move {
            let payload = web::Payload::from_request(&request, &mut payload).await?;
            let (response, mut session, mut messages) = actix_ws::handle(&request, payload)?;
            rt::spawn(async move {
                while let Some(Ok(message)) = messages.next().await {
                    let Message::Text(text) = message else { break };
                    if session.text(format!("run {n}: {text}")).await.is_err() {
                        return;
                    }
                }
                let _ = session.close(None).await;
            });
            Ok(response)
        })
    }

    fn fail(&self, _request: HttpRequest, _payload: Payload) -> Handling<'_> {
        Box::pin(async { Err(ErrorInternalServerError("no socket")) })
    }
}
