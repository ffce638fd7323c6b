//! The head of a request: borrowed while the request is at hand, or copied before the request goes inside.

use std::net::SocketAddr;

use actix_http::ConnectionType;
use actix_web::{
    dev,
    http::{
        Method, Uri, Version,
        header::{self, HeaderName, HeaderValue},
    },
};

use crate::key::RequestHeaders;

/// The parts of a head that the decision needs.
pub(in crate::middleware) struct HeadRef<'a> {
    pub(in crate::middleware) method: &'a Method,
    pub(in crate::middleware) uri: &'a Uri,
    pub(in crate::middleware) headers: RequestHeaders<'a>,
}

/// A copy of a request's head, for the decision and for a synthetic request. The headers are a list, because a map
/// takes several times as long to copy.
#[derive(Default)]
pub(in crate::middleware) struct RequestHead {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) version: Version,
    pub(super) peer: Option<SocketAddr>,
    pub(super) connection: Option<ConnectionType>,
}

impl RequestHead {
    pub(in crate::middleware) fn of(head: &dev::RequestHead) -> Self {
        let mut headers = Vec::with_capacity(head.headers.len_keys());
        for (name, value) in &head.headers {
            headers.push((name.clone(), value.clone()));
        }
        Self { headers, ..Self::without_headers(head) }
    }

    /// The part that layers outside look at when the handler has panicked.
    pub(super) fn for_a_panic(head: &dev::RequestHead) -> Self {
        let origin = head.headers.get(header::ORIGIN).map(|origin| (header::ORIGIN, origin.clone()));
        Self { headers: origin.into_iter().collect(), ..Self::without_headers(head) }
    }

    fn without_headers(head: &dev::RequestHead) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            headers: Vec::new(),
            version: head.version,
            peer: head.peer_addr,
            connection: Some(head.connection_type()),
        }
    }

    pub(super) fn as_ref(&self) -> HeadRef<'_> {
        HeadRef { method: &self.method, uri: &self.uri, headers: RequestHeaders::from(&self.headers[..]) }
    }
}
