//! Reads what the scripts answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bb8_redis::redis::Value;

use crate::{
    record::Record,
    store::{OwnerToken, StoreError},
};

/// The answer of a script: a code, then the values that belong to the code. The legend is at the top of each script.
pub(super) type Reply = Vec<Value>;

pub(super) trait ReplyExt {
    fn code(&self) -> Result<&[u8], StoreError>;
    fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError>;
    fn record(&self, at: usize) -> Result<Option<Record>, StoreError>;
    fn token(&self, at: usize) -> Result<Option<OwnerToken>, StoreError>;

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
        match self.get(at) {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => Ok(Some(Record::from_bytes(bytes.clone().into())?)),
            Some(_) => Err(StoreError::foreign("a number where a response belongs")),
        }
    }

    fn token(&self, at: usize) -> Result<Option<OwnerToken>, StoreError> {
        match self.get(at) {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => Ok(bytes.as_slice().try_into().ok().map(OwnerToken::from_bytes)),
            Some(_) => Err(StoreError::foreign("a number where an owner token belongs")),
        }
    }
}
