//! The mutex of the memory store: parking_lot's, or under `--cfg shuttle` one whose schedules a test explores.

#[cfg(not(shuttle))]
pub(crate) use parking_lot::Mutex;

#[cfg(shuttle)]
pub(crate) use self::explored::Mutex;

#[cfg(shuttle)]
mod explored {
    use shuttle::sync::{self, MutexGuard};

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no test panics under the lock")
        }
    }
}
