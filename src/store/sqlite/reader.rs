//! The thread that reads: looks into the file, and finds out when another process has changed it.

use std::{
    sync::{
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use super::{
    connection::{open_reader, pragma},
    engine::{Failure, Look, Shared},
    sessions::SessionId,
    view::View,
};

/// How often the file's version is looked at while requests wait.
const LOOK: Duration = Duration::from_millis(10);

/// The thread that reads.
pub(super) fn read(shared: &Shared, looks: &Receiver<Look>) {
    let mut connection = None;
    let (mut version, mut looked) = (0_i64, Instant::now());
    loop {
        let look = if shared.waiters.is_empty() {
            looks.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            looks.recv_timeout(LOOK)
        };
        match look {
            Ok(look) => {
                let opened = match &mut connection {
                    Some(opened) => Ok(&*opened),
                    none => open_reader(&shared.file, shared.timeout).map(|opened| &*none.insert(opened)),
                };
                match opened {
                    Ok(connection) => {
                        let own = shared.session.load(Relaxed);
                        let own = (own != 0).then_some(SessionId(own));
                        let (file, missing) = (&shared.file, &shared.missing);
                        look(Ok(View { connection, file, own, missing, now: shared.time() }));
                    }
                    Err(error) => look(Err(&Failure::of(&error))),
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Also while there is always something to look at.
        if let Some(connection) = &connection
            && looked.elapsed() >= LOOK
            && !shared.waiters.is_empty()
        {
            looked = Instant::now();
            // `data_version` changes when another connection has committed.
            if let Ok(now) = pragma::<i64>(connection, "data_version")
                && now != version
            {
                version = now;
                shared.waiters.wake_all();
            }
        }
    }
}
