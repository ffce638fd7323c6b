//! Requests whose bodies are not read before their keys are claimed (`body = stream`).

use std::cell::Cell;

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header::CONTENT_ENCODING,
};

use super::{
    operation::Operation,
    request::{Unsettled, Upload},
    response::capture,
    service::Governed,
};
use crate::{
    client::problem::Problem,
    key::{Fingerprint, content_digest},
    observe::Outcome,
    record::{Record, UnreadableRecord},
};

/// The parts of a request that are known before its body is read.
pub(super) struct StreamedHead {
    /// The SHA-256 of the body, as the client says.
    pub(super) digest: Option<[u8; 32]>,
    /// The fingerprint without that. Known when a claim is asked for.
    pub(super) fingerprint: Cell<Fingerprint>,
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Notes what the client says of its body.
    pub(super) fn read_digest(&mut self) -> Result<(), Problem> {
        let digest = content_digest(self.pending.head().headers).map_err(|_| Problem::InvalidDigest)?;
        let fingerprint = Cell::new(Fingerprint::from_bytes([0; Fingerprint::LENGTH]));
        self.streamed = Some(Box::new(StreamedHead { digest, fingerprint }));
        Ok(())
    }

    /// Whether the body is that of the request whose response the record has. It is read to its end in any case: a response
    /// to an unread body would cost the client its connection, and perhaps the response.
    pub(super) async fn compare_body(&mut self, record: &Record) -> Result<Result<(), Problem>, UnreadableRecord> {
        let first = record.request_digest()?;
        // A layer outside may decode the body, whose length is then another one.
        let is_encoded = self.pending.head().headers.iter().any(|(name, _)| name == CONTENT_ENCODING);
        if let Some(first) = first {
            let has_length = |length| length == first.length || is_encoded;
            let is_same = self.streamed.as_ref().is_none_or(|own| first.head.compare(&own.fingerprint.get()).is_same());
            if !is_same || !self.body.announced_length().is_none_or(has_length) {
                return Ok(Err(Problem::KeyReused));
            }
        }
        let read = self.upload(first.map_or(u64::MAX, |first| first.length)).settle().await;
        Ok(match read {
            Ok(read) if first.is_none_or(|first| first.is_same(&read)) => Ok(()),
            Ok(_) | Err(Unsettled::Unread) => Err(Problem::KeyReused),
            Err(why) => Err(why.refusal()),
        })
    }

    /// The body for the handler.
    pub(super) fn payload(&mut self) -> Payload {
        if !self.config.streams() || self.config.settings.is_observed() {
            return self.body.take_payload();
        }
        let upload = self.upload(self.config.settings.max_request_body as u64);
        let payload = if self.body.is_upgrade() { self.body.take_payload() } else { upload.payload() };
        self.operation.upload = Some(upload);
        payload
    }

    /// `most`: how many bytes are read of what nobody reads.
    fn upload(&mut self, most: u64) -> Upload {
        let (digest, head) = match &self.streamed {
            Some(head) => (head.digest, head.fingerprint.get()),
            None => (None, Fingerprint::from_bytes([0; Fingerprint::LENGTH])),
        };
        // The bytes after the head of an upgrade are no body.
        let payload = if self.body.is_upgrade() { Payload::None } else { self.body.take_payload() };
        Upload::new(payload, head, digest, self.config.settings.limits.body_idle_timeout, most)
    }

    /// Finds out what the body was, once the handler has answered. Where that can't be known, the response is not stored.
    /// A body that is still in use (mostly by the body of the response) is not waited for here.
    pub(super) async fn settle_body(&mut self, ended: &capture::Ended<B>) -> Result<(), Problem> {
        let Some(upload) = &self.operation.upload else { return Ok(()) };
        let is_stored = capture::may_be_stored(ended, &self.config.settings);
        let is_refused = upload.so_far().is_err_and(|why| why.problem().is_some());
        let is_response = matches!(ended, Ok(Ok(_)));
        // The effects of a handler that panicked are not known, whatever the body was.
        if ended.is_err() || !is_refused && (!is_stored || is_response && !upload.is_left()) {
            return Ok(());
        }
        self.operation.settle(true).await.or_else(|why| why.problem().map_or(Ok(()), Err))
    }

    /// Reads the body of a request that doesn't run, and whose record will have a response.
    pub(super) async fn settle_unread(&mut self) -> Result<(), Problem> {
        if !self.config.streams() {
            return Ok(());
        }
        self.operation.upload = Some(self.upload(u64::MAX));
        self.operation.settle(true).await.map_err(Unsettled::refusal)
    }
}

impl Operation {
    /// Finds out what the body of the request was, for the record. Where that is not known, the claim ends. `waits`: for
    /// whoever still has the body.
    pub(super) async fn settle(&mut self, waits: bool) -> Result<(), Unsettled> {
        let Some(upload) = self.upload.take() else { return Ok(()) };
        let why = match if waits || upload.is_left() { upload.settle().await } else { upload.so_far() } {
            Ok(digest) => {
                if let Some(held) = &mut self.held {
                    held.of_request(digest);
                }
                return Ok(());
            }
            Err(why) => why,
        };
        tracing::warn!(?why, "the body of a request is not known: its response is not stored");
        self.upload = Some(upload);
        self.fail().await;
        Err(why)
    }

    /// Ends the claim of an operation whose response is not stored, although its handler has ended. The key is free where
    /// the handler knew that the body was not what it should be. Otherwise it may have done its work, which is for
    /// `on_unknown` to judge.
    pub(super) async fn fail(&mut self) {
        let told = self.upload.take().filter(Upload::is_told);
        let problem = told.as_ref().and_then(|upload| upload.so_far().err()?.problem());
        self.recorder.outcome(problem.map_or(Outcome::NotStored, Problem::outcome));
        match (self.held.take(), told) {
            (Some(held), Some(_)) => held.release().await,
            (Some(held), None) => held.fail().await,
            (None, _) => {}
        }
    }
}
