//! Reads what the scripts answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bb8_redis::redis::Value;

use crate::{
    record::Record,
    store::{Step, StoreError},
};

/// The answer of a script: a code, then the values that belong to the code. The legend is at the top of each script.
pub(super) type Reply = Vec<Value>;

pub(super) trait ReplyExt {
    fn code(&self) -> Result<&[u8], StoreError>;
    fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError>;
    fn record(&self, at: usize) -> Result<Option<Record>, StoreError>;
    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, StoreError>;

    /// Bytes of a fixed length. `None`: there are none, or another number.
    fn array<const N: usize>(&self, at: usize) -> Result<Option<[u8; N]>, StoreError> {
        Ok(self.bytes(at)?.and_then(|bytes| bytes.try_into().ok()))
    }

    fn text(&self, at: usize) -> Result<Option<&str>, StoreError> {
        let text = self.bytes(at)?.map(str::from_utf8).transpose();
        text.map_err(|_| StoreError::foreign("bytes where a text belongs"))
    }

    /// Names, results and moments of steps, from there to the end.
    fn steps(&self, from: usize) -> Result<Vec<Step>, StoreError>;

    /// A duration in milliseconds. A negative number is zero.
    fn millis(&self, at: usize) -> Result<Duration, StoreError> {
        Ok(Duration::from_millis(self.number::<i64>(at)?.max(0).unsigned_abs()))
    }

    /// A time in milliseconds since the epoch. 0: the record does not have it.
    fn time(&self, at: usize) -> Result<Option<SystemTime>, StoreError> {
        let since_epoch = self.millis(at)?;
        Ok((!since_epoch.is_zero()).then(|| UNIX_EPOCH + since_epoch))
    }
}

impl ReplyExt for Reply {
    fn code(&self) -> Result<&[u8], StoreError> {
        match self.first() {
            Some(Value::BulkString(code)) => Ok(code),
            _ => Err(StoreError::foreign("an answer without a code")),
        }
    }

    fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let number = match self.get(at) {
            Some(Value::Int(number)) => T::try_from(*number).ok(),
            _ => None,
        };
        number.ok_or(StoreError::foreign("a text where a number belongs"))
    }

    fn record(&self, at: usize) -> Result<Option<Record>, StoreError> {
        let bytes = self.bytes(at)?.map(|bytes| Record::from_bytes(bytes.to_vec().into()));
        Ok(bytes.transpose()?)
    }

    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, StoreError> {
        match self.get(at) {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(StoreError::foreign("a number where bytes belong")),
        }
    }

    fn steps(&self, from: usize) -> Result<Vec<Step>, StoreError> {
        let step = |at: usize| {
            let name = self.text(at)?.ok_or(StoreError::foreign("a step without a name"))?;
            let step = match self.bytes(at + 1)? {
                Some(result) => Step::done(name, result.to_vec()),
                None => Step::started(name),
            };
            let moment = self.text(at + 2)?.and_then(|moment| moment.parse().ok()).map(Duration::from_millis);
            Ok(step.at(moment.and_then(|since_epoch| UNIX_EPOCH.checked_add(since_epoch))))
        };
        (from..self.len()).step_by(3).map(step).collect()
    }
}
