//! Requests whose bodies are not read before their keys are claimed (`body = stream`).

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
};

use super::{
    request::{Unsettled, Upload},
    service::Governed,
};
use crate::{
    client::problem::Problem,
    key::content_digest,
    observe::Outcome,
    record::{Record, UnreadableRecord},
};

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Notes what the client says of its body.
    pub(super) fn read_digest(&mut self) -> Result<(), Problem> {
        let digest = content_digest(self.pending.head().headers).map_err(|_| Problem::InvalidDigest)?;
        self.content_digest = digest.map(Box::new);
        Ok(())
    }

    /// Whether the body is that of the request whose response the record has. It is read to its end in any case: a response
    /// to an unread body would cost the client its connection, and perhaps the response.
    pub(super) async fn compare_body(&mut self, record: &Record) -> Result<Result<(), Problem>, UnreadableRecord> {
        let first = record.request_digest()?;
        if let (Some(first), Some(length)) = (first, self.body.announced_length())
            && first.length != length
        {
            return Ok(Err(Problem::KeyReused));
        }
        let read = self.upload(first.map_or(u64::MAX, |first| first.length)).settle().await;
        Ok(match read {
            Ok(read) if first.is_none_or(|first| first == read) => Ok(()),
            Ok(_) | Err(Unsettled::Unread) => Err(Problem::KeyReused),
            Err(why) => Err(why.problem().unwrap_or(Problem::UnreadableBody)),
        })
    }

    /// The body for the handler.
    pub(super) fn payload(&mut self) -> Payload {
        if !self.config.streams() || self.config.settings.is_observed() || self.body.is_upgrade() {
            return self.body.take_payload();
        }
        let upload = self.upload(self.config.settings.max_request_body as u64);
        let payload = upload.payload();
        self.operation.upload = Some(upload);
        payload
    }

    /// `most`: how many bytes are read of what nobody reads.
    fn upload(&mut self, most: u64) -> Upload {
        let digest = self.content_digest.as_deref().copied();
        Upload::new(self.body.take_payload(), digest, self.config.settings.limits.body_idle_timeout, most)
    }

    /// Finds out what the body was, once the handler has answered. Where that can't be known, the response is not stored.
    /// `is_stored`: whether it would be stored otherwise.
    pub(super) async fn settle_body(&mut self, is_stored: bool) -> Result<(), Problem> {
        let Some(upload) = self.operation.upload.take() else { return Ok(()) };
        let why = match if is_stored { upload.settle().await } else { upload.so_far() } {
            Ok(digest) => {
                if let Some(held) = &mut self.operation.held {
                    held.of_request(digest);
                }
                return Ok(());
            }
            Err(why) => why,
        };
        let problem = why.problem();
        if problem.is_none() && !is_stored {
            return Ok(());
        }
        if let Some(held) = self.operation.held.take() {
            tracing::warn!(?why, "the body of a request is not known: its response is not stored, and its key is free");
            held.release().await;
        }
        self.operation.recorder.outcome(problem.map_or(Outcome::NotStored, Problem::outcome));
        problem.map_or(Ok(()), Err)
    }
}
