//! The client of a case.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr};

use actix_web::http::{Method, StatusCode, header::HeaderMap};
use awc::{
    Client,
    error::WsClientError,
    ws::{Frame, Message},
};
use futures_util::{SinkExt as _, StreamExt as _};

use crate::{
    answer::Answer,
    case::{Act, Step},
    layers::Layer,
    play::LIMIT,
};

/// A client with cookies, and a new connection for each request.
#[derive(Default)]
pub(crate) struct Browser(RefCell<BTreeMap<String, String>>);

const KEY: &str = "idempotency-key";

impl Browser {
    /// Sends the `n`th request of a case to the server at `address`.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        path: &str,
        n: usize,
        step: Step,
        layer: &dyn Layer,
    ) -> Answer {
        let path = if step.act == Act::Look { "/api/look" } else { path };
        let url = format!("http://{address}{path}");
        if step.act != Act::Look && layer.is_socket() {
            return talk(&url, n, step).await;
        }
        let client = Client::builder().disable_redirects().timeout(LIMIT).finish();
        let method = if step.act == Act::Look { Method::GET } else { layer.method() };
        let has_body = method == Method::POST;
        let mut request = client.request(method, url).force_close().insert_header(("x-step", n));
        if let Some(key) = step.key {
            request = request.insert_header((KEY, key));
        }
        if has_body {
            request = request.insert_header(("content-type", "text/plain"));
        }
        let cookies: Vec<_> = self.0.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.insert_header(("cookie", cookies.join("; ")));
        }
        let request = layer.dress(request);
        let sent = if has_body { request.send_body(layer.body(step.is_other)) } else { request.send() };
        let Ok(mut response) = sent.await else { return Answer::default() };
        let headers = self.read(response.headers(), layer);
        let status = response.status().as_u16();
        match response.body().await {
            Ok(body) => Answer { status, headers, body: body.to_vec() },
            Err(_) => Answer::default(),
        }
    }

    /// Keeps the cookies of a response, and returns its headers, sorted.
    fn read(&self, headers: &HeaderMap, layer: &dyn Layer) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for (name, value) in headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if name == "set-cookie" {
                let pair = value.split(';').next().unwrap_or_default();
                let (name, value) = pair.split_once('=').expect("a cookie");
                if value.is_empty() {
                    self.0.borrow_mut().remove(name);
                } else {
                    self.0.borrow_mut().insert(name.to_owned(), value.to_owned());
                }
            }
            lines.push((name.as_str().to_owned(), layer.constant(name.as_str(), &value)));
        }
        lines.sort();
        lines
    }
}

/// Says one thing through a web socket. The body of the answer is the reply.
async fn talk(url: &str, n: usize, step: Step) -> Answer {
    let mut socket = Client::new().ws(url).set_header("x-step", n);
    if let Some(key) = step.key {
        socket = socket.set_header(KEY, key);
    }
    let mut connection = match socket.connect().await {
        Ok((_, connection)) => connection,
        Err(WsClientError::InvalidResponseStatus(status)) => {
            return Answer { status: status.as_u16(), ..Answer::default() };
        }
        Err(_) => return Answer::default(),
    };
    let mut body = Vec::new();
    let text = if step.is_other { "amount=2" } else { "amount=1" };
    if connection.send(Message::Text(text.into())).await.is_ok()
        && let Some(Ok(Frame::Text(reply))) = connection.next().await
    {
        body = reply.to_vec();
    }
    let _ = connection.send(Message::Close(None)).await;
    while let Some(Ok(frame)) = connection.next().await {
        if matches!(frame, Frame::Close(_)) {
            break;
        }
    }
    Answer { status: StatusCode::SWITCHING_PROTOCOLS.as_u16(), headers: Vec::new(), body }
}
